"""What a run was made from: settings, weights, inputs and programs, as JSON beside the clip."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ltx2rt
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.kernels.selection import use_reference
from ltx2rt.media.exr import frames_in
from ltx2rt.media.output_file import OutputFile
from ltx2rt.paths import read_text
from ltx2rt.spelling import spelled
from ltx2rt.weights.fingerprint import fingerprint

log = logging.getLogger(__name__)

FORMAT = "ltx2rt-sidecar"
FORMAT_VERSION = 1
_PACKAGES = ("mlx", "numpy", "av")


@dataclass(frozen=True)
class Record:
    """Everything that decides the bits of a clip.

    Attributes:
        files: arguments of `load` as JSON values.
        settings: resolved settings of the call as JSON values, without those that have no meaning for the pipeline.
        weights: path -> fingerprint of every weight file.
        inputs: path -> SHA-256 of every image, sound, video and embedding file.
        in_memory: name -> SHA-256 of every input that was given in memory; such a run cannot be repeated from files.
        environment: versions of the programs and which kernels ran.
        result: what came out: frames, size, enhanced prompt.
    """

    files: Mapping[str, Any]
    settings: Mapping[str, Any]
    weights: Mapping[str, str]
    inputs: Mapping[str, str]
    environment: Mapping[str, str]
    result: Mapping[str, Any] = field(default_factory=dict)
    in_memory: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        files: Mapping[str, Any],
        settings: Mapping[str, Any],
        weights: Sequence[Path],
        inputs: Sequence[Path],
        in_memory: Mapping[str, str] | None = None,
    ) -> Record:
        """The record of a run that is about to begin."""
        return cls(
            files=files,
            settings=settings,
            weights={str(path.absolute()): fingerprint(path) for path in weights},
            inputs={str(path.absolute()): sha256(path) for path in inputs},
            environment=environment(),
            in_memory=in_memory or {},
        )

    def differences(self, other: Record) -> list[str]:
        """What differs in ``other``, in words; results do not count."""
        found = []
        for name in ("files", "settings", "weights", "inputs", "in_memory", "environment"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key in sorted({*mine, *theirs}):
                if mine.get(key) != theirs.get(key):
                    found.append(f"{key} (was {mine.get(key)!r}, is {theirs.get(key)!r})")
        return found

    def require_same_sources(self, other: Record) -> None:
        """Check that weights and inputs which both runs use are the same; other programs are only worth a warning.

        Raises:
            UsageError: a file has changed.
        """
        for used, saved in ((self.weights, other.weights), (self.inputs, other.inputs)):
            changed = [path for path in used if path in saved and used[path] != saved[path]]
            if changed:
                raise UsageError(
                    f"{changed[0]} is not the file that the repeated run used; restore it, or run without "
                    f"{spelled('repeated')}."
                )
        if self.in_memory != other.in_memory:
            names = sorted({*self.in_memory, *other.in_memory})
            changed = [name for name in names if self.in_memory.get(name) != other.in_memory.get(name)]
            raise UsageError(
                f"{changed[0]} in memory is not what the repeated run used; give the same, or run without "
                f"{spelled('repeated')}."
            )
        for name, version in other.environment.items():
            mine = self.environment.get(name)
            if mine != version:
                log.warning("the repeated run used %s %s, this is %s: bits may differ", name, version, mine)

    def require_files(self, origin: str) -> None:
        """Raise UsageError when a part of the run lay in memory; ``origin`` is the file of this record."""
        if self.in_memory:
            raise UsageError(
                f"{origin} is of a run from Python whose {', '.join(self.in_memory)} lay in memory: files cannot "
                "repeat it; give the same objects to the pipeline in Python."
            )

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "files": dict(self.files),
            "settings": dict(self.settings),
            "weights": dict(self.weights),
            "inputs": dict(self.inputs),
            **({"in_memory": dict(self.in_memory)} if self.in_memory else {}),
            "environment": dict(self.environment),
            "result": dict(self.result),
        }


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def environment() -> dict[str, str]:
    """Versions of what takes part in making the bits."""
    return {
        "ltx2rt": ltx2rt.__version__,
        **_versions(),
        "machine": platform.machine(),
        "kernels": "reference" if use_reference() else "compiled",
    }


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of the names and the contents of the EXR frames in a folder.

    Raises:
        MediaError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for part in frames_in(path) if path.is_dir() else [path]:
            if part != path:
                digest.update(os.fsencode(part.name))
            with part.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}; check the path.") from error


def sidecar_path(output: Path) -> Path:
    """``clip.mp4`` -> ``clip.mp4.json``."""
    return output.with_name(f"{output.name}.json")


def write_record(path: Path, record: Record, output: Mapping[str, Any] | None = None) -> None:
    """Write a record; the file appears only when complete.

    Args:
        path: the file.
        record: what to write.
        output: how the clip was written, under ``output``.

    Raises:
        MediaError: the file cannot be written.
    """
    content = record.as_dict() | ({} if output is None else {"output": dict(output)})
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with OutputFile(path) as file:
        # Bytes of names that are not UTF-8 are lone surrogates, which JSON can only escape.
        file.file.write(text.encode("utf-8", "backslashreplace"))


def read_record(path: Path) -> tuple[Record, dict[str, Any]]:
    """The record and the output settings of a sidecar file.

    Raises:
        UsageError: the file is missing or is no sidecar.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give the .json file beside a clip.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); give the .json file beside a clip.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path} is not a sidecar file of ltx2rt; give the .json file beside a clip.")
    if content.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{path} has sidecar format {content.get('format_version')}, this ltx2rt reads {FORMAT_VERSION}."
        )
    sections = ("files", "settings", "weights", "inputs", "environment")
    damaged = [name for name in sections if not isinstance(content.get(name), dict)]
    damaged += [name for name in ("result", "output", "in_memory") if not isinstance(content.get(name, {}), dict)]
    if damaged:
        raise UsageError(f"{path} lacks {', '.join(damaged)}; the sidecar file is damaged.")
    more = {name: content.get(name, {}) for name in ("result", "in_memory")}
    record = Record(**{name: content[name] for name in sections}, **more)
    return record, dict(content.get("output", {}))

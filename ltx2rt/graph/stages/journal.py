"""What a run has already computed, on disk, so that an interrupted run continues with the same bits."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

log = logging.getLogger(__name__)

Arrays = Mapping[str, mx.array | Array]


class Journal:
    """Results under names, one safetensors file each.

    A run draws its noise and steps its samplers again from the start; only what models compute is read back. The
    arithmetic between is exact and cheap, so the state at the point of interruption is the same to the last bit.

    Args:
        folder: exists, and holds nothing but this run's files.
        prefix: of the names.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder
        self._prefix = prefix
        self._whole: Journal = self
        self._is_full = False

    def part(self, name: str) -> Journal:
        """The results of one part of the run, whose names are told apart from those of others."""
        journal = Journal(self.folder, f"{self._prefix}{name}.")
        journal._whole = self._whole
        return journal

    def get(self, name: str) -> dict[str, mx.array] | None:
        """What was stored under a name; None if nothing was.

        An entry that is damaged is dropped and counts as none, which a warning says: computing it again gives the same
        bits.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with contextlib.closing(SafetensorsFile(path)) as file:
                return {key: file.mlx(key) for key in file.tensors}
        except CheckpointError as error:
            log.warning("a result of the interrupted run is damaged and is computed again: %s", error)
            path.unlink(missing_ok=True)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        """Store arrays; they are there completely or not at all.

        A folder that cannot be written costs the possibility to resume, not the run: it is said once.
        """
        if self._whole._is_full:
            return
        try:
            write_safetensors(self._path(name), arrays)
        except OSError as error:
            self._whole._is_full = True
            log.warning(
                "cannot write to %s: %s; this run cannot be resumed beyond this point",
                self.folder,
                error.strerror or error,
            )

    def drop(self, prefix: str) -> None:
        """Forget the names that begin with ``prefix`` and a dot."""
        start = f"{_file_stem(self._prefix + prefix)}."
        for path in self.folder.iterdir():
            if path.name.startswith(start) and path.name != self._path(prefix).name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def remember(self, name: str, compute: Callable[[], Arrays]) -> dict[str, mx.array]:
        """What was stored under a name, else what ``compute`` gives, which is stored."""
        found = self.get(name)
        if found is not None:
            return found
        computed = {key: value if isinstance(value, mx.array) else mx.array(value) for key, value in compute().items()}
        self.put(name, computed)
        return computed

    def _path(self, name: str) -> Path:
        return self.folder / f"{_file_stem(self._prefix + name)}.safetensors"


def _file_stem(name: str) -> str:
    return name.replace(" ", "-")

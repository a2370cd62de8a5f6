"""Golden cases of model folders: what each file is, what is taken for it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.verify.golden import Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets.parts import OPTIONAL
from ltx2rt.weights.sets.resolution import ModelSet, resolve

_READ = {"generation", "components", "needs", "takes", "error", "candidates"}
_FOR_PEOPLE = {"why"}
# Words of ``needs`` -> the setting of the part.
_ROLES = {"text encoder": "text_encoder", "projection": "text_projection", "video vae": "video_vae"}
_ROLES |= {"audio vae": "audio_vae", "vocoder": "vocoder", "connectors": "connectors"}


def check_folder(folder: Path, expected: GoldenFile) -> Iterator[Check]:
    """Everything that ``expected`` says of the files of a folder; the others must be recognised."""
    names = expected.keys()
    for name in names:
        entry: dict[str, Any] = expected.entry(name)
        strange = sorted(entry.keys() - _READ - _FOR_PEOPLE)
        if strange:
            raise KeyError(f"{expected.name} says {', '.join(strange)} of {name}, which no case reads")
        yield from _check(folder, name, entry)
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        if name not in names:
            yield _is(f"{name} is recognised", inspect(path).kind != "", True)


def _check(folder: Path, name: str, entry: dict[str, Any]) -> Iterator[Check]:
    path = folder / name
    if "candidates" in entry:
        said = _error_of(lambda: resolve(path, {}))
        listed = sum(str(candidate) in said for candidate in path.rglob("*.safetensors"))
        yield _is(f"{name}: files named in {said!r}", listed, entry["candidates"])
        return
    if "components" not in entry:
        said = _error_of(lambda: Checkpoint.open(path))
        yield _is(f"{name} is named in {said!r}", path.name in said, "error" in entry)
        return
    checkpoint = Checkpoint.open(path)
    yield _is(f"{name}: components {sorted(checkpoint.components)}", checkpoint.components, set(entry["components"]))
    if "generation" not in entry:
        return
    generation = "" if checkpoint.generation is None else checkpoint.generation.name
    yield _is(f"{name}: generation {generation}", generation, entry["generation"])
    model = resolve(path, {})
    if "takes" in entry:
        taken = sorted(_files(folder, model) - {name})
        yield _is(f"{name} takes {taken}", taken, sorted(entry["takes"]))
    if "error" in entry:
        yield from _gap(name, entry["error"], entry["generation"], model)
    for need in entry.get("needs", ()):
        yield from _need(folder, name, need, model)


def _gap(name: str, error: str, generation: str, model: ModelSet) -> Iterator[Check]:
    """The part that the sentence ``error`` says to be missing is, and what is said about it names the generation."""
    for setting in (setting for words, setting in _ROLES.items() if words in error.partition("(")[0]):
        said = model.gaps.get(setting, "")
        yield _is(f"{name}: {setting} is missing for {generation}: {said!r}", generation in said, True)


def _need(folder: Path, name: str, need: str, model: ModelSet) -> Iterator[Check]:
    """A needed part is missing, or comes from a file; where its kind is told, from one of that kind."""
    for setting in (setting for words, setting in _ROLES.items() if words in need):
        source = model.sources.get(setting)
        yield _is(f"{name}: {setting} is taken or missing", (source is None) == (setting in model.gaps), True)
        if source is not None and "gemma" in need:
            kind = need.split()[0]
            yield _is(f"{name}: {setting} from {source.path.name}, a {kind}", kind in source.path.name, True)


def _files(folder: Path, model: ModelSet) -> set[str]:
    """The files of the parts without which no clip is made."""
    optional = {component for role in OPTIONAL for component in role.components}
    sources = [checkpoint for component, checkpoint in model.sources.items() if component not in optional]
    root = folder.absolute()
    return {file.path.absolute().relative_to(root).as_posix() for checkpoint in sources for file in checkpoint.files}


def _error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except CheckpointError as error:
        return str(error)
    return ""


def _is(name: str, actual: object, expected: object) -> Check:
    """Passes when both are equal."""
    return Check(name, from_numbers(int(actual != expected)), _ZERO, 0.0)


_ZERO: Array = np.zeros(())

"""Opening of a file of weights, whatever its container is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.file_kind import file_kind
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.gguf_shards import open_shards, split_count
from ltx2rt.weights.safetensors import SafetensorsFile
from ltx2rt.weights.tensor_source import WeightFile

# Of GGUF files: LTX-2 transformers of every generation (the last two are what some converters wrote), latent upscalers,
# text encoders. Files that state none are judged by their names.
_ARCHITECTURES = ("ltxv", "ltx2", "ltxv_upscaler", "gemma3", "gemma4", "pig", "cow")


def open_weight_file(path: str | os.PathLike[str]) -> WeightFile:
    """Open a safetensors or GGUF file; its content decides which it is.

    Raises:
        CheckpointError: it is neither, damaged, a GGUF file of another kind of model, or one of several that a GGUF
            model was split into.
    """
    files = open_weight_files([path])
    if len(files) > 1:
        raise CheckpointError(
            f"{path}: one of {len(files)} files that a GGUF model was split into, which are read together as a model "
            "and as nothing else; merge them with llama-gguf-split --merge."
        )
    return files[0]


def open_weight_files(paths: Iterable[str | os.PathLike[str]]) -> list[WeightFile]:
    """Open files, and with one of those that a GGUF model was split into all of them.

    Raises:
        CheckpointError: see `open_weight_file`; a file of a split model is missing.
    """
    found: list[WeightFile] = []
    for path in map(Path, paths):
        if not any(file.path == path for file in found):
            found += _opened(path)
    return found


def _opened(path: Path) -> Sequence[WeightFile]:
    if path.is_dir() or file_kind(path) == "safetensors":
        return [SafetensorsFile(path)]
    file = GgufFile(path)
    files = [file] if split_count(file) == 1 else open_shards(path)
    _require_architecture(files[0])
    return files


def _require_architecture(file: GgufFile) -> None:
    architecture = file.value("general.architecture")
    if architecture is None:
        return
    if not isinstance(architecture, str):
        raise CheckpointError(f"{file.path}: general.architecture must be a text; the file is damaged.")
    if architecture == "clip":
        raise CheckpointError(
            f"{file.path}: GGUF of architecture 'clip', a vision projector (mmproj) and no text encoder; give the GGUF "
            "file of the language model."
        )
    if architecture not in _ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: GGUF of architecture {architecture[:80]!r}, which is neither an LTX-2 transformer ('ltxv') "
            "nor a Gemma text encoder ('gemma3', 'gemma4'); use the GGUF file of one of these."
        )

"""Opening of a file of weights, whatever its container is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.file_kind import file_kind
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.safetensors import SafetensorsFile
from ltx2rt.weights.tensor_source import WeightFile

# Of GGUF files: LTX-2 transformers of every generation (the last two are what some converters wrote), latent upscalers,
# text encoders. Files that state none are judged by their names.
_ARCHITECTURES = ("ltxv", "ltx2", "ltxv_upscaler", "gemma3", "gemma4", "pig", "cow")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def open_weight_file(path: str | os.PathLike[str]) -> WeightFile:
    """Open a safetensors or GGUF file; its content decides which it is.

    Raises:
        CheckpointError: it is neither, damaged, or a GGUF file of another kind of model.
    """
    path = Path(path)
    if path.is_dir() or file_kind(path) == "safetensors":
        return SafetensorsFile(path)
    file = GgufFile(path)
    _require_architecture(file)
    _refuse_shard(file)
    return file


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
            "nor a Gemma text encoder ('gemma3', 'gemma4')."
        )


def _refuse_shard(file: GgufFile) -> None:
    """GGUF shards are refused: none of these models is published so."""
    count = file.value("split.count")
    if isinstance(count, int) and count > 1:
        named = _SHARD.search(file.path.name)
        which = f"number {int(named[1])} of {count}" if named else f"one of {count}"
        raise CheckpointError(
            f"{file.path}: {which} files that a GGUF model was split into, which is not supported; merge them with "
            "llama-gguf-split --merge."
        )

"""What a mutant is given to: `inspect`, the tokenizer, LoRAs, and a checkpoint with each of its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ltx2rt.errors import Ltx2rtError
from ltx2rt.inspection import inspect
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora.keys import is_lora
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.tensor_source import WeightFile
from ltx2rt.weights.tokenizer import GemmaTokenizer
from ltx2rt.weights.weight_file import open_weight_file

# Of each component, at the most, that are loaded.
_TENSORS = 4


def read(path: Path) -> tuple[WeightFile | None, list[str]]:
    """Everything that a header can reach: (the file, if its header is sound; kinds of what came of it)."""
    try:
        file = open_weight_file(path)
    except Ltx2rtError as error:
        return None, [f"refused: {type(error).__name__}"]
    found = [_result("inspected", lambda: inspect(path, deep=True))]
    if is_lora(file.tensors):
        found.append(_result("LoRA opened", lambda: _load_lora(path)))
    found.append(_result("tokenizer", lambda: GemmaTokenizer.from_path(path).encode("a  a\n")))
    return file, [*found, *_load(path)]


def _result(what: str, act: Callable[[], object]) -> str:
    try:
        act()
    except Ltx2rtError as error:
        return f"{what}: {type(error).__name__}"
    return what


def _load(path: Path) -> list[str]:
    """What came of opening the file as a checkpoint, and of asking for each of its parts."""
    try:
        checkpoint = Checkpoint.open(path)
    except Ltx2rtError as error:
        return [f"opened: {type(error).__name__}"]
    found = ["opened", _result("described", lambda: (checkpoint.generation, checkpoint.variant, checkpoint.config))]
    for component in sorted(checkpoint.components):
        found.append(_result("section", partial(checkpoint.section, component)))
        found.append(_result("formats", partial(checkpoint.formats, component)))
        for name, info in list(checkpoint.names(component).items())[:_TENSORS]:
            linear = name.endswith(".weight") and len(info.shape) == 2
            spec = ParamSpec(name, info.shape, layout="linear" if linear else "as_stored")
            found.append(_result("tensor planned", partial(checkpoint.loaded_bytes, component, [spec])))
            found.append(_result("tensor loaded", partial(checkpoint.load, component, [spec])))
    return found


def _load_lora(path: Path) -> None:
    lora = open_lora(path)
    lora.stated_factor("spatial")
    lora.require_finite()
    for change in list(lora.changes.values())[:_TENSORS]:
        if change.shape and 0 < np.prod(change.shape, dtype=object) < 1 << 20:
            change.begin(0.5, np.ones(change.shape, np.float32))(slice(0, 1))

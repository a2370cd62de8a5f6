"""A LoRA from a path: a file, a folder as PEFT and diffusers save it, or a manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.detection import read_json
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.keys import is_lora
from ltx2rt.weights.lora.scale import CONFIG_FILE
from ltx2rt.weights.manifest import read_manifest
from ltx2rt.weights.markers import read_markers
from ltx2rt.weights.sets.units import followed
from ltx2rt.weights.weight_file import open_weight_file

# As PEFT calls its files.
_PEFT_STEM = "adapter_model"
_NAMES_SHOWN = 5


def open_lora(path: str | os.PathLike[str]) -> LoraFile:
    """Open a LoRA; only headers and alpha values are read.

    Args:
        path: a file, a folder that holds one, or a manifest (``.json``: names, dtypes and shapes without data).

    Raises:
        CheckpointError: there is none, or several; or as `LoraFile`.
    """
    path = followed(Path(path))
    if path.is_dir():
        path = _only_lora(path)
    if path.suffix == ".json":
        tensors, metadata = read_manifest(path)
        return LoraFile(path, tensors, metadata)
    file = open_weight_file(path)
    # A checkpoint is refused as such before its markers are looked at.
    markers = read_markers([file]) if is_lora(file.tensors) else {}
    return LoraFile(path, file.tensors, file.metadata, file, _config_of(path), markers)


def is_lora_path(path: Path) -> bool:
    """Whether there is a LoRA at a path, usable or not, and nothing else."""
    path = followed(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        return bool(found) and all(is_lora(open_weight_file(file).tensors) for file in found)
    if path.suffix == ".json":
        return is_lora(read_manifest(path)[0])
    if not path.is_file():
        return False
    return is_lora(open_weight_file(path).tensors)


def _only_lora(folder: Path) -> Path:
    """The LoRA file of a folder."""
    found = sorted(folder.glob("*.safetensors"))
    loras = [file for file in found if is_lora(open_weight_file(file).tensors)]
    if len(loras) == 1:
        return loras[0]
    if loras:
        names = ", ".join(file.name for file in loras[:_NAMES_SHOWN])
        more = f" and {len(loras) - _NAMES_SHOWN} more" if len(loras) > _NAMES_SHOWN else ""
        raise CheckpointError(f"{folder}: holds {len(loras)} LoRA files ({names}{more}); give one of them.")
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    hint = f"; {pickled[0]} is a pickle, which is refused: convert it to safetensors" if pickled else ""
    other = f"its {len(found)} .safetensors files are none" if found else "no .safetensors file in it"
    raise CheckpointError(f"{folder}: no LoRA in this folder ({other}){hint}; give a LoRA file or a folder with one.")


def _config_of(path: Path) -> Mapping[str, Any] | None:
    """PEFT's description of the adapter in ``path``; None if there is none beside it, or it is that of another file."""
    config = path.with_name(CONFIG_FILE)
    if not config.is_file():
        return None
    alone = sum(1 for _ in path.parent.glob("*.safetensors")) == 1
    return read_json(config) if alone or path.stem == _PEFT_STEM else None

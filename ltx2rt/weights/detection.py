"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError

OFFICIAL = "the official .safetensors file"

_LORA_MARKS = (".lora_A", ".lora_B", ".lora_down", ".lora_up", ".lora.down", ".lora.up")


def is_lora(names: Mapping[str, object]) -> bool:
    """Whether the tensor names are those of a LoRA file."""
    return any(mark in name for name in names for mark in _LORA_MARKS)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model folder, refusing the folder kinds that are not supported.

    Raises:
        CheckpointError: another layout, an index that names missing files, or no weights at all.
    """
    if (folder / "split_model.json").exists():
        raise CheckpointError(
            f"{folder}: a folder converted for another MLX program, which is not supported; use {OFFICIAL}."
        )
    if (folder / "model_index.json").exists():
        raise CheckpointError(f"{folder}: a diffusers folder, which is not supported; use {OFFICIAL}.")
    found = sorted(folder.glob("*.safetensors"))
    if (folder / "config.json").exists() and any(path.name.startswith("transformer") for path in found):
        raise CheckpointError(
            f"{folder}: a folder converted for another MLX program, which is not supported; use {OFFICIAL}."
        )
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return _indexed_files(folder, index)
    if not found:
        raise CheckpointError(f"{folder}: no .safetensors file in this folder; give a weight file or a Gemma folder.")
    return found


def _indexed_files(folder: Path, index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names; download it again.")
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: weight_map names files outside its folder; download it again.")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} weight files are missing ({', '.join(missing[:10])})."
        )
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; `CheckpointError` if it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, got a {type(value).__name__}.")
    return value

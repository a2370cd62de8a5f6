"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.safetensors import SafetensorsFile
from ltx2rt.weights.tensor_source import TensorInfo

OFFICIAL = "the official .safetensors file"

_LORA_MARKS = (".lora_A", ".lora_B", ".lora_down", ".lora_up", ".lora.down", ".lora.up")


def is_lora(names: Mapping[str, object]) -> bool:
    """Whether the tensor names are those of a LoRA file."""
    return any(mark in name for name in names for mark in _LORA_MARKS)


def refuse_foreign_file(path: Path) -> None:
    """Raise `CheckpointError` for files that are recognisably something other than safetensors."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot open the weight file ({error.strerror}); check the path.") from error
    if magic == b"GGUF":
        raise CheckpointError(f"{path}: a GGUF file, which is not supported; use {OFFICIAL} (bf16 or fp8).")
    if magic == b"PK\x03\x04" or (magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise CheckpointError(
            f"{path}: a pickle or zip file (PyTorch .pt/.ckpt/.bin), which can run code when read and is refused; "
            f"use {OFFICIAL}."
        )


def refuse_foreign_tensors(path: Path, tensors: Mapping[str, TensorInfo], file: SafetensorsFile | None) -> None:
    """Raise `CheckpointError` when tensor names or dtypes show a layout or quantisation that is not supported.

    Args:
        path: named in the error.
        tensors: name -> entry.
        file: the open file, to look into quantisation markers; None when only names are known.
    """
    for name, info in tensors.items():
        if name.endswith(".weight_scale_2"):
            raise CheckpointError(
                f"{path}: an NVFP4 checkpoint (tensor {name!r}), which is not supported; use the bf16 or fp8 file."
            )
        if name.endswith(".weight") and info.dtype == "I8":
            raise CheckpointError(
                f"{path}: tensor {name!r} is I8: a ComfyUI int8 (convrot) checkpoint, which is not supported; "
                "use the bf16 file."
            )
        if name.endswith(".comfy_quant") and file is not None:
            kind = _comfy_format(file, name)
            if kind != "float8_e4m3fn":
                raise CheckpointError(
                    f"{path}: tensor {name!r} declares the ComfyUI quantisation {kind!r}; "
                    "only float8_e4m3fn is supported. Use the bf16 or fp8 file."
                )
        if ".ff.proj_in." in name or ".timestep_embedder.linear1." in name or name.endswith("._mean_of_means"):
            raise CheckpointError(
                f"{path}: a checkpoint converted for another MLX program (tensor {name!r}), which is not supported; "
                f"use {OFFICIAL}."
            )
        if name.startswith(("time_embed.", "transformer.time_embed.", "audio_time_embed.")) or ".norm_q." in name:
            raise CheckpointError(
                f"{path}: diffusers layout (tensor {name!r}), which is not supported; use {OFFICIAL}."
            )


def _comfy_format(file: SafetensorsFile, name: str) -> Any:
    try:
        declared = json.loads(file.bytes(name).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: tensor {name!r} should hold JSON ({error}).") from error
    if not isinstance(declared, dict):
        return declared
    return "int8 convrot" if declared.get("convrot") else declared.get("format")


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

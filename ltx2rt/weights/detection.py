"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.formats import MARKERS
from ltx2rt.weights.formats.linear_format import MARKER
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile

OFFICIAL = "the official .safetensors file"


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


def refuse_foreign_tensors(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise `CheckpointError` when tensor names or dtypes show a layout or quantisation that is not supported.

    Args:
        path: named in the error.
        tensors: name -> entry.
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
        if ".ff.proj_in." in name or ".timestep_embedder.linear1." in name or name.endswith("._mean_of_means"):
            raise CheckpointError(
                f"{path}: a checkpoint converted for another MLX program (tensor {name!r}), which is not supported; "
                f"use {OFFICIAL}."
            )
        if name.startswith(("time_embed.", "transformer.time_embed.", "audio_time_embed.")) or ".norm_q." in name:
            raise CheckpointError(
                f"{path}: diffusers layout (tensor {name!r}), which is not supported; use {OFFICIAL}."
            )


def read_markers(file: WeightFile) -> dict[str, dict[str, Any]]:
    """Name of a weight -> what its marker declares, for every weight of a file that has one.

    Raises:
        CheckpointError: a marker is no JSON object, or declares a format that is not supported.
    """
    markers = {}
    for name in file.tensors:
        if name.endswith(MARKER):
            markers[name.removesuffix(MARKER) + ".weight"] = _marker(file, name)
    return markers


def _marker(file: WeightFile, name: str) -> dict[str, Any]:
    try:
        declared = json.loads(file.bytes(name).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: tensor {name!r} should hold JSON ({error}).") from error
    kind = declared.get("format") if isinstance(declared, dict) else declared
    if isinstance(declared, dict) and declared.get("convrot"):
        kind = "int8 convrot"
    if not isinstance(declared, dict) or kind not in MARKERS:
        raise CheckpointError(
            f"{file.path}: tensor {name!r} declares the ComfyUI quantisation {kind!r}; supported are "
            f"{', '.join(MARKERS)}. Use the bf16 or fp8 file."
        )
    return declared


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

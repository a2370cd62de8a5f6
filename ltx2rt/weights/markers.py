"""What a weight file declares about the formats of its weights, tensor by tensor.

Three kinds of declarations exist: a U8 tensor ``X.comfy_quant`` with JSON beside the weight ``X.weight``; the header
entry ``_quantization_metadata`` of safetensors files, which lists layers; and a ``comfy.gguf.quant.X.weight`` entry of
GGUF files. The older ``scaled_fp8`` tensor declares something about every 8-bit float weight of a file.

Source: Comfy-Org/ComfyUI QUANTIZATION.md @ 311c014.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile

Marker = dict[str, Any]

# Suffix of the U8 tensor with JSON.
MARKER = ".comfy_quant"
# Key, in what `read_markers` gives, of the kind of 8-bit floats that a ``scaled_fp8`` tensor names.
FILE_KIND = "scaled_fp8"
MAX_MARKER_BYTES = 65536

_METADATA = "_quantization_metadata"
GGUF_MARKER = "comfy.gguf.quant."
# What may precede the names of a component's tensors in a file and not in its metadata, or the other way round.
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "net.", "model.", "text_encoder.")
_ALIASES = {
    "int8": "int8_tensorwise",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "nvfp4_mixed": "nvfp4",
    "w4a8": "asym_w4a8_int8",
    "w4a8_int8": "asym_w4a8_int8",
    "w4a16": "awq_w4a16",
    "awq": "awq_w4a16",
}


def read_markers(files: Sequence[WeightFile]) -> dict[str, Marker]:
    """Name of a weight -> its parameters, ``format`` among them if one is named, for every weight that has a marker.

    A tensor beside the weight wins over the header. Names of formats are not checked here.

    Args:
        files: of one model. What one of its shards declares may be about a weight in another.

    Raises:
        CheckpointError: a marker is too long, is no JSON object, or belongs to no weight.
    """
    tensors = {name: info for file in files for name, info in file.tensors.items()}
    markers: dict[str, Marker] = {}
    for file in files:
        markers |= _of_metadata(file, tensors) | _of_gguf(file)
    for file in files:
        for name in file.tensors:
            if not name.endswith(MARKER):
                continue
            weight = name.removesuffix(MARKER) + ".weight"
            marker = _of_tensor(file, name)
            if weight not in tensors:
                raise CheckpointError(
                    f"{file.path}: tensor {name!r} declares the format of {weight!r}, which is missing; download the "
                    "file again."
                )
            markers[weight] = marker
    for name, kind in _scaled_files(tensors).items():
        for weight, info in tensors.items():
            eight_bits = info.dtype in ("F8_E4M3", "F8_E5M2", "U8") and len(info.shape) == 2
            if weight.startswith(name) and weight.endswith(".weight") and eight_bits:
                markers.setdefault(weight, {})[FILE_KIND] = kind
    return markers


def _of_tensor(file: WeightFile, name: str) -> Marker:
    info = file.tensors[name]
    where = f"{file.path}: tensor {name!r} (comfy_quant)"
    if info.nbytes > MAX_MARKER_BYTES:
        raise CheckpointError(f"{where} holds {_too_many(info.nbytes)}")
    return _parameters(_parsed(file.bytes(name), where), where)


def _too_many(count: int) -> str:
    return f"{count} bytes; at most {MAX_MARKER_BYTES} are accepted; convert or download the file again."


def _of_metadata(file: WeightFile, names: Container[str]) -> dict[str, Marker]:
    text = file.metadata.get(_METADATA)
    if text is None:
        return {}
    where = f"{file.path}: its {_METADATA}"
    declared = _parsed(text.encode(), where)
    layers = declared.get("layers", {}) if isinstance(declared, dict) else None
    if not isinstance(layers, dict):
        raise CheckpointError(f"{where} holds no JSON object of layers; convert or download the file again.")
    markers = {}
    for layer, value in layers.items():
        weight = _weight_name(layer, names)
        if weight is None:
            raise CheckpointError(
                f"{where} names the layer {layer!r}, whose weight is missing; convert or download the file again."
            )
        markers[weight] = _parameters({"format": value} if isinstance(value, str) else value, f"{where}: {layer}")
    return markers


def _weight_name(layer: str, names: Container[str]) -> str | None:
    """Name of the weight of a layer; the file or the metadata may have a prefix that the other lacks."""
    weight = f"{layer}.weight"
    spelled = [weight, *(prefix + weight for prefix in _PREFIXES)]
    spelled += [weight.removeprefix(prefix) for prefix in _PREFIXES if weight.startswith(prefix)]
    return next((name for name in spelled if name in names), None)


def _of_gguf(file: WeightFile) -> dict[str, Marker]:
    """The markers of a GGUF file, brought into the words of safetensors files."""
    markers = {}
    for key, text in file.metadata.items():
        if not key.startswith(GGUF_MARKER):
            continue
        name, where = key.removeprefix(GGUF_MARKER), f"{file.path}: {key}"
        if name not in file.tensors:
            raise CheckpointError(f"{where} belongs to no tensor of the file; convert or download it again.")
        if len(text) > MAX_MARKER_BYTES:
            raise CheckpointError(f"{where} holds {_too_many(len(text))}")
        marker = _parameters(_parsed(text.encode(), where), where)
        if marker.get("format") == "int8_tensorwise":
            # Older files state convrot and hold weights that were not rotated.
            marker["convrot"] = _is_rotated(marker, file.tensors[name].shape)
        elif marker.get("format") == "int4_cr" and marker.get("backing") == "w4a4":
            marker["format"] = "convrot_w4a4"
        markers[name] = marker
    return markers


def _is_rotated(marker: Marker, shape: tuple[int, ...]) -> bool:
    group = marker.get("convrot_groupsize", 256)
    divides = isinstance(group, int) and group > 0 and bool(shape) and shape[-1] % group == 0
    return marker.get("convrot") is True and marker.get("weight_rotated") is True and divides


def _scaled_files(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Prefix -> kind of 8-bit floats of the weights below it, for every ``scaled_fp8`` tensor."""
    return {
        name.removesuffix("scaled_fp8"): "float8_e5m2" if info.dtype == "F8_E5M2" else "float8_e4m3fn"
        for name, info in tensors.items()
        if name == "scaled_fp8" or name.endswith(".scaled_fp8")
    }


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where} is not readable as JSON ({error}); convert or download the file again."
        ) from error


def _parameters(declared: Any, where: str) -> Marker:
    """The parameters of a marker at one level, with the usual name of the format."""
    if not isinstance(declared, dict):
        raise CheckpointError(
            f"{where} holds a JSON {type(declared).__name__}, not an object; convert or download the file again."
        )
    below = declared.get("params")
    marker: Marker = {**(below if isinstance(below, Mapping) else {}), **declared}
    marker.pop("params", None)
    marker.pop(FILE_KIND, None)
    kind = marker.pop("format", None)
    if kind is not None:
        if not isinstance(kind, str):
            raise CheckpointError(f"{where} names the format {kind!r}, which is no text; download the file again.")
        marker["format"] = _ALIASES.get(kind, kind)
    return marker

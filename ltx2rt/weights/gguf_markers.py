"""What a GGUF file declares about the quantisation of its integer tensors, as ComfyUI's markers say it."""

from __future__ import annotations

import json
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.gguf import GgufFile

_KEY = "comfy.gguf.quant."
_MAX_MARKER_BYTES = 65536
_DEFAULT_GROUP = 256


def gguf_markers(file: GgufFile) -> dict[str, dict[str, Any]]:
    """Name of a weight -> its marker, for every weight of a file that the header declares to be quantised.

    A marker is what the ``comfy_quant`` tensor of a safetensors file would hold: ``int8_tensorwise`` or
    ``convrot_w4a4`` with its parameters.

    Raises:
        CheckpointError: the declaration is no JSON object, of a kind that is not supported, or not of a tensor of the
            file.

    Source: the GGUF extension of comfyui-gguf-reboot.
    """
    return {
        key.removeprefix(_KEY): _marker(file, key.removeprefix(_KEY), text)
        for key, text in file.metadata.items()
        if key.startswith(_KEY)
    }


def _marker(file: GgufFile, name: str, text: str) -> dict[str, Any]:
    where = file.where(name)
    if name not in file.tensors:
        raise CheckpointError(f"{where}: {_KEY}{name} declares a quantisation, but there is no such tensor.")
    if len(text) > _MAX_MARKER_BYTES:
        raise CheckpointError(f"{where}: its {_KEY} holds {len(text)} bytes; at most {_MAX_MARKER_BYTES} are accepted.")
    try:
        declared = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its {_KEY} is not readable as JSON ({error}).") from error
    if not isinstance(declared, dict):
        raise CheckpointError(f"{where}: its {_KEY} must hold a JSON object, got a {type(declared).__name__}.")
    kind = declared.get("format")
    group = declared.get("convrot_groupsize", _DEFAULT_GROUP)
    shape = file.tensors[name].shape
    if kind == "int8_tensorwise":
        # Older files declare a rotation that was never applied.
        rotated = declared.get("convrot") is True and declared.get("weight_rotated") is True
        whole = bool(shape) and isinstance(group, int) and group > 0 and shape[-1] % group == 0
        return {"format": kind, "convrot": rotated and whole, "convrot_groupsize": group}
    if kind == "int4_cr" and declared.get("backing") == "w4a4":
        logical = [*shape[:-1], 2 * shape[-1]] if shape else []
        if not shape or declared.get("orig_shape", logical) != logical:
            stated = str(declared.get("orig_shape"))[:80]
            raise CheckpointError(f"{where}: orig_shape {stated} does not go with {list(shape)} bytes.")
        marker = {"format": "convrot_w4a4", "convrot": True, "convrot_groupsize": group}
        return marker | ({"quant_group_size": declared["quant_group_size"]} if "quant_group_size" in declared else {})
    raise CheckpointError(
        f"{where}: quantisation {str(kind)[:80]!r} (retired or unknown) is not supported; supported are "
        "int8_tensorwise, and int4_cr of backing w4a4. Use a file of another type, as Q8_0 or Q4_K."
    )

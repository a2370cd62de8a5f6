"""Quantised files that cannot be read, recognised by the names of their tensors and refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.tensor_source import TensorInfo

_INSTEAD = "use the bf16, fp8, int8 or GGUF file"


class _Foreign(NamedTuple):
    """Tensors whose name ends so, after a dot, are of a weight stored as ``name``."""

    pattern: str
    name: str


# The first that matches names the format.
_FOREIGN = (
    _Foreign(r"weight\._(?:data|scale|shift)|weight_qtype", "optimum-quanto"),
    _Foreign(r"quant_state\.bitsandbytes__nf4|quant_state\.bitsandbytes__fp4", "bitsandbytes (nf4)"),
    _Foreign(
        r"quant_state\.bitsandbytes__\w+|weight\.(?:nested_)?(?:absmax|quant_map)|SCB|weight_format", "bitsandbytes"
    ),
    _Foreign(r"weight\.nf4|nf4", "nf4"),
    _Foreign(r"qweight|qzeros|g_idx", "GPTQ"),
    _Foreign(r"weight_proj_down|weight_proj_up|weight_smooth_factor|smooth_factor|wscales|wtscale", "SVDQuant W4A4"),
    _Foreign(r"svd_up|svd_down", "SDNQ"),
    _Foreign(
        r"weight:\w+|weight\.(?:tensor_impl|layout_tensor|_weight_tensor|original_weight_tensor)\S*|weight_tensor_impl\S*",
        "torchao",
    ),
)


def _after_dot(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{pattern})$")


_ANY = _after_dot("|".join(foreign.pattern for foreign in _FOREIGN))


def refuse_foreign_formats(path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
    """Raise `CheckpointError` when tensor names or metadata show a quantisation that is not supported.

    Args:
        path: named in the error.
        tensors: name -> entry.
        metadata: of the header.
    """
    suspects = [name for name in tensors if _ANY.search(name)]
    for foreign in _FOREIGN if suspects else ():
        pattern = _after_dot(foreign.pattern)
        name = next((name for name in suspects if pattern.search(name)), None)
        if name is not None:
            raise CheckpointError(
                f"{path}: tensor {name!r}: quantised with {foreign.name}, which is not supported; {_INSTEAD}."
            )
    for key, value in metadata.items():
        for text, name in (("sdnq", "SDNQ"), ("torchao", "torchao"), ("svdquant", "SVDQuant W4A4")):
            if text in key.lower() or (key == "quantization_config" and text in value.lower()):
                raise CheckpointError(
                    f"{path}: metadata {key!r}: quantised with {name}, which is not supported; {_INSTEAD}."
                )

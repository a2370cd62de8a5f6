"""What `ltx2rt bench --compare torch` times beside our kernels: the same work with torch, and models of diffusers.

`ltx2rt.bench.rivals` loads this folder from a checkout and asks it for nothing but the names below. torch is imported
here and nowhere in ltx2rt (pip install 'ltx2rt[parity]'); models whose library is not installed are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltx2rt.bench.case import Call, Case, Way

from . import decoders, diffusion_block, kernels, text_layer, transformer_block
from .arrays import to_numpy, torch_module

__all__ = ["product", "set_threads", "to_numpy", "ways"]

_WAYS = {**kernels.WAYS, **transformer_block.WAYS, **text_layer.WAYS, **decoders.WAYS, **diffusion_block.WAYS}


def ways(case: Case, inputs: Any, wanted: Sequence[str]) -> dict[str, Way]:
    """The wanted ways of torch to compute a case from the inputs that its own ways share; none for other cases."""
    make = _WAYS.get(type(case))
    found = {} if make is None else make(case, inputs)
    return {name: way for name, way in found.items() if name in wanted}


def product(dtype: str, rows: int, width: int) -> Call:
    """A small matrix product, (rows, width) with a square weight, to foresee how long larger ones take."""
    torch = torch_module()
    x, w = (torch.ones((n, width), dtype=getattr(torch, dtype)) for n in (rows, width))
    return lambda: torch.nn.functional.linear(x, w)


def set_threads(count: int) -> None:
    torch_module().set_num_threads(count)

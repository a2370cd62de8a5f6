"""What `ltx2rt bench --compare ggml` times beside our kernels: matrix products with ggml's CPU kernels.

`ltx2rt.bench.rivals` loads this folder from a checkout and asks it for nothing but the names below. ggml is imported
here and nowhere in ltx2rt: the package ggml-python (pip install 'ltx2rt[ggml]') builds it for the processor that it is
installed on, with VNNI where that has it. Its products round rows of activations to blocks of 8-bit codes, whatever the
weights are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import GGML, Call, Case, Way
from ltx2rt.bench.linear_cases import FEW_ROWS, LinearCase, LinearInputs, cold_bytes
from ltx2rt.kernels import host, reference

from .products import Product, as_blocks, is_of_blocks

__all__ = ["product", "set_threads", "to_numpy", "ways"]

# Rows of 8-bit integers have no form of ggml's own; its blocks of 8-bit integers are as many bytes and a sixteenth.
_AS_Q8_0 = ("int8-rows", "int8-convrot", "int8-dot", "int8-convrot-dot")

_threads = 1


def ways(case: Case, inputs: Any, wanted: Sequence[str]) -> dict[str, Way]:
    """ggml's way to compute a linear case with weights of GGML's blocks or of 8-bit rows; none for other cases."""
    if GGML not in wanted or not isinstance(case, LinearCase):
        return {}
    if not is_of_blocks(case.form) and case.form not in _AS_Q8_0:
        return {}
    return {GGML: Way(lambda share: _linear(case, inputs))}


def _linear(case: LinearCase, inputs: LinearInputs) -> Call:
    """Every product with a copy of the weight of its own while the rows are few, as `LinearCase` has it."""
    if case.form in _AS_Q8_0:
        form, blocks = "q8_0", as_blocks(_numbers(reference.dequantise(inputs.weight)), "q8_0")
    else:
        form, blocks = case.form, host.to_numpy(inputs.weight.values)
    x, bias = _numbers(inputs.x), _numbers(inputs.bias)
    count = -(-cold_bytes(case.columns * case.depth) // blocks.nbytes) if case.rows <= FEW_ROWS else 1
    turns = itertools.cycle([Product(form, blocks, x, bias, _threads) for _ in range(count)])
    return lambda: next(turns)()


def _numbers(array: mx.array) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(host.to_numpy(array.astype(mx.float32)))


def product(dtype: str, rows: int, width: int) -> Call:
    """A small matrix product, (rows, width) with a square weight, to foresee how long larger ones take."""
    ones = np.ones((max(rows, width), width), np.float32)
    return Product("q8_0", as_blocks(ones[:width], "q8_0"), ones[:rows], ones[0], _threads)


def to_numpy(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return tensor


def set_threads(count: int) -> None:
    global _threads
    _threads = count

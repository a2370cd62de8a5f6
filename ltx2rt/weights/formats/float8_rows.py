"""Matrices of 8-bit floats with a scale per row, as converters of other programs write them."""

from __future__ import annotations

from collections.abc import Callable

from ltx2rt.types import Array
from ltx2rt.weights.formats.linear_format import Encoding, ExpandedFormat, Rows, Stored, scales
from ltx2rt.weights.tensor_source import widen


class Float8Rows(ExpandedFormat):
    """W[n] = value[n] * scale[n] in E4M3 (fn) or E5M2, the scales (N,) or (N, 1). Expanded to bfloat16.

    A matrix of one row is one with a scale per tensor.
    """

    name = "fp8 with row scales"
    companions = (".weight_scale", ".scale_weight")
    markers = ("float8_e4m3fn_rowwise", "float8_e4m3fn", "float8_e5m2")

    def recognises(self, encoding: Encoding) -> bool:
        info = encoding.info
        found = [encoding.companions[suffix].shape for suffix in self.companions if suffix in encoding.companions]
        is_matrix = info.dtype in ("F8_E4M3", "F8_E5M2") and len(info.shape) == 2 and info.shape[0] > 1
        return is_matrix and any(shape in _shapes(info.shape[0]) for shape in found)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        suffix = next(suffix for suffix in self.companions if suffix in stored.companions)
        scale = scales(stored, suffix, _shapes(shape[0]), f"expected are {shape[0]} float scales").reshape(-1, 1)
        raw, dtype = stored.raw(), stored.info.dtype
        return lambda rows: widen(raw[rows], dtype) * scale[rows]


def _shapes(rows: int) -> list[tuple[int, ...]]:
    return [(rows,), (rows, 1)]

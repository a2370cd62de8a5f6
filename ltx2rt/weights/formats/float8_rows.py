"""Matrices of 8-bit floats with a scale per row, as converters of other programs write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.formats.float8 import SCALES, float8_kind
from ltx2rt.weights.formats.linear_format import (
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    row_scales,
    wrong_scales,
)
from ltx2rt.weights.tensor_source import Rows, widen


class Float8Rows(PackedFormat):
    """W[n] = value[n] * scale[n] in E4M3 (fn) or E5M2, the scales (N,) or (N, 1).

    E4M3 stays as it is, E5M2 is expanded to bfloat16. A matrix of one row is one with a scale per tensor.
    """

    name = "fp8 with row scales"
    companions = SCALES
    markers = ("float8_e4m3fn_rowwise", "float8_e4m3fn", "float8_e5m2")
    marked_dtypes = ("F8_E4M3", "F8_E5M2", "U8")

    def recognises(self, encoding: Encoding) -> bool:
        shape, scale = encoding.info.shape, encoding.companion(*SCALES)
        if float8_kind(encoding) is None or scale is None or len(shape) != 2:
            return False
        declared = encoding.declared == "float8_e4m3fn_rowwise"
        return scale[1].shape in _shapes(shape[0]) and (shape[0] > 1 or declared)

    def own_fault(self, encoding: Encoding) -> str | None:
        scale = encoding.companion(*SCALES)
        if scale is None:
            return "it has no weight_scale"
        dtype = encoding.info.dtype
        if encoding.declared is not None and dtype != "U8" and ("e5m2" in encoding.declared) != (dtype == "F8_E5M2"):
            return f"marked {encoding.declared} but the weight is {dtype}"
        return wrong_scales(encoding, scale[0], _shapes(encoding.info.shape[0]))

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {"": float8_kind(encoding) or encoding.info.dtype}

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        if float8_kind(encoding) != "F8_E4M3":
            return None
        scales, scale_bytes = encoding.companion(*SCALES), FLOAT32_BYTES * shape[0]
        as_stored = scales is not None and scales[1].dtype == "F32"
        return Packed(encoding.info.nbytes + scale_bytes, 0 if as_stored else scale_bytes)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        suffix = next(suffix for suffix in SCALES if suffix in stored.companions)
        return LinearWeight("e4m3", stored.mlx(), row_scales(stored, suffix, shape[0]))

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        encoding = stored.encoding
        suffix = next(suffix for suffix in SCALES if suffix in stored.companions)
        scale = companion_values(stored, suffix).reshape(-1, 1)
        kind = float8_kind(encoding) or encoding.info.dtype

        def decode(rows: Rows) -> Array:
            values = widen(stored.rows(rows), kind)
            values *= scale[rows]
            return values

        return decode


def _shapes(rows: int) -> list[tuple[int, ...]]:
    return [(rows,), (rows, 1)]

"""NVFP4: 4-bit floats with an 8-bit float scale per 16 columns and one float for the whole matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx

from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.block_floats import HIGH_FIRST, padded, tiled_shape
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats.linear_format import (
    SMOOTHING,
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    made_of_slabs,
    wrong_scales,
)
from ltx2rt.weights.formats.tiled_scales import tiled_scales
from ltx2rt.weights.tensor_source import Rows, widen

_SCALES, _WHOLE = ".weight_scale", ".weight_scale_2"
_BLOCK = 16
_SCALE_DTYPES = ("F8_E4M3", "U8")


class Nvfp4(PackedFormat):
    """W = value * (scale of the matrix * scale of the block), stored padded to multiples of 16 in both directions.

    ``weight`` U8 (N', K' / 2), the even column in the high nibble; ``weight_scale`` E4M3 in tile order;
    ``weight_scale_2`` float32. Where no columns are added it stays packed, its scales in rows.
    """

    name = "nvfp4"
    companions = (_SCALES, _WHOLE, SMOOTHING)
    markers = ("nvfp4",)
    marked_dtypes = ("U8",)

    def recognises(self, encoding: Encoding) -> bool:
        scales = encoding.companions.get(_SCALES)
        blocks = scales is not None and scales.dtype in _SCALE_DTYPES and len(scales.shape) == 2 and scales.size > 1
        return encoding.info.dtype == "U8" and (_WHOLE in encoding.companions or blocks)

    def own_fault(self, encoding: Encoding) -> str | None:
        shape = encoding.info.shape
        for suffix in (_SCALES, _WHOLE):
            if suffix not in encoding.companions:
                return f"nvfp4 needs {suffix.removeprefix('.')}"
        if len(shape) != 2:
            return f"nvfp4 of shape {list(shape)}; only matrices can be stored so"
        if shape[0] % _BLOCK or 2 * shape[1] % _BLOCK:
            return f"nvfp4 of shape {list(shape)}, which is not padded to multiples of {_BLOCK} rows and columns"
        scales, expected = encoding.companions[_SCALES], tiled_shape(shape[0], 2 * shape[1] // _BLOCK)
        if scales.shape != expected:
            return (
                f"nvfp4 block scales (weight_scale) have shape {list(scales.shape)}; expected {list(expected)} in tile "
                "order"
            )
        if scales.dtype not in _SCALE_DTYPES:
            return f"nvfp4 block scales (weight_scale) are {scales.dtype}; expected {' or '.join(_SCALE_DTYPES)}"
        return wrong_scales(encoding, _WHOLE, [(), (1,), (1, 1)], "one value")

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {_SCALES: "F8_E4M3"}

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        shape = encoding.info.shape
        return [(shape[0], 2 * shape[1])] if len(shape) == 2 else []

    def fits(self, encoding: Encoding, shape: tuple[int, ...]) -> bool:
        return tuple(padded(n, _BLOCK) for n in shape) in self.shapes(encoding)

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        rows, columns = shape
        if columns % _BLOCK:
            return None
        made = rows * columns // _BLOCK + (rows * columns // 2 if encoding.info.shape[0] != rows else 0)
        return Packed(rows * columns // 2 + rows * columns // _BLOCK + FLOAT32_BYTES, made)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        scale_rows = _scale_rows(stored, shape)
        scale = made_of_slabs((shape[0], shape[1] // _BLOCK), mx.uint8, scale_rows)
        values = stored.mlx() if stored.info.shape[0] == shape[0] else mx.array(stored.rows(slice(0, shape[0])))
        whole = mx.array(float(companion_values(stored, _WHOLE).reshape(())), dtype=mx.float32)
        return LinearWeight("nvfp4", values, scale, whole)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale_rows, whole = _scale_rows(stored, shape), companion_values(stored, _WHOLE).reshape(())
        blocks = padded(shape[1], _BLOCK) // _BLOCK

        def decode(rows: Rows) -> Array:
            scale = widen(scale_rows(rows), "F8_E4M3") * whole
            values: Array = HIGH_FIRST[stored.rows(rows)].reshape(-1, blocks, _BLOCK)
            values *= scale[:, :, None]
            return values.reshape(-1, blocks * _BLOCK)[:, : shape[1]]

        return decode


def _scale_rows(stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
    return tiled_scales(stored, _SCALES, shape, _BLOCK, lambda codes, where: require_finite(codes, "F8_E4M3", where))

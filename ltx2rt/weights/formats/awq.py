"""4-bit integers with a scale and a zero per group of columns, as ComfyUI's tools write them (awq_w4a16)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import mlx.core as mx
import numpy as np

from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.formats.affine import GROUPS
from ltx2rt.weights.formats.linear_format import (
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    whole_number,
    wrong_scales,
)
from ltx2rt.weights.tensor_source import Rows

_SCALE, _ZEROS = ".weight_scale", (".weight_zero", ".weight_zeros")
_DEFAULT_GROUP = 64
# Both values of every byte, the low nibble first.
_PAIRS = np.stack([(np.arange(256) & 15) - 8, (np.arange(256) >> 4) - 8], axis=1).astype(np.float32)


class Awq(PackedFormat):
    """W = (code - 8) * scale + zero: ``weight`` (N, K / 2) bytes, the low nibble first; scales and zeros (K / g, N).

    In groups of 32, 64 or 128 the codes are those of MLX's affine integers, W = code * scale + (zero - 8 * scale).
    """

    name = "awq int4"
    companions = (_SCALE, *_ZEROS)
    markers = ("awq_w4a16",)
    marked_dtypes = ("I8", "U8")

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype in ("I8", "U8") and encoding.companion(*_ZEROS) is not None

    def own_fault(self, encoding: Encoding) -> str | None:
        zero = encoding.companion(*_ZEROS)
        if _SCALE not in encoding.companions:
            return "awq_w4a16 needs weight_scale"
        if zero is None:
            return "awq_w4a16 needs weight_zero"
        if len(encoding.info.shape) != 2:
            return f"awq_w4a16 of shape {list(encoding.info.shape)}; only matrices can be stored so"
        rows, columns = encoding.info.shape[0], 2 * encoding.info.shape[1]
        group = whole_number(encoding.marker, "group_size", _DEFAULT_GROUP)
        if group is None or columns % group:
            return f"{columns} inputs cannot be divided into groups of {encoding.marker.get('group_size', group)!r}"
        expected = [(columns // group, rows)]
        return wrong_scales(encoding, _SCALE, expected) or wrong_scales(encoding, zero[0], expected)

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        shape = encoding.info.shape
        return [(shape[0], 2 * shape[1])] if len(shape) == 2 else []

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        groups = encoding.companions[_SCALE].size
        if groups == 0 or prod(shape) // groups not in GROUPS:
            return None
        made = 2 * FLOAT32_BYTES * groups
        return Packed(encoding.info.nbytes + made, made)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        suffix = next(suffix for suffix in _ZEROS if suffix in stored.companions)
        scale, zero = companion_values(stored, _SCALE), companion_values(stored, suffix)
        zero = zero - 8 * scale
        values, group = stored.mlx().view(mx.uint32), shape[1] // len(scale)
        return LinearWeight("affine", values, mx.array(scale.T), mx.array(zero.T), group_size=group, bits=4)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        suffix = next(suffix for suffix in _ZEROS if suffix in stored.companions)
        scale, zero = companion_values(stored, _SCALE).T, companion_values(stored, suffix).T

        def decode(rows: Rows) -> Array:
            values = _PAIRS[stored.rows(rows).view(np.uint8)].reshape(-1, scale.shape[1], shape[1] // scale.shape[1])
            values *= scale[rows][:, :, None]
            values += zero[rows][:, :, None]
            return values.reshape(-1, shape[1])

        return decode

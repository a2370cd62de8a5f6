"""Signed 4-bit integers with a scale per row, rotated (convrot_w4a4)."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.formats.int8 import rotation_fault
from ltx2rt.weights.formats.linear_format import (
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    made_of_slabs,
    row_scales,
    wrong_scales,
)
from ltx2rt.weights.rotation import DEFAULT_GROUP, rotate
from ltx2rt.weights.tensor_source import Rows

_SCALE = ".weight_scale"
# Activations are quantised in groups of this size by the programs that compute so; no other size is defined.
_ACTIVATION_GROUP = 64
# Both values of every byte, the low nibble first.
_PAIRS = np.stack(
    [(np.arange(256) & 15 ^ 8) - 8, (np.arange(256) >> 4 ^ 8) - 8],
    axis=1,
).astype(np.int8)


class W4A4(PackedFormat):
    """W = rotation of (code * scale): ``weight`` I8 (N, K / 2), the low nibble first; ``weight_scale`` (N,).

    Only a marker tells it from 8-bit integers, which it becomes when it is loaded.
    """

    name = "w4a4"
    companions = (_SCALE,)
    markers = ("convrot_w4a4",)
    marked_dtypes = ("I8", "U8")

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.declared in self.markers

    def own_fault(self, encoding: Encoding) -> str | None:
        if _SCALE not in encoding.companions:
            return "convrot_w4a4 needs weight_scale"
        rows, packed = encoding.info.shape
        activations = encoding.marker.get("quant_group_size", _ACTIVATION_GROUP)
        if activations != _ACTIVATION_GROUP:
            return f"convrot_w4a4 with quant_group_size {activations!r}; expected {_ACTIVATION_GROUP}"
        return wrong_scales(encoding, _SCALE, [(rows,), (rows, 1)]) or rotation_fault(_group(encoding), 2 * packed)

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        shape = encoding.info.shape
        return [(shape[0], 2 * shape[1])] if len(shape) == 2 else []

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        rows, columns = shape
        as_stored = encoding.companions[_SCALE].dtype == "F32"
        return Packed(rows * (columns + FLOAT32_BYTES), rows * (columns + (0 if as_stored else FLOAT32_BYTES)))

    def rotation(self, encoding: Encoding) -> int:
        return _group(encoding)

    def as_int8(self, encoding: Encoding) -> bool:
        return True

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        codes = made_of_slabs(shape, mx.int8, lambda rows: _codes(stored, rows))
        return LinearWeight("int8", codes, row_scales(stored, _SCALE, shape[0]), rotation=_group(stored.encoding))

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale, group = companion_values(stored, _SCALE).reshape(-1, 1), _group(stored.encoding)

        def decode(rows: Rows) -> Array:
            return rotate(_codes(stored, rows) * scale[rows], group)

        return decode


def _codes(stored: Stored, rows: Rows) -> Array:
    """The codes of some rows, int8."""
    pairs: Array = _PAIRS[stored.rows(rows).view(np.uint8)]
    return pairs.reshape(len(pairs), -1)


def _group(encoding: Encoding) -> int:
    group: int = encoding.marker.get("convrot_groupsize", DEFAULT_GROUP)
    return group

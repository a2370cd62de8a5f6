"""8-bit integers with a scale per tensor, per row or per tile, plain or rotated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.formats.float8_blocks import Tiles
from ltx2rt.weights.formats.linear_format import (
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    row_scales,
    wrong_scales,
)
from ltx2rt.weights.rotation import DEFAULT_GROUP, is_rotation_group, rotate
from ltx2rt.weights.tensor_source import Rows

_SCALE = ".weight_scale"


def rotation_fault(group: Any, columns: int) -> str | None:
    """What speaks against un-rotating ``columns`` inputs in groups of ``group``; None for nothing."""
    if not isinstance(group, int) or isinstance(group, bool) or not is_rotation_group(group):
        return f"rotation group {group!r} is not a power of 4"
    if columns % group:
        return f"{columns} inputs cannot be un-rotated in groups of {group}"
    return None


class Int8(PackedFormat):
    """W = code * scale, one scale or one per row; ``convrot`` of the marker: W is that times the rotation.

    It stays as it is, one scale becoming that of every row.
    """

    name = "int8"
    companions = (_SCALE,)
    markers = ("int8_tensorwise",)
    marked_dtypes = ("I8",)

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype == "I8" and len(encoding.info.shape) > 1

    def label(self, encoding: Encoding, shape: tuple[int, ...] | None = None) -> str:
        return "int8 convrot" if _group(encoding.marker) else self.name

    def own_fault(self, encoding: Encoding) -> str | None:
        shape = encoding.info.shape
        if _SCALE not in encoding.companions:
            return "8-bit integer weight without weight_scale"
        if len(shape) != 2:
            return f"8-bit integers of shape {list(shape)}; only matrices can be stored so"
        if not isinstance(encoding.marker.get("convrot", False), bool):
            return f"convrot must be true or false, is {encoding.marker['convrot']!r}"
        rows = shape[0]
        wrong = wrong_scales(
            encoding, _SCALE, [(), (1,), (1, 1), (rows,), (rows, 1)], f"one value, [{rows}] or [{rows}, 1]"
        )
        group = _group(encoding.marker)
        return wrong or (rotation_fault(group, shape[1]) if group is not None else None)

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        scales, scale_bytes = encoding.companions[_SCALE], FLOAT32_BYTES * shape[0]
        as_stored = scales.dtype == "F32" and scales.size == shape[0]
        return Packed(encoding.info.nbytes + scale_bytes, 0 if as_stored else scale_bytes)

    def rotation(self, encoding: Encoding) -> int:
        return _group(encoding.marker) or 0

    def as_int8(self, encoding: Encoding) -> bool:
        return True

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        scale = row_scales(stored, _SCALE, shape[0])
        return LinearWeight("int8", stored.mlx(), scale, rotation=self.rotation(stored.encoding))

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale = np.broadcast_to(companion_values(stored, _SCALE).reshape(-1, 1), (shape[0], 1))
        group = _group(stored.marker)

        def decode(rows: Rows) -> Array:
            values = stored.rows(rows) * scale[rows]
            return values if group is None else rotate(values, group)

        return decode


def _group(marker: Mapping[str, Any]) -> Any:
    """Size of the rotated groups as the marker states it; None: not rotated."""
    return marker.get("convrot_groupsize", DEFAULT_GROUP) if marker.get("convrot") else None


class Int8Blocks(Tiles):
    """W = code * scale with a scale per square of values, (N / b, K / b)."""

    name = "int8 with block scales"
    markers = ("int8_blockwise",)
    marked_dtypes = ("I8",)
    default_size = 128

    def codes(self, stored: Stored, rows: Rows) -> Array:
        return stored.rows(rows).astype(np.float32)

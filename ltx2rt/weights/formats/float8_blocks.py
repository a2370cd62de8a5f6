"""Matrices of 8-bit floats with a scale per block of values, as converters of other programs write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ltx2rt.types import Array
from ltx2rt.weights.formats.float8 import SCALES, float8_kind
from ltx2rt.weights.formats.linear_format import (
    Encoding,
    ExpandedFormat,
    Stored,
    companion_values,
    whole_number,
    wrong_scales,
)
from ltx2rt.weights.tensor_source import Rows, widen

_TILES, _RUNS = "float8_e4m3fn_blockwise", "float8_e4m3fn_block3d"


class Tiles(ExpandedFormat):
    """A matrix whose tiles of rows x columns values have a scale each. Expanded to bfloat16; declared by a marker."""

    companions = SCALES
    default_size: int

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.declared in self.markers

    def own_fault(self, encoding: Encoding) -> str | None:
        size = self.size(encoding.marker)
        if size is None:
            return f"group_size {encoding.marker.get('group_size')!r} is no positive whole number"
        rows, columns = encoding.info.shape
        height = self.height(encoding, size)
        if rows % height or columns % size:
            return f"{rows} x {columns} cannot be divided into blocks of {height} x {size}"
        scale = encoding.companion(*SCALES)
        if scale is None:
            return "it has no weight_scale"
        return wrong_scales(encoding, scale[0], [self.scales_shape(encoding, rows // height, columns // size)])

    def size(self, marker: Mapping[str, object]) -> int | None:
        """Columns of a tile."""
        return whole_number(marker, "group_size", self.default_size)

    def height(self, encoding: Encoding, size: int) -> int:
        """Rows of a tile."""
        return size

    def scales_shape(self, encoding: Encoding, down: int, across: int) -> tuple[int, ...]:
        """Shape of the scales of so many tiles."""
        return down, across

    def codes(self, stored: Stored, rows: Rows) -> Array:
        """The unscaled values of some rows, float32."""
        encoding = stored.encoding
        return widen(stored.rows(rows), float8_kind(encoding) or encoding.info.dtype)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        encoding = stored.encoding
        size = self.size(encoding.marker) or self.default_size
        height = self.height(encoding, size)
        suffix = next(suffix for suffix in SCALES if suffix in stored.companions)
        scale = companion_values(stored, suffix).reshape(shape[0] // height, shape[1] // size, 1)

        def decode(rows: Rows) -> Array:
            values = self.codes(stored, rows).reshape(-1, shape[1] // size, size)
            values *= scale[np.arange(shape[0])[rows] // height]
            return values.reshape(-1, shape[1])

        return decode


class Float8Blocks(Tiles):
    """E4M3 (fn) with a scale per square of values, (N / b, K / b), or per b columns of a row, (N, K / b, 1)."""

    name = "fp8 with block scales"
    markers = (_TILES, _RUNS)
    marked_dtypes = ("F8_E4M3", "U8")
    default_size = 64

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {"": "F8_E4M3"}

    def height(self, encoding: Encoding, size: int) -> int:
        return 1 if encoding.declared == _RUNS else size

    def scales_shape(self, encoding: Encoding, down: int, across: int) -> tuple[int, ...]:
        return (down, across, 1) if encoding.declared == _RUNS else (down, across)

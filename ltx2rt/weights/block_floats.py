"""Small floats with a scale per block: the codes of NVFP4 and the MX formats, and the tile order of their scales."""

from __future__ import annotations

import numpy as np

from ltx2rt.types import Array

# The value of every 4-bit float (E2M1): the sign in bit 3.
_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.append(_MAGNITUDES, -_MAGNITUDES)
# Both values of every byte, the low or the high nibble first.
LOW_FIRST = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], axis=1)
HIGH_FIRST = LOW_FIRST[:, ::-1].copy()
# The value of every scale without sign and mantissa (E8M0), 2 ** (code - 127); code 255 is no number.
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))

_TILE_ROWS, _TILE_COLUMNS = 128, 4


def tiled_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape in which (rows, columns) scales are stored in tile order: padded to whole tiles of 128 x 4."""
    return -(-rows // _TILE_ROWS) * _TILE_ROWS, -(-columns // _TILE_COLUMNS) * _TILE_COLUMNS


def tiled_rows(stored: Array, rows: Array, columns: int) -> Array:
    """Scales (len(rows), columns) of some rows out of scales in tile order.

    Tiles follow each other row by row; in a tile of 512 the scale of row r, column c is at
    (r mod 32) * 16 + (r div 32) * 4 + c.

    Args:
        stored: of the shape of `tiled_shape`.
        rows: numbers of the rows that are wanted.
        columns: of the matrix of scales.
    """
    tiles = stored.reshape(-1, stored.shape[1] // _TILE_COLUMNS, 32, 4, _TILE_COLUMNS)  # down, across, line, quarter
    by_row = tiles.transpose(0, 3, 2, 1, 4)
    found: Array = by_row[rows // _TILE_ROWS, rows % _TILE_ROWS // 32, rows % 32]
    return found.reshape(len(rows), -1)[:, :columns]


def padded(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple

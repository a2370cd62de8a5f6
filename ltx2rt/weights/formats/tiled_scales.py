"""Scales of blocks that a file holds in tile order, row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ltx2rt.types import Array
from ltx2rt.weights.block_floats import padded, tiled_rows
from ltx2rt.weights.formats.linear_format import Stored
from ltx2rt.weights.tensor_source import Rows


def tiled_scales(
    stored: Stored, companion: str, shape: tuple[int, ...], block: int, check: Callable[[Array, str], None]
) -> Callable[[Rows], Array]:
    """Reads the scales of a matrix; what comes back gives the codes of those of some rows.

    Args:
        stored: the matrix, padded to multiples of ``block`` columns.
        companion: suffix of the tensor that holds the scales.
        shape: (rows, columns) of the matrix that is wanted.
        block: columns that share a scale.
        check: is given codes and where they are from, and raises if one is no number.
    """
    file, name = stored.companions[companion]
    tiled, blocks = file.raw(name), padded(shape[1], block) // block

    def codes_of(rows: Rows) -> Array:
        codes = tiled_rows(tiled, np.arange(shape[0])[rows], blocks)
        check(codes, file.where(name))
        return codes

    return codes_of

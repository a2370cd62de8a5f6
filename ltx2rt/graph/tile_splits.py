"""Cuts an axis of latent cells into tiles that overlap, with the weights that blend them; integers and numpy alone.

Source: Lightricks/LTX-2 ltx_core/tiling.py @ v1.2.0; tiles of a fixed size: IC-LoRA of 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.types import Array


@dataclass(frozen=True)
class LatentInterval:
    """Latent cells [start, stop) of one axis, blended over ``left`` and ``right`` cells with the neighbours."""

    start: int
    stop: int
    left: int = 0
    right: int = 0

    @property
    def cells(self) -> int:
        return self.stop - self.start

    @property
    def weights(self) -> Array:
        """(cells,) float32; where two tiles overlap theirs add up to 1, where three do to a little more."""
        return trapezoid(self.cells, self.left, self.right)


def trapezoid(length: int, left: int, right: int, *, left_from_zero: bool = False) -> Array:
    """Blend mask: ones with a rising ramp over ``left`` samples and a falling one over ``right``.

    Args:
        length: of the mask.
        left, right: ramp lengths, clipped to [0, length].
        left_from_zero: the first sample of the rising ramp is 0 (it is carried by the previous tile alone).

    Returns:
        (length,) float32.
    """
    left, right = (max(0, min(ramp, length)) for ramp in (left, right))
    mask = np.ones(length, np.float64)
    if left:
        mask[:left] *= np.arange(left) / left if left_from_zero else np.arange(1, left + 1) / (left + 1)
    if right:
        mask[length - right :] *= 1 - np.arange(1, right + 1) / (right + 1)
    return mask.astype(np.float32)


def split_by_size(length: int, size: int, overlap: int) -> list[LatentInterval]:
    """Tiles of ``size`` cells, each ``overlap`` into the one before; the last one may be shorter."""
    if length <= size:
        return [LatentInterval(0, length)]
    stride = size - overlap
    count = (length + size - 2 * overlap - 1) // stride
    last = count - 1
    return [
        LatentInterval(
            index * stride,
            length if index == last else index * stride + size,
            overlap if index else 0,
            0 if index == last else overlap,
        )
        for index in range(count)
    ]


def split_by_count(length: int, count: int, overlap: int, axis: str) -> list[LatentInterval]:
    """``count`` tiles of nearly equal size; those that come first are one cell longer where they cannot be equal.

    Args:
        length: latent cells.
        count: of the tiles.
        overlap: cells that neighbours share.
        axis: its name, for the message.

    Raises:
        UsageError: so many tiles with this overlap do not fit.
    """
    if count < 1 or count > length or overlap < 0 or overlap > length - count:
        raise UsageError(
            f"{axis}: {count} tiles with an overlap of {overlap} cells do not fit into {length} cells; use fewer tiles."
        )
    if count == 1:
        return [LatentInterval(0, length)]
    size, surplus = divmod(length + overlap * (count - 1), count)
    intervals = split_by_size(length - surplus, size, overlap)
    # The first `surplus` tiles are one cell longer, which shifts what follows.
    return [
        LatentInterval(
            interval.start + min(index, surplus),
            interval.stop + min(index, surplus) + (index < surplus),
            interval.left,
            interval.right,
        )
        for index, interval in enumerate(intervals)
    ]


def fitting_count(length: int, count: int, overlap: int) -> tuple[int, int]:
    """(tiles, overlap) that `split_by_count` takes: one tile where there are fewer cells than tiles, and at most the
    overlap with which so many tiles fit."""
    if count > length:
        return 1, 0
    return count, min(overlap, length - count)


def split_pinned(length: int, size: int, overlap: int) -> list[LatentInterval]:
    """Tiles of exactly ``size`` cells, the first at the beginning and the last at the end of the axis.

    Their number grows until neighbours share ``overlap`` cells, or until they would lie half a tile apart; they then
    share what results. An axis that is not longer than a tile stays whole.
    """
    if length <= size:
        return [LatentInterval(0, length)]
    most = max(2, 1 + (length - size) // ((size + 1) // 2))
    count = 2
    while count < most and count * size - length < overlap * (count - 1):
        count += 1
    gap, longer = divmod(length - size, count - 1)
    starts = [index * gap + min(index, longer) for index in range(count)]
    shared = [0, *(size - (after - before) for before, after in pairwise(starts)), 0]
    return [
        LatentInterval(start, start + size, left, right)
        for start, (left, right) in zip(starts, pairwise(shared), strict=True)
    ]

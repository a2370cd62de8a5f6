"""The rotation ("convrot") in which some integer weights are stored.

Every group of G consecutive inputs is multiplied with R, the Kronecker power of the 4 x 4 matrix that has -1 on its
anti-diagonal and 1 elsewhere, divided by sqrt(G). R is symmetric and R @ R = 1: rotating twice gives the same again.
"""

from __future__ import annotations

import numpy as np

from ltx2rt.types import Array

DEFAULT_GROUP = 256


def is_rotation_group(group: int) -> bool:
    """Whether there is a rotation of groups of this size: a power of 4 from 4 on."""
    return group >= 4 and group & (group - 1) == 0 and group.bit_length() % 2 == 1


def rotate(values: Array, group: int) -> Array:
    """float32 ``values`` (rows, columns) with every group of columns times R; ``columns`` is a multiple of ``group``.

    One pass per factor 4 of the group: of four values with half their sum s, each becomes s minus its mirror image.
    """
    rows, columns = values.shape
    stride = 1
    while stride < group:
        fours = values.reshape(rows, columns // (4 * stride), 4, stride)
        half = fours[:, :, 0] + fours[:, :, 1]
        half += fours[:, :, 2]
        half += fours[:, :, 3]
        half *= np.float32(0.5)
        values = (half[:, :, None] - fours[:, :, ::-1]).reshape(rows, columns)
        stride *= 4
    return values


def rotation_matrix(group: int) -> Array:
    """R, (group, group) float32; many rows are rotated faster by it, with sums in another order than those of `rotate`.

    ``group`` is a power of 4.
    """
    smallest = np.ones((4, 4), np.float32) - 2 * np.fliplr(np.eye(4, dtype=np.float32))
    result: Array = np.ones((1, 1), np.float32)
    while len(result) < group:
        result = np.kron(result, smallest)
    result /= np.float32(np.sqrt(group))
    return result

"""The rotation ("convrot") in which some integer weights are stored.

Every group of G consecutive inputs is multiplied with R, the Kronecker power of the 4 x 4 matrix that has -1 on its
anti-diagonal and 1 elsewhere, divided by sqrt(G). R is symmetric and R @ R = 1: rotating twice gives the same again.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ltx2rt.types import Array

DEFAULT_GROUP = 256
# The smaller factor of a group that is multiplied as a matrix.
_LOW = 16


def is_rotation_group(group: int) -> bool:
    """Whether there is a rotation of groups of this size: a power of 4 from 4 on."""
    return group >= 4 and group & (group - 1) == 0 and group.bit_length() % 2 == 1


def rotate(values: Array, group: int) -> Array:
    """float32 ``values`` (rows, columns) with every group of columns times R; ``columns`` is a multiple of ``group``.

    R of a group is the Kronecker product of smaller ones, so that a group is multiplied as a small matrix: by one of
    them from the left and by the other from the right.
    """
    low = min(group, _LOW)
    high = group // low
    # Stacks of small matrices: one product with all rows would start threads of its own, which wait for busy cores.
    stack = values.reshape(-1, high, low) if high > 1 else values.reshape(len(values), -1, low)
    turned = np.matmul(stack, rotation_matrix(low))
    if high > 1:
        turned = np.matmul(rotation_matrix(high), turned)
    result: Array = turned.reshape(values.shape)
    return result


@cache
def rotation_matrix(group: int) -> Array:
    """R, (group, group) float32, of a ``group`` that is a power of 4; shared, not to be changed."""
    smallest = np.ones((4, 4), np.float32) - 2 * np.fliplr(np.eye(4, dtype=np.float32))
    result: Array = np.ones((1, 1), np.float32)
    while len(result) < group:
        result = np.kron(result, smallest)
    result /= np.float32(np.sqrt(group))
    return result

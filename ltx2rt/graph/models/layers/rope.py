"""Rotary position tables: the frequency grid and one row of cos and sin per distinct coordinate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ltx2rt.kernels import RopeTable
from ltx2rt.types import Array


def frequencies(dim: int, axes: int, *, theta: float, float64: bool) -> Array:
    """The frequency grid of one axis: theta ** (j / (M - 1)) * pi / 2.

    Args:
        dim: width that is rotated (all heads together).
        axes: P, number of coordinates per token.
        theta: the last frequency is theta * pi / 2.
        float64: power and product in float64 before the rounding to float32, as the published files ask for;
            otherwise everything in float32.

    Returns:
        (M,) float32 with M = dim // (2 * P).

    Source: Lightricks/LTX-2 ltx_core/model/transformer/rope.py @ v1.2.0.
    """
    count = dim // (2 * axes)
    if float64:
        exponents = np.linspace(0.0, 1.0, count)
        return (np.power(float(theta), exponents) * (math.pi / 2)).astype(np.float32)
    # The float32 path is a float32 linspace that counts from the nearer end with fused multiply-adds (the exact
    # product and sum, rounded once), then a float32 power; float64 arithmetic rounded to float32 reproduces both.
    step = float(np.float32(1.0) / np.float32(max(count - 1, 1)))
    j = np.arange(count, dtype=np.float64)
    exponents = np.where(j < count // 2, j * step, 1.0 - (count - 1 - j) * step).astype(np.float32)
    if count == 1:
        exponents = np.zeros(1, dtype=np.float32)
    powers = np.power(float(theta), exponents.astype(np.float64)).astype(np.float32)
    result: Array = powers * np.float32(math.pi / 2)
    return result


def middle(positions: Array) -> Array:
    """(B, P, T, 2) bounds of tokens -> (B, P, T) float32 mid-points."""
    bounds = positions.astype(np.float32)
    result: Array = (bounds[..., 0] + bounds[..., 1]) / np.float32(2.0)
    return result


def rope_table(
    coordinates: Array, *, dim: int, max_positions: Sequence[float], theta: float, float64: bool
) -> RopeTable:
    """Separable rotary table of tokens.

    The angle of frequency j along axis p is f_j * (2 * x_p / max_p - 1), in float32 as in the official code; its
    cosine and sine are taken in float64 and rounded once.

    Args:
        coordinates: (B, P, T) float32, one coordinate per token and axis.
        dim: width that is rotated (all heads together).
        max_positions: P values, the coordinate that maps to angle factor 1.
        theta: see `frequencies`.
        float64: see `frequencies`.

    Returns:
        cos and sin (R, dim // (2 * P)); index (T, P) if all samples share the coordinates, else (B, T, P).

    Source: Lightricks/LTX-2 ltx_core/model/transformer/rope.py @ v1.2.0.
    """
    _, axes, tokens = coordinates.shape
    grid = frequencies(dim, axes, theta=theta, float64=float64)
    shared = bool((coordinates == coordinates[:1]).all())
    source = coordinates[:1] if shared else coordinates
    angles, index, rows = [], np.empty((source.shape[0], tokens, axes), dtype=np.int32), 0
    for axis in range(axes):
        distinct, inverse = np.unique(source[:, axis].astype(np.float32), return_inverse=True)
        index[:, :, axis] = inverse.reshape(-1, tokens) + rows
        rows += len(distinct)
        fraction = distinct / np.float32(max_positions[axis])
        angles.append(grid[None] * (fraction * np.float32(2.0) - np.float32(1.0))[:, None])
    angle = np.concatenate(angles).astype(np.float64)
    return RopeTable(
        cos=mx.array(np.cos(angle).astype(np.float32)),
        sin=mx.array(np.sin(angle).astype(np.float32)),
        index=mx.array(index[0] if shared else index),
    )

"""Edges of pictures by Canny's method, as control pictures."""

from __future__ import annotations

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.media.pixel_range import LUMA
from ltx2rt.types import Array

_TAN_22 = np.tan(np.pi / 8)


def canny(picture: Array, low: int = 100, high: int = 200) -> Array:
    """White edges on black.

    Sobel gradients of the grey picture, thinned to their ridges; an edge begins where the gradient (sum of the absolute
    components) exceeds ``high`` and goes on while it exceeds ``low``.

    Args:
        picture: (H, W, 3) uint8.
        low, high: thresholds, 0 <= low <= high.

    Returns:
        (H, W, 3) uint8, 0 or 255.

    Raises:
        UsageError: thresholds out of order or negative.

    Source: J. Canny, A Computational Approach to Edge Detection, 1986; thresholds and gradient as OpenCV's cv2.Canny.
    """
    check_thresholds(low, high)
    grey = np.rint(picture.astype(np.float32) @ LUMA)
    g = np.pad(grey, 1, mode="edge")
    across = (g[:-2, 2:] + 2 * g[1:-1, 2:] + g[2:, 2:]) - (g[:-2, :-2] + 2 * g[1:-1, :-2] + g[2:, :-2])
    down = (g[2:, :-2] + 2 * g[2:, 1:-1] + g[2:, 2:]) - (g[:-2, :-2] + 2 * g[:-2, 1:-1] + g[:-2, 2:])
    strength = np.abs(across) + np.abs(down)
    ridge = _ridges(strength, across, down)
    edges = _connected(ridge & (strength > high), ridge & (strength > low))
    return np.repeat((edges * np.uint8(255)).astype(np.uint8)[..., None], 3, axis=2)


def check_thresholds(low: int, high: int) -> None:
    """Raise UsageError unless 0 <= low <= high."""
    if not 0 <= low <= high:
        raise UsageError(f"canny thresholds must be 0 <= low <= high, got {low} and {high}.")


def _ridges(strength: Array, across: Array, down: Array) -> Array:
    """Where the gradient is largest along its own direction."""
    s = np.pad(strength, 1)

    def neighbour(dy: int, dx: int) -> Array:
        return s[1 + dy : s.shape[0] - 1 + dy, 1 + dx : s.shape[1] - 1 + dx]

    horizontal = np.abs(down) < _TAN_22 * np.abs(across)
    vertical = np.abs(across) < _TAN_22 * np.abs(down)
    same_sign = across * down > 0
    before = np.where(
        horizontal,
        neighbour(0, -1),
        np.where(vertical, neighbour(-1, 0), np.where(same_sign, neighbour(-1, -1), neighbour(-1, 1))),
    )
    after = np.where(
        horizontal,
        neighbour(0, 1),
        np.where(vertical, neighbour(1, 0), np.where(same_sign, neighbour(1, 1), neighbour(1, -1))),
    )
    return (strength > before) & (strength >= after)


def _connected(seeds: Array, allowed: Array) -> Array:
    """What can be reached from the seeds through allowed places, in steps to the eight neighbours."""
    reached = seeds
    while True:
        p = np.pad(reached, 1)
        spread = reached.copy()
        for dy in (0, 1, 2):
            for dx in (0, 1, 2):
                spread |= p[dy : dy + reached.shape[0], dx : dx + reached.shape[1]]
        spread &= allowed
        if (spread == reached).all():
            return reached
        reached = spread

"""Conversions between the pixel ranges: uint8, [0, 1] and the VAE's [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def from_uint8(pixels: Array) -> Array:
    """uint8 -> float32 in [-1, 1], what the encoder takes."""
    result: Array = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return result


def to_unit_range(decoded: Array) -> Array:
    """Decoder output, about [-1, 1] float32 -> [0, 1] clamped. Works in place and returns its argument.

    Infinities become NaN, like everything that is no number: clamped, they would pass as black and white.
    """
    if decoded.size and not (np.isfinite(decoded.min()) and np.isfinite(decoded.max())):
        decoded[~np.isfinite(decoded)] = np.nan
    decoded += np.float32(1)
    decoded *= np.float32(0.5)
    return np.clip(decoded, 0.0, 1.0, out=decoded)

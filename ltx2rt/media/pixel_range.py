"""Pixels of 0 to 255 in the range and in the grey that models take."""

from __future__ import annotations

import numpy as np

from ltx2rt.types import Array

# Parts of red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_signed_range(pixels: Array) -> Array:
    """0..255, uint8 or float32 -> float32 in [-1, 1], what the encoder takes."""
    values: Array = pixels.astype(np.float32, copy=False) / np.float32(127.5) - np.float32(1)
    return values


def to_unit_range(pixels: Array) -> Array:
    """uint8 -> float32 in [0, 1]; floating point, which is in that range, as it is."""
    if pixels.dtype != np.uint8:
        return pixels
    values: Array = pixels.astype(np.float32) / np.float32(255)
    return values

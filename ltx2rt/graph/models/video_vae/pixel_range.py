"""Conversions between the pixel ranges: uint8, [0, 1] and the VAE's [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def from_uint8(pixels: Array) -> Array:
    """uint8 -> float32 in [-1, 1], what the encoder takes."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_unit_range(decoded: Array) -> Array:
    """Decoder output, about [-1, 1] float32 -> [0, 1] clamped. Works in place and returns its argument."""
    decoded += np.float32(1)
    decoded *= np.float32(0.5)
    return np.clip(decoded, 0.0, 1.0, out=decoded)


def to_uint8(frames: Array) -> Array:
    """[0, 1] float32 -> uint8, truncated and not rounded, as the official code does."""
    return (frames * np.float32(255)).astype(np.uint8)

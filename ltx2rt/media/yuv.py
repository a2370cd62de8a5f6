"""RGB to 8-bit YUV 4:2:0, BT.709 limited range, computed in float."""

from __future__ import annotations

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.types import Array

KR, KG, KB = np.float32(0.2126), np.float32(0.7152), np.float32(0.0722)


def yuv420_bt709(frame: Array, *, rounded: bool = False) -> tuple[Array, Array, Array]:
    """One frame as planes Y, Cb, Cr.

    Args:
        frame: (H, W, 3) float32 RGB in [0, 1], H and W even; values outside are clamped after the conversion.
        rounded: to the nearest byte, in place of truncated.

    Returns:
        uint8 planes (H, W), (H/2, W/2), (H/2, W/2): Y = 16 + 219 y, C = 128 + 224 c with c the mean of 2x2 pixels;
        clamped to a byte and truncated, or rounded.

    Raises:
        UsageError: for another shape or odd sides.

    Source: Lightricks/LTX-2 ltx_core/color/yuv.py @ v1.2.0.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise UsageError(f"frame must be (H, W, 3) with even H and W, got {frame.shape}; crop or resize it.")
    height, width, _ = frame.shape
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    luma = KR * red + KG * green + KB * blue

    def chroma(difference: Array, largest: np.float32) -> Array:
        full = difference / (np.float32(2.0) * (np.float32(1.0) - largest))
        means: Array = full.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        return means

    more = np.float32(0.5 if rounded else 0.0)
    return (
        _to_byte(np.float32(16.0) + more + np.float32(219.0) * luma),
        _to_byte(np.float32(128.0) + more + np.float32(224.0) * chroma(blue - luma, KB)),
        _to_byte(np.float32(128.0) + more + np.float32(224.0) * chroma(red - luma, KR)),
    )


def _to_byte(values: Array) -> Array:
    return np.clip(values, 0.0, 255.0).astype(np.uint8)

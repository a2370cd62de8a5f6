"""RGB to YUV 4:2:0, limited range, computed in float: 8 bits of BT.709 and 10 bits of BT.2020."""

from __future__ import annotations

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.types import Array

# Parts of red, green and blue in the luma.
_BT709 = tuple(np.float32(part) for part in (0.2126, 0.7152, 0.0722))
_BT2020 = tuple(np.float32(part) for part in (0.2627, 0.6780, 0.0593))


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
    more = np.float32(0.5 if rounded else 0.0)
    planes = _planes(frame, _BT709, scale=1, more=more)
    luma, blue, red = (np.clip(plane, 0.0, 255.0).astype(np.uint8) for plane in planes)
    return luma, blue, red


def yuv420_bt2020(frame: Array) -> tuple[Array, Array, Array]:
    """One frame as planes Y, Cb, Cr of 10 bits, with non-constant luminance.

    Args:
        frame: (H, W, 3) float32 R'G'B' in [0, 1], H and W even.

    Returns:
        uint16 planes (H, W), (H/2, W/2), (H/2, W/2): Y = 64 + 876 y, C = 512 + 896 c with c the mean of 2x2 pixels,
        rounded to the nearest code and clamped to 10 bits.

    Raises:
        UsageError: for another shape or odd sides.
    """
    planes = _planes(frame, _BT2020, scale=4, more=np.float32(0.5))
    luma, blue, red = (np.clip(plane, 0.0, 1023.0).astype(np.uint16) for plane in planes)
    return luma, blue, red


def _planes(frame: Array, parts: tuple[np.float32, ...], *, scale: int, more: np.float32) -> tuple[Array, Array, Array]:
    """The planes as float32 codes, ``more`` above what they are."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise UsageError(f"frame must be (H, W, 3) with even H and W, got {frame.shape}; crop or resize it.")
    height, width, _ = frame.shape
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    of_red, of_green, of_blue = parts
    luma = of_red * red + of_green * green + of_blue * blue

    def chroma(difference: Array, largest: np.float32) -> Array:
        full = difference / (np.float32(2.0) * (np.float32(1.0) - largest))
        means: Array = full.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        return means

    black, middle, whole, half = (np.float32(scale * value) for value in (16.0, 128.0, 219.0, 224.0))
    return (
        black + more + whole * luma,
        middle + more + half * chroma(blue - luma, of_blue),
        middle + more + half * chroma(red - luma, of_red),
    )

"""Converters of single option values; each raises argparse.ArgumentTypeError with what was given and what is wanted."""

from __future__ import annotations

import argparse
from fractions import Fraction

from ltx2rt.graph.models.tiling import Tiling


def frame_rate(text: str) -> Fraction:
    """``24``, ``23.976``, ``24000/1001``; the usual NTSC decimals become their exact ratios."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"frame rate must be a number or a ratio, got {text!r}") from None
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"frame rate must be positive, got {text!r}")
    ntsc = Fraction(round(rate) * 1000, 1001)
    return ntsc if abs(rate - ntsc) < Fraction(1, 500) and rate != round(rate) else rate


def tiling(text: str) -> str | Tiling | None:
    """``auto``, ``none``, or ``512/64,64/24``: spatial tile and overlap in pixels, temporal in frames."""
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    try:
        axes = [tuple(int(number) for number in part.split("/")) for part in text.split(",")]
        if not 1 <= len(axes) <= 2 or any(len(axis) != 2 for axis in axes):
            raise ValueError(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"tiling must be auto, none or like 512/64,64/24 (pixels, frames), got {text!r}"
        ) from None
    spatial = axes[0]
    temporal = axes[1] if len(axes) == 2 else None
    return Tiling.from_pixels(height=spatial, width=spatial, frames=temporal)

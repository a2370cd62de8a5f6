"""Converters of single option values; each raises argparse.ArgumentTypeError with what was given and what is wanted."""

from __future__ import annotations

import argparse
from fractions import Fraction

from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.media.video_writer import exact_frame_rate


def frame_rate(text: str) -> Fraction:
    """``24``, ``23.976``, ``24000/1001``; decimals of broadcast rates become their exact ratios."""
    try:
        return exact_frame_rate(Fraction(text) if "/" in text else float(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"frame rate must be a positive number or ratio, got {text!r}") from None


def tiling(text: str) -> str | Tiling | None:
    """``auto``, ``none``, or ``512/64,64/24``: spatial tile and overlap in pixels, temporal in frames."""
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    try:
        axes = [_interval(part) for part in text.split(",")]
        if len(axes) > 2:
            raise ValueError(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"tiling must be auto, none or like 512/64,64/24 (pixels, frames), got {text!r}"
        ) from None
    return Tiling.of(spatial=axes[0], temporal=axes[1] if len(axes) == 2 else None)


def _interval(text: str) -> tuple[int, int]:
    tile, overlap = text.split("/")
    return int(tile), int(overlap)

"""Converters of single option values; each raises argparse.ArgumentTypeError with what was given and what is wanted."""

from __future__ import annotations

import argparse
import difflib
from fractions import Fraction

from ltx2rt.api.loading import PIPELINE_ALIASES, PIPELINE_NAMES
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.media.video_writer import exact_frame_rate


def pipeline(text: str) -> str:
    """A pipeline name, also with underscores or in the spelling of another program."""
    name = text.replace("_", "-")
    name = PIPELINE_ALIASES.get(name, name)
    if name not in PIPELINE_NAMES:
        near = difflib.get_close_matches(name, PIPELINE_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(PIPELINE_NAMES)}"
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r}; {hint}")
    return name


def frame_rate(text: str) -> Fraction:
    """``24``, ``23.976``, ``24000/1001``; decimals of broadcast rates become their exact ratios."""
    try:
        return exact_frame_rate(Fraction(text) if "/" in text else float(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"frame rate must be a positive number or ratio, got {text!r}") from None


def tiling(text: str) -> str | Tiling:
    """``auto``, ``none``, or ``512/64,64/24``: spatial tile and overlap in pixels, temporal in frames."""
    if text in ("auto", "none"):
        return text
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

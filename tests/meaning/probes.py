"""Measures what a decoded clip shows and sounds like: colours, shape, movement, pitch, panning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2rt.embedded.world import COLORS, SHAPES

Array = np.ndarray[Any, np.dtype[Any]]

PALETTE = np.array(list(COLORS.values()), np.float64) / 255
NAMES = tuple(COLORS)
# Covered share of the bounding box: triangle 1/2, circle pi/4, square 1.
TRIANGLE_BELOW, CIRCLE_BELOW = 0.645, 0.885
MOVES = 0.12  # of the frame, from the first to the last sixth of the clip
PAN_CHANGE = 0.15


@dataclass(frozen=True)
class Seen:
    """What the frames show.

    Attributes:
        color, background: nearest colours of the palette.
        shape: by the covered share of the bounding box; ``none`` if nothing stands out.
        motion: ``left``, ``right``, ``up``, ``down`` or ``still``; ``none`` if the object is lost in half the frames.
        centres: (F, 2) x and y in [0, 1]; NaN where nothing stands out.
        fill: median covered share of the bounding box.
        contrast: mean colour error of the object in [0, 1].
    """

    color: str
    background: str
    shape: str
    motion: str
    centres: Array
    fill: float
    color_error: float
    background_error: float


@dataclass(frozen=True)
class Heard:
    """What the sound is like.

    Attributes:
        pitch_hz: strongest frequency; 0 if silent.
        shape: the shape whose tone is nearest; ``silent`` if there is no sound.
        pan: ``left``, ``right`` or ``flat``: where the sound moves to.
        pan_start, pan_end: share of the right channel's energy near the start and the end.
    """

    pitch_hz: float
    shape: str
    pan: str
    pan_start: float
    pan_end: float


def nearest_color(color: Array) -> tuple[str, float]:
    """Name of the nearest colour of the palette to RGB in [0, 1], and the distance."""
    distances = np.sqrt(((PALETTE - color) ** 2).mean(axis=1))
    index = int(distances.argmin())
    return NAMES[index], float(distances[index])


def border_color(frame: Array) -> Array:
    """Median RGB of a frame's rim, a sixteenth of the side wide."""
    rim = max(2, frame.shape[0] // 16)
    parts = (frame[:rim], frame[-rim:], frame[:, :rim], frame[:, -rim:])
    return np.median(np.concatenate([part.reshape(-1, 3) for part in parts]), axis=0)


def object_mask(frame: Array, background: Array) -> Array | None:
    """(H, W) bool: pixels that differ from the background by more than half of the strongest difference."""
    difference = np.abs(frame - background).max(axis=-1)
    strongest = np.quantile(difference, 0.985)
    if strongest < 0.18:
        return None
    mask = difference > 0.5 * strongest
    return mask if mask.mean() > 0.004 else None


def direction(start: Array, end: Array) -> str:
    """Name of the movement between two centres."""
    x, y = end - start
    if max(abs(x), abs(y)) < MOVES:
        return "still"
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def look(frames: Array) -> Seen:
    """Looks at frames (F, H, W, 3) in [0, 1]."""
    frames = np.asarray(frames, np.float64)
    height, width = frames.shape[1:3]
    centres = np.full((len(frames), 2), np.nan)
    colors, rims, fills = [], [], []
    for index, frame in enumerate(frames):
        rim = border_color(frame)
        rims.append(rim)
        mask = object_mask(frame, rim)
        if mask is None:
            continue
        rows, columns = np.nonzero(mask)
        centres[index] = (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height
        difference = np.abs(frame - rim).max(axis=-1)
        colors.append(np.median(frame[difference > 0.8 * np.quantile(difference[mask], 0.9)], axis=0))
        covered_rows, covered_columns = np.nonzero(mask.sum(1) > 2)[0], np.nonzero(mask.sum(0) > 2)[0]
        if len(covered_rows) and len(covered_columns):
            box = (np.ptp(covered_rows) + 1) * (np.ptp(covered_columns) + 1)
            fills.append(mask.sum() / box)
    background, background_error = nearest_color(np.median(rims, axis=0))
    color, color_error = nearest_color(np.median(colors, axis=0)) if colors else ("none", 1.0)
    fill = float(np.median(fills)) if fills else 0.0
    shape = "triangle" if fill < TRIANGLE_BELOW else "circle" if fill < CIRCLE_BELOW else "square"
    found = centres[~np.isnan(centres[:, 0])]
    motion = "none"
    if len(found) >= len(frames) / 2:
        some = max(1, len(found) // 6)
        motion = direction(found[:some].mean(0), found[-some:].mean(0))
    return Seen(color, background, shape if fills else "none", motion, centres, fill, color_error, background_error)


def listen(waves: Array, sample_rate: int) -> Heard:
    """Listens to sound (S, 2) in [-1, 1]."""
    waves = np.asarray(waves, np.float64)
    mono = waves.sum(axis=1)
    if np.abs(mono).max() < 0.02:
        return Heard(0.0, "silent", "flat", 0.5, 0.5)
    size = 1 << 17
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), size))
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    spectrum[frequencies < 80] = 0
    pitch = float(frequencies[spectrum.argmax()])
    shape = min(SHAPES, key=lambda name: abs(np.log(pitch / SHAPES[name].pitch_hz)))
    energy = waves**2
    quarter = len(waves) // 4
    start, end = energy[quarter // 4 : quarter + quarter // 4], energy[-quarter - quarter // 4 : -quarter // 4]
    start_share, end_share = (float(part[:, 1].sum() / (part.sum() + 1e-12)) for part in (start, end))
    change = end_share - start_share
    pan = "right" if change > PAN_CHANGE else "left" if change < -PAN_CHANGE else "flat"
    return Heard(pitch, shape, pan, start_share, end_share)


def psnr(frames: Array, truth: Array) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]."""
    error = np.mean((np.asarray(frames, np.float64) - np.asarray(truth, np.float64)) ** 2)
    return float(10 * np.log10(1 / max(error, 1e-12)))


def sharpness(frames: Array) -> float:
    """Mean length of the luma gradient, larger for sharper outlines of the same picture."""
    luma = np.asarray(frames, np.float64) @ np.array([0.2126, 0.7152, 0.0722])
    return float((np.diff(luma, axis=-1) ** 2).mean() ** 0.5 + (np.diff(luma, axis=-2) ** 2).mean() ** 0.5)


def agreement(seen: Seen, heard: Heard, truth: Mapping[str, str]) -> dict[str, bool]:
    """Whether every attribute of ``truth`` (color, background, motion, shape) is there, and its tone and panning."""
    motion = truth["motion"]
    return {
        "colour": seen.color == truth["color"],
        "background": seen.background == truth["background"],
        "direction": seen.motion == motion,
        "shape": seen.shape == truth["shape"],
        "pitch": heard.shape == truth["shape"],
        "pan": heard.pan == (motion if motion in ("left", "right") else "flat"),
    }

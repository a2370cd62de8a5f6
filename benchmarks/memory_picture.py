"""Draws the memory of a run over time, its stages as bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SIZE = (1200, 640)
MARGIN = (80, 56, 24, 150)  # left, top, right, bottom
COLOURS = ("#d8e6f3", "#fbe3cf")
LINE, PLANNED, BUDGET, INK, GRID = "#1f5c99", "#c0562f", "#b00020", "#222222", "#dddddd"


class Sample(NamedTuple):
    """Resident memory at one time."""

    seconds: float
    resident: int


class Band(NamedTuple):
    """A stage: when it ran and what was predicted (0: nothing)."""

    name: str
    begins: float
    ends: float
    planned: int


def draw(path: Path, title: str, samples: Sequence[Sample], bands: Sequence[Band], budget: int | None) -> None:
    """Write a PNG: resident memory as a line, stages as bands with their predicted peaks, the budget as a line."""
    image = Image.new("RGB", SIZE, "white")
    canvas = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]
    duration = max(samples[-1].seconds, *(band.ends for band in bands), 1e-3)
    highest = max(*(s.resident for s in samples), *(b.planned for b in bands), budget or 0, 1) * 1.08

    def x(seconds: float) -> float:
        return left + (right - left) * seconds / duration

    def y(amount: float) -> float:
        return bottom - (bottom - top) * amount / highest

    for index, band in enumerate(bands):
        canvas.rectangle((x(band.begins), top, x(band.ends), bottom), fill=COLOURS[index % 2])
    step = _step(highest / 1e9)
    for tick in range(int(highest / 1e9 / step) + 1):
        amount = tick * step
        canvas.line((left, y(amount * 1e9), right, y(amount * 1e9)), fill=GRID)
        canvas.text((left - 8, y(amount * 1e9)), f"{amount:g} GB", fill=INK, font=small, anchor="rm")
    for tick in range(7):
        seconds = duration * tick / 6
        canvas.text((x(seconds), bottom + 6), f"{seconds:.0f} s", fill=INK, font=small, anchor="mt")
    for band in bands:
        if band.planned:
            canvas.line((x(band.begins), y(band.planned), x(band.ends), y(band.planned)), fill=PLANNED, width=2)
    canvas.line([(x(s.seconds), y(s.resident)) for s in samples], fill=LINE, width=2)
    if budget is not None:
        canvas.line((left, y(budget), right, y(budget)), fill=BUDGET, width=1)
        canvas.text((right - 4, y(budget) - 2), "budget", fill=BUDGET, font=small, anchor="rb")
    canvas.rectangle((left, top, right, bottom), outline=INK)
    _name_bands(image, bands, [(x(b.begins) + x(b.ends)) / 2 for b in bands], bottom + 26, small)
    canvas.text((left, 12), title, fill=INK, font=font)
    for place, (colour, text) in enumerate(((LINE, "resident, from outside"), (PLANNED, "predicted peak of a stage"))):
        start = right - 400 + 190 * place
        canvas.line((start, 42, start + 24, 42), fill=colour, width=2)
        canvas.text((start + 30, 42), text, fill=INK, font=small, anchor="lm")
    image.save(path, "PNG")


def _step(highest: float) -> float:
    """A round distance of grid lines for an axis up to ``highest``."""
    step = 0.001
    while highest / step > 10:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    return step


def _name_bands(image: Image.Image, bands: Sequence[Band], middles: Sequence[float], top: float, font: object) -> None:
    """Names of the stages below the picture, upright, no two over each other."""
    free = 0.0
    for band, middle in zip(bands, middles, strict=True):
        label = Image.new("RGB", (MARGIN[3] - 34, 15), "white")
        ImageDraw.Draw(label).text((label.width - 1, 7), band.name, fill=INK, font=font, anchor="rm")  # type: ignore[arg-type]
        place = max(middle - 7, free)
        free = place + 15
        if free < image.width:
            image.paste(label.rotate(90, expand=True), (int(place), int(top)))

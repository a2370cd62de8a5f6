"""A plan as a picture: one stacked bar per stage, and the budget as a line.

Of windows of a clip that take the same the first one is drawn, with its number.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ltx2rt.errors import MediaError
from ltx2rt.graph.pipelines.plan import Plan
from ltx2rt.memory.limits import format_bytes

_COLOURS = {
    "process": "#9aa0a6",
    "kept weights": "#274b7a",
    "weights": "#3f6fb5",
    "slots": "#6fa8dc",
    "caches": "#8e63b0",
    "activations": "#d98032",
    "working": "#e3b448",
    "host": "#5a9e6f",
}
_BAR, _GAP, _LABEL, _LENGTH, _MARGIN, _FONT = 26, 12, 190, 720, 24, 15


def write_picture(plan: Plan, path: Path) -> None:
    """Write a PNG.

    Raises:
        MediaError: the file cannot be written.
    """
    picture = draw(plan)
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise MediaError(f"cannot write the picture {path}: {error.strerror or error}.") from error


def draw(plan: Plan) -> Image.Image:
    """The picture: bytes to the right, one bar per stage."""
    font = ImageFont.load_default(size=_FONT)
    longest = max([plan.peak_bytes, plan.budget or 0 if (plan.budget or 0) < 2 * plan.peak_bytes else 0])
    stages = [stage for group in plan.groups for stage in group.stages]
    height = 2 * _MARGIN + len(stages) * (_BAR + _GAP) + 3 * _BAR
    picture = Image.new("RGB", (_LABEL + _LENGTH + 6 * _MARGIN, height), "white")
    pen = ImageDraw.Draw(picture)

    def place(nbytes: float) -> float:
        return _LABEL + _LENGTH * nbytes / longest

    top = _MARGIN
    for stage in stages:
        name = f"{stage.need.window}: {stage.need.name}" if stage.need.window else stage.need.name
        pen.text((_LABEL - 8, top + _BAR / 2), name, fill="black", font=font, anchor="rm")
        start = 0
        for kind, nbytes in {"process": plan.base_bytes, **stage.need.parts}.items():
            if nbytes:
                pen.rectangle((place(start), top, place(start + nbytes), top + _BAR), fill=_COLOURS[kind])
            start += nbytes
        text = format_bytes(stage.peak_bytes)
        pen.text((place(start) + 6, top + _BAR / 2), text, fill="black", font=font, anchor="lm")
        top += _BAR + _GAP
    if plan.budget is not None and plan.budget <= longest:
        x = place(plan.budget)
        pen.line((x, _MARGIN - 8, x, top), fill="#b3261e", width=2)
        pen.text((x, top + 4), f"budget {format_bytes(plan.budget)}", fill="#b3261e", font=font, anchor="mt")
    left = float(_LABEL)
    for kind, colour in _COLOURS.items():
        pen.rectangle((left, top + _BAR + 6, left + 14, top + _BAR + 20), fill=colour)
        pen.text((left + 20, top + _BAR + 13), kind, fill="black", font=font, anchor="lm")
        left += 36 + font.getlength(kind)
    return picture

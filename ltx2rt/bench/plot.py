"""A bar per case: its share of the machine's ceiling, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ltx2rt.bench.runner import Row
from ltx2rt.errors import MediaError

_ROW, _MARGIN, _TITLE, _SCALE_WIDTH, _LABEL_GAP = 20, 16, 44, 620, 10
_BACKGROUND, _INK, _GRID = "white", "#202020", "#dddddd"
_COLOURS = {"arithmetic": "#3465a4", "read": "#c17d11"}
_FONT_SIZE = 13


def write_plot(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Draw the share of the ceiling of every row.

    Raises:
        MediaError: when the file cannot be written.
    """
    image = draw(title, rows)
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise MediaError(f"the plot cannot be written to {path}: {error}; choose another file.") from error


def draw(title: str, rows: Sequence[Row]) -> Image.Image:
    font = ImageFont.load_default(_FONT_SIZE)
    left = _MARGIN + round(max((font.getlength(row.name) for row in rows), default=0)) + _LABEL_GAP
    height = _TITLE + _ROW * len(rows) + 2 * _MARGIN + _ROW
    width = max(left + _SCALE_WIDTH + 90, round(font.getlength(title)) + 2 * _MARGIN)
    image = Image.new("RGB", (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=font)
    bottom = _TITLE + _ROW * len(rows)
    for percent in range(0, 101, 20):
        x = left + _SCALE_WIDTH * percent // 100
        pen.line((x, _TITLE, x, bottom), fill=_GRID)
        pen.text((x, bottom + 4), f"{percent} %", fill=_INK, font=font, anchor="ma")
    for number, row in enumerate(rows):
        values = row.as_dict()
        percent, y = values["percent_of_ceiling"], _TITLE + _ROW * number
        end = left + round(_SCALE_WIDTH * min(percent, 110) / 100)
        pen.text((left - _LABEL_GAP, y + _ROW // 2), row.name, fill=_INK, font=font, anchor="rm")
        pen.rectangle((left, y + 3, end, y + _ROW - 3), fill=_COLOURS[row.bound])
        pen.text((end + 4, y + _ROW // 2), f"{percent:.0f}", fill=_INK, font=font, anchor="lm")
    legend = left
    for bound, colour in _COLOURS.items():
        pen.rectangle((legend, bottom + _ROW + 6, legend + 12, bottom + _ROW + 18), fill=colour)
        text = f"bound by {bound}"
        pen.text((legend + 18, bottom + _ROW + 12), text, fill=_INK, font=font, anchor="lm")
        legend += 40 + round(font.getlength(text))
    return image

"""Pictures made of a clip: a frame as PNG, a contact sheet of several, and small moving pictures."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from ltx2rt.errors import UsageError
from ltx2rt.media.output_file import OutputFile
from ltx2rt.types import Array

SHEET_COLUMNS = 4
SHEET_ROWS = 3
_SHEET_MARGIN = 4
_SHEET_CELL_WIDTH = 320
_BACKGROUND = 24


def to_uint8(frame: Array) -> Array:
    """Bytes of a picture: float in [0, 1] times 255, clipped and truncated; bytes as they are.

    Raises:
        UsageError: not (H, W, 3), or neither uint8 nor float.
    """
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise UsageError(f"a picture must be (H, W, 3), got {frame.shape}; give one RGB frame.")
    if frame.dtype == np.uint8:
        return frame
    if frame.dtype.kind != "f":
        raise UsageError(f"a picture must be uint8 or float in [0, 1], got {frame.dtype}; convert it first.")
    result: Array = (np.clip(frame, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
    return result


def write_png(path: str | os.PathLike[str], frame: Array) -> None:
    """Write one picture; the file appears only when complete.

    Args:
        path: ends in .png.
        frame: (H, W, 3) RGB, uint8 or float in [0, 1].

    Raises:
        UsageError: another extension, or as `to_uint8`.
        MediaError: the file cannot be written.
    """
    if os.path.splitext(os.fspath(path))[1].lower() != ".png":
        raise UsageError(f"a picture is written as .png, got {os.fspath(path)!r}; rename it.")
    encoded = io.BytesIO()
    Image.fromarray(to_uint8(frame)).save(encoded, "PNG")
    with OutputFile(path) as output:
        output.file.write(encoded.getbuffer())


def write_webp(path: str | os.PathLike[str], frames: Array, frame_rate: float) -> None:
    """Write frames as one picture that moves, or stands still where there is one; the file appears only when complete.

    Args:
        path: ends in .webp.
        frames: (F, H, W, 3) RGB, uint8 or float in [0, 1].
        frame_rate: frames per second.

    Raises:
        UsageError: another extension, no frame, or as `to_uint8`.
        MediaError: the file cannot be written.
    """
    if os.path.splitext(os.fspath(path))[1].lower() != ".webp":
        raise UsageError(f"moving pictures are written as .webp, got {os.fspath(path)!r}; rename it.")
    if not len(frames):
        raise UsageError("moving pictures need at least one frame, got none.")
    first, *others = (Image.fromarray(to_uint8(frame)) for frame in frames)
    encoded = io.BytesIO()
    first.save(
        encoded,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / frame_rate),
        loop=0,
        quality=80,
        method=0,
    )
    with OutputFile(path) as output:
        output.file.write(encoded.getbuffer())


def sheet_indices(num_frames: int) -> list[int]:
    """Which frames of a clip go on a contact sheet: the first, the last, and the rest evenly between."""
    count = min(num_frames, SHEET_COLUMNS * SHEET_ROWS)
    return [round(i * (num_frames - 1) / max(count - 1, 1)) for i in range(count)]


class ContactSheet:
    """Collects the frames of a clip that `sheet_indices` names while they pass, and lays them out in rows.

    Args:
        num_frames: of the clip.
    """

    def __init__(self, num_frames: int) -> None:
        self._wanted = sheet_indices(num_frames)
        self._next = 0
        self._cells: list[Image.Image] = []

    def add(self, frames: Array) -> None:
        """The next frames of the clip, (F, H, W, 3) uint8 or float in [0, 1]."""
        for frame in frames:
            if self._next in self._wanted:
                cell = Image.fromarray(to_uint8(frame))
                scale = min(1.0, _SHEET_CELL_WIDTH / cell.width)
                size = (max(1, round(cell.width * scale)), max(1, round(cell.height * scale)))
                self._cells.append(cell.resize(size, Image.Resampling.BOX))
            self._next += 1

    def picture(self) -> Array:
        """The sheet, (H, W, 3) uint8.

        Raises:
            UsageError: no frame was added.
        """
        if not self._cells:
            raise UsageError("a contact sheet needs at least one frame; add frames first.")
        width, height = self._cells[0].size
        columns = min(SHEET_COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // columns)
        step_x, step_y = width + _SHEET_MARGIN, height + _SHEET_MARGIN
        sheet = np.full((rows * step_y + _SHEET_MARGIN, columns * step_x + _SHEET_MARGIN, 3), _BACKGROUND, np.uint8)
        for index, cell in enumerate(self._cells):
            top = _SHEET_MARGIN + index // columns * step_y
            left = _SHEET_MARGIN + index % columns * step_x
            sheet[top : top + height, left : left + width] = np.asarray(cell)
        return sheet

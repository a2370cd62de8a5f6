"""How the pictures of a clip lie on the grid of the model's cells, and the way back to their own size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.media.pixel_range import to_unit_range
from ltx2rt.media.resize import bilinear
from ltx2rt.types import Array

Way = Literal["pad", "crop", "stretch"]


@dataclass(frozen=True)
class GridFit:
    """A size, the size that the model takes for it, and how one becomes the other.

    Attributes:
        height, width: of the clip's pictures.
        grid_height, grid_width: of the model's.
        way: ``pad`` mirrors the borders outwards at the right and the bottom, ``crop`` cuts the centre out,
            ``stretch`` scales.
    """

    height: int
    width: int
    grid_height: int
    grid_width: int
    way: Way

    @classmethod
    def of(cls, height: int, width: int, side: int, way: str, name: str, *, least: int = 0) -> GridFit:
        """The fit of a clip.

        Args:
            height, width: of its pictures.
            side: of which the model's sides are multiples.
            way: ``pad``, ``crop``, ``stretch`` or ``error``.
            name: of the clip, for the error.
            least: pixels that the model's sides must have.

        Raises:
            UsageError: ``error``, and the sides are no multiples; or too small to be cut.
        """
        least = max(least, side)
        fits = height % side == 0 and width % side == 0 and min(height, width) >= least
        if way == "error" and not fits:
            raise UsageError(
                f"{name} is {width}x{height}; both sides must be multiples of {side}, from {least} on, where nothing "
                "may be fitted. Leave the fit open, or choose pad, crop or stretch."
            )
        if way == "crop":
            if min(height, width) < least:
                raise UsageError(
                    f"{name} is {width}x{height}, too small to be cut to multiples of {side} from {least} on; pad it."
                )
            return cls(height, width, height // side * side, width // side * side, "crop")
        grid_height, grid_width = (max(-(-length // side) * side, least) for length in (height, width))
        return cls(height, width, grid_height, grid_width, _way(way))

    @property
    def is_exact(self) -> bool:
        """Whether the clip is of the model's size."""
        return (self.height, self.width) == (self.grid_height, self.grid_width)

    def to_grid(self, picture: Array) -> Array:
        """(height, width, 3) uint8 or floating point -> (grid_height, grid_width, 3) of the same."""
        if self.is_exact:
            return picture
        if self.way == "crop":
            return picture[self._rows, self._columns]
        if self.way == "stretch":
            scaled = bilinear(picture, self.grid_height, self.grid_width)
            return np.rint(scaled).astype(np.uint8) if picture.dtype == np.uint8 else scaled
        below, right = self.grid_height - self.height, self.grid_width - self.width
        mode: Literal["reflect", "edge"] = "reflect" if below < self.height and right < self.width else "edge"
        return np.pad(picture, ((0, below), (0, right), (0, 0)), mode=mode)

    def size(self, scale: Fraction = Fraction(1)) -> tuple[int, int]:
        """(height, width) of the result; even, as video files need it. What was cut off and then enlarged stays off."""
        enlarged = self.way == "crop" and scale != 1
        sides = (self.grid_height, self.grid_width) if enlarged else (self.height, self.width)
        height, width = (int(side * scale) // 2 * 2 for side in sides)
        return height, width

    def restored(self, picture: Array, own: Array | None, scale: Fraction = Fraction(1)) -> Array:
        """A picture of the model at the clip's own size, times ``scale``.

        Args:
            picture: (grid_height * scale, grid_width * scale, 3) float32 in [0, 1].
            own: (height, width, 3) uint8, or floating point in [0, 1]: the clip's picture at that time, whose border
                fills what was cut off; None: the picture's own border does.
            scale: how much larger the picture is than what the model was given.

        Returns:
            `size` (scale) float32.
        """
        height, width = self.size(scale)
        if picture.shape[:2] == (height, width):
            return picture
        if self.way == "stretch":
            return bilinear(picture, height, width)
        if self.way == "pad" or scale != 1:
            return picture[:height, :width]
        if own is None:
            top, left = self._rows.start, self._columns.start
            below, right = self.height - self._rows.stop, self.width - self._columns.stop
            return np.pad(picture, ((top, below), (left, right), (0, 0)), mode="edge")
        whole: Array = to_unit_range(own).copy()
        whole[self._rows, self._columns] = picture
        return whole

    @property
    def words(self) -> str:
        """What is done to the pictures; empty: nothing."""
        if self.is_exact:
            return ""
        done = {"pad": "filled", "crop": "cut", "stretch": "stretched"}[self.way]
        return f"{self.width}x{self.height} is {done} to {self.grid_width}x{self.grid_height} for the model"

    @property
    def _rows(self) -> slice:
        return _centre(self.height, self.grid_height)

    @property
    def _columns(self) -> slice:
        return _centre(self.width, self.grid_width)


def _centre(side: int, length: int) -> slice:
    start = (side - length) // 2
    return slice(start, start + length)


def _way(way: str) -> Way:
    if way == "stretch":
        return "stretch"
    return "pad"

"""How stored pictures are turned and mirrored for showing: the display matrix that containers keep beside them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, cast

from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """One of the eight ways to show a picture, as steps in this order.

    Attributes:
        transposed: rows become columns.
        mirrored: left and right change places.
        upside_down: top and bottom change places.
    """

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @property
    def filters(self) -> list[tuple[str, str]]:
        """FFmpeg's filters of the steps, with their arguments."""
        steps = (
            (self.transposed, ("transpose", "cclock_flip")),
            (self.mirrored, ("hflip", "")),
            (self.upside_down, ("vflip", "")),
        )
        return [step for wanted, step in steps if wanted]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as shown, of a stored picture."""
        return (height, width) if self.transposed else (width, height)


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """What the display matrix of a decoded frame asks for; `UPRIGHT` without one.

    The matrix takes stored places (x, y) to shown ones, x' = a x + c y and y' = b x + d y; its shift only brings the
    picture back into view. Angles that are no quarter turns, which no camera writes, are rounded to the nearest one.
    """
    matrix = cast("Mapping[SideDataType, SideData]", frame.side_data).get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirrored=a < 0, upside_down=d < 0)
    return Orientation(transposed=True, mirrored=c < 0, upside_down=b < 0)

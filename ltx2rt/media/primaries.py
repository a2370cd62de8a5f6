"""Primaries of RGB, and the matrices between them, computed from chromaticities."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ltx2rt.types import Array

Point = tuple[float, float]


class Primaries(NamedTuple):
    """CIE x, y of red, green, blue and white."""

    red: Point
    green: Point
    blue: Point
    white: Point

    @property
    def numbers(self) -> tuple[float, ...]:
        """The eight numbers in a row, as files have them."""
        return tuple(number for point in self for number in point)


D65 = (0.3127, 0.3290)
REC709 = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
REC2020 = Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65)
AP1 = Primaries((0.713, 0.293), (0.165, 0.830), (0.128, 0.044), (0.32168, 0.33767))  # ACEScg and ACEScct

# Cone responses of CIECAM02, in which light is adapted from one white to another.
_CAT02 = np.array([[0.7328, 0.4296, -0.1624], [-0.7036, 1.6975, 0.0061], [0.0030, 0.0136, 0.9834]])


def to_xyz(primaries: Primaries) -> Array:
    """(3, 3) float64 matrix from linear RGB to CIE XYZ; white has the luminance 1."""
    columns = np.array([_xyz(point) for point in primaries]).T
    result: Array = columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
    return result


@functools.cache
def matrix(source: Primaries, target: Primaries) -> Array:
    """(3, 3) float64 matrix from linear RGB of one set of primaries to that of another; white stays white (CAT02)."""
    adapted = np.eye(3)
    if source.white != target.white:
        gains = (_CAT02 @ _xyz(target.white)) / (_CAT02 @ _xyz(source.white))
        adapted = np.linalg.solve(_CAT02, gains[:, None] * _CAT02)
    result: Array = np.linalg.solve(to_xyz(target), adapted @ to_xyz(source))
    result.flags.writeable = False
    return result


def _xyz(point: Point) -> Array:
    x, y = point
    return np.array([x / y, 1.0, (1.0 - x - y) / y])

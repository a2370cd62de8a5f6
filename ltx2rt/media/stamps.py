"""When pictures are shown: constant rates among time stamps, and the places of pictures at a constant rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ltx2rt.types import Array

WAVER_S = 1e-3  # stamps that lie closer to a constant rate than this are constant: containers count milliseconds
_LOST_SHARE = 0.01  # a rate is fast enough for a clip of variable rate when fewer of its pictures fall together
_ON_GRID = 0.1  # frames by which pictures are moved in the mean; a quarter for a grid that has nothing to do with them

_NTSC = Fraction(1000, 1001)
_RATES = sorted(
    {Fraction(n) for n in (1, 2, 3, 5, 6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 48, 50, 60, 72, 90, 100, 120, 144, 240)}
    | {Fraction(25, 2)}
    | {n * _NTSC for n in (24, 30, 48, 60, 120)}
)


def constant_rate(times: Sequence[float], stated: Sequence[Fraction | None]) -> Fraction | None:
    """The rate of pictures that are shown at equal distances; None: the distances differ.

    Args:
        times: seconds, rising, at least two.
        stated: rates that the container gives; the first that fits is taken, usual rates before unusual ones.
    """
    shown = np.asarray(times)
    measured = (len(shown) - 1) / (shown[-1] - shown[0])
    given = [Fraction(rate) for rate in stated if rate]
    usual = sorted(_RATES, key=lambda rate: abs(float(rate) / measured - 1))[:3]
    fitted = Fraction(_slope(shown)).limit_denominator(1001)
    for rate in [*(r for r in given if r in _RATES), *usual, *given, fitted]:
        if rate and _waver(shown, float(rate)) < WAVER_S:
            return rate
    return None


def _slope(times: Array) -> float:
    """Pictures per second, by least squares."""
    places = np.arange(len(times)) - (len(times) - 1) / 2
    return float((places @ places) / (places @ times))


def _waver(times: Array, rate: float) -> float:
    """Seconds: the largest distance of a stamp from equal steps, which may begin anywhere."""
    away = times - np.arange(len(times)) / rate
    return float(away.max() - away.min()) / 2


def sufficient_rate(times: Sequence[float]) -> Fraction:
    """The slowest usual rate at which hardly any picture falls on another one; where stamps lie on the grid of a rate
    that is up to twice as fast, that one.

    Args:
        times: seconds, rising.
    """
    shown = np.asarray(times) - times[0]
    enough = [rate for rate in _RATES if _lost(shown, rate) <= _LOST_SHARE] or [_RATES[-1]]
    fitting = [rate for rate in enough if rate <= 2 * enough[0] and _misplaced(shown, rate) <= _ON_GRID]
    if not fitting:
        return enough[0]
    # Of a rate and its NTSC sibling (30 and 30000/1001) the better one.
    return min((rate for rate in fitting if rate <= fitting[0] / _NTSC), key=lambda rate: _misplaced(shown, rate))


def _lost(shown: Array, rate: Fraction) -> float:
    return 1.0 - len(np.unique(_slots(shown, rate))) / len(shown)


def _misplaced(shown: Array, rate: Fraction) -> float:
    """How far pictures are moved, in frames."""
    return float(np.abs(_slots(shown, rate) - shown * float(rate)).mean())


def _slots(shown: Array, rate: Fraction) -> Array:
    result: Array = np.floor(shown * float(rate) + 0.5)
    return result


class Layout:
    """Pictures at their stamps, laid out at a constant rate: each stands at the frame that is nearest to its stamp.

    Args:
        first_s: seconds; when the first picture is shown.
        rate: frames/s.
    """

    def __init__(self, first_s: Fraction, rate: Fraction) -> None:
        self._first_s, self._rate = first_s, rate

    def frame(self, shown_s: Fraction) -> int:
        """The frame that is nearest to a time."""
        return math.floor((shown_s - self._first_s) * self._rate + Fraction(1, 2))

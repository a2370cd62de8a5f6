"""Exact frame rates."""

from __future__ import annotations

from fractions import Fraction

from ltx2rt.errors import UsageError


def exact_frame_rate(frame_rate: Fraction | float) -> Fraction:
    """The rational rate meant by ``frame_rate``: 23.976 is 24000/1001, 29.97 is 30000/1001, 12.5 is 25/2.

    Raises:
        UsageError: not positive, not finite, or less than a frame in 2000 s.
    """
    if not 0 < frame_rate < float("inf"):
        raise UsageError(f"frame rate must be positive, got {frame_rate}; use for example 24.")
    if isinstance(frame_rate, Fraction):
        return frame_rate
    if frame_rate == round(frame_rate):
        return Fraction(round(frame_rate))
    # Broadcast rates are usually written with two or three decimals; whole rates lie 1e-3 away.
    broadcast = Fraction(round(frame_rate * 1.001) * 1000, 1001)
    if broadcast and abs(frame_rate / broadcast - 1) < 2e-4:
        return broadcast
    exact = Fraction(frame_rate).limit_denominator(1000)
    if not exact:
        raise UsageError(f"frame rate must be 0.001 or more, got {frame_rate:g}; use for example 24.")
    return exact

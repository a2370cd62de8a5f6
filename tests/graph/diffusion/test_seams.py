"""Joins of windows: pictures and samples of known values come out as the formulas say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ltx2rt.graph.diffusion.seams import FramesInMemory, PictureJoin, SoundJoin, crossfaded, sound_until
from ltx2rt.graph.diffusion.windows import Window, window_plan

Array = np.ndarray[Any, np.dtype[Any]]
RATE, FPS = 800, 24.0


def plan(frames: int, window: int, carry: int, blend: int) -> tuple[Window, ...]:
    return window_plan(frames, window=window, carry=carry, blend=blend, step=8)


def pictures(window: Window) -> Array:
    """(F, 1, 2, 3): each frame says its window and its place in it."""
    values = 1000.0 * window.index + np.arange(window.frames)
    return np.broadcast_to(values[:, None, None, None], (window.frames, 1, 2, 3)).astype(np.float32)


def joined_pictures(windows: Sequence[Window], size: int) -> Array:
    join, frames = PictureJoin(FramesInMemory()), []
    for window in windows:
        decoded = pictures(window)
        frames += list(join.frames(window, (decoded[i : i + size] for i in range(0, window.frames, size))))
    return np.concatenate(frames)


def expected_pictures(windows: Sequence[Window]) -> Array:
    """Spec 6.7, frame by frame, on the clip's own time axis."""
    result = np.concatenate([pictures(window)[window.carry :] for window in windows])
    for before, after in pairwise(windows):
        n, decoded = before.blend, pictures(after)
        for k in range(1, n + 1):
            frame = before.stop - n + k - 1
            start, end = result[frame], decoded[after.carry - n + k - 1]
            result[frame] = start + (end - start) * (k / (n + 1))
    return result


@pytest.mark.parametrize("size", [1, 5, 8, 1000])
@pytest.mark.parametrize(
    "sizes", [(241, 97, 25, 25), (257, 97, 25, 8), (81, 41, 17, 1), (49, 33, 17, 0), (9, 97, 25, 25)]
)
def test_pictures_are_joined_as_the_formula_says(sizes: tuple[int, int, int, int], size: int) -> None:
    windows = plan(*sizes)
    found = joined_pictures(windows, size)
    assert len(found) == sizes[0]
    np.testing.assert_allclose(found, expected_pictures(windows), rtol=1e-6)


def test_frames_come_as_soon_as_they_are_known() -> None:
    first, second = plan(49, 33, 17, 8)
    join = PictureJoin(FramesInMemory())
    assert sum(map(len, join.frames(first, [pictures(first)]))) == 33 - 8
    after = join.frames(second, (frame[None] for frame in pictures(second)))
    assert len(next(after)) == 1  # the first blended one, without waiting for the rest of the window


def waveform(window: Window, missing: int = 0) -> Array:
    """(S, 2) of a window: both channels say where they are; ``missing`` samples shorter than its frames."""
    count = round(window.frames / FPS * RATE) - missing
    values = np.sin(np.arange(count) * 0.01 * (window.index + 1)) + window.index
    return np.stack([values, -values], axis=1).astype(np.float32)


def expected_sound(windows: Sequence[Window], missing: int) -> Array:
    """Spec 6.8, written for whole arrays."""
    fade, done, tail = round(0.04 * RATE), np.zeros((0, 2)), None
    for window in windows:
        given = waveform(window, missing).astype(np.float64)
        frames = round(len(window.owned) / FPS * RATE)
        base = min(len(given), frames)
        extra = 0 if tail is None else min(fade, len(tail))
        right = given[len(given) - min(len(given), frames + extra) :]
        if tail is not None:
            f = min(max(0, len(right) - base), len(tail), len(right))
            t = np.linspace(0, 1, f)[:, None] * np.pi / 2
            tail[len(tail) - f :] = tail[len(tail) - f :] * np.cos(t) + right[:f] * np.sin(t)
            done, right = np.concatenate([done, tail]), right[f:]
        cut = len(right) - (round(window.blend / FPS * RATE) if window.blend else 0)
        done, tail = np.concatenate([done, right[:cut]]), right[cut:].copy() if cut < len(right) else None
    return done


@pytest.mark.parametrize("missing", [0, 7, 40])
@pytest.mark.parametrize(
    "sizes", [(241, 97, 25, 25), (257, 97, 25, 8), (81, 41, 17, 1), (49, 33, 17, 0), (9, 97, 25, 25)]
)
def test_sound_is_joined_as_the_formula_says(sizes: tuple[int, int, int, int], missing: int) -> None:
    windows, join = plan(*sizes), SoundJoin(RATE, FPS)
    found = np.concatenate([join.samples(window, waveform(window, missing)) for window in windows])
    np.testing.assert_allclose(found, expected_sound(windows, missing), atol=1e-6)
    # As long as the pictures, but for the rounding of each window and what the first one lacks.
    assert abs(len(found) - round(sizes[0] / FPS * RATE) + missing) <= len(windows)


def test_power_stays_the_same_through_a_crossfade() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((2, 100_000, 1)).astype(np.float32)
    faded, rest = crossfaded(left, right, 80_000)
    assert len(rest) == 20_000
    assert (faded[:20_000] == left[:20_000]).all()
    assert abs(faded[40_000:60_000].std() - 1) < 0.02
    # One sample has weight 0: both ends are included, and the first one comes.
    assert (crossfaded(left, right, 1)[0] == left).all()


def test_given_sound_ends_where_the_pictures_are() -> None:
    given = np.arange(100, dtype=np.float32)[:, None]
    first = sound_until(given, 0, 2, 24.0, 240)
    assert len(first) == 20
    assert sound_until(given, 20, 8, 24.0, 240).ravel().tolist() == list(range(20, 80))
    assert len(sound_until(given, 80, 20, 24.0, 240)) == 20  # it is shorter than the clip
    assert len(sound_until(given, 100, 30, 24.0, 240)) == 0

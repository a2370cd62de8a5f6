"""The probes themselves, on pictures and tones drawn here with known contents, clean and degraded."""

from __future__ import annotations

import numpy as np
import probes
import pytest

from ltx2rt.embedded.world import COLORS, SHAPES, known_words, unknown_words

SIZE, FRAMES, RATE = 128, 9, 24000
PATHS = {
    "left": ((0.7, 0.5), (0.3, 0.5)),
    "right": ((0.3, 0.5), (0.7, 0.5)),
    "up": ((0.5, 0.7), (0.5, 0.3)),
    "down": ((0.5, 0.3), (0.5, 0.7)),
    "still": ((0.5, 0.5), (0.5, 0.5)),
}


def clip(color: str, shape: str, motion: str, background: str) -> np.ndarray:
    y, x = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE
    start, end = (np.array(point) for point in PATHS[motion])
    frames = []
    for progress in np.linspace(0, 1, FRAMES):
        dx, dy = (axis - centre for axis, centre in zip((x, y), start + (end - start) * progress, strict=True))
        inside = {
            "circle": dx**2 + dy**2 < 0.16**2,
            "square": np.maximum(abs(dx), abs(dy)) < 0.15,
            "triangle": np.maximum(dy - 0.11, abs(dx) * 3**0.5 / 2 - dy / 2 - 0.11) < 0,
        }[shape]
        frames.append(np.where(inside[..., None], COLORS[color], COLORS[background]))
    return np.array(frames) / 255


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("motion", PATHS)
def test_look_names_what_is_drawn(shape: str, motion: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.03, (FRAMES, SIZE, SIZE, 3))
    seen = probes.look(clip("red", shape, motion, "blue") + noise)
    assert (seen.color, seen.shape, seen.motion, seen.background) == ("red", shape, motion, "blue")
    assert abs(seen.centres[0] - PATHS[motion][0]).max() < 0.04


@pytest.mark.parametrize(
    "color", [pytest.param(color, marks=() if color in ("red", "white") else pytest.mark.slow) for color in COLORS]
)
def test_look_tells_every_pair_of_colours_apart(color: str) -> None:
    for background in set(COLORS) - {color}:
        seen = probes.look(clip(color, "circle", "still", background))
        assert (seen.color, seen.background) == (color, background)


def test_look_finds_nothing_in_noise() -> None:
    frames = 0.5 + np.random.default_rng(1).normal(0, 0.02, (FRAMES, SIZE, SIZE, 3))
    assert probes.look(frames).motion == "none"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("shares", "pan"), [((0.1, 0.9), "right"), ((0.9, 0.1), "left"), ((0.5, 0.5), "flat")])
def test_listen_names_pitch_and_panning(shape: str, shares: tuple[float, float], pan: str) -> None:
    time = np.arange(RATE) / RATE
    angle = np.linspace(*shares, RATE) * np.pi / 2
    tone = 0.3 * np.sin(2 * np.pi * SHAPES[shape].pitch_hz * 1.04 * time)
    heard = probes.listen(tone[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), RATE)
    assert (heard.shape, heard.pan) == (shape, pan)
    assert abs(heard.pitch_hz - SHAPES[shape].pitch_hz * 1.04) < 2


def test_listen_hears_silence() -> None:
    assert probes.listen(np.zeros((RATE, 2)), RATE).shape == "silent"


def test_sharpness_falls_when_blurred() -> None:
    frames = clip("red", "square", "still", "blue")
    blurred = (frames + np.roll(frames, 1, axis=2) + np.roll(frames, -1, axis=2)) / 3
    assert probes.sharpness(blurred) < 0.9 * probes.sharpness(frames)


def test_words_of_the_world() -> None:
    assert {"red", "circle", "moves", "left", "background", "slowly"} <= known_words()
    assert unknown_words("A red Dragon moves left; a dragon's on a blue background 3") == ["dragon", "dragon's", "3"]
    assert unknown_words("The big yellow ball drifts from left to right, in front of a black wall.") == []

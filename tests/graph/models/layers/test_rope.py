"""Rotary tables against known values of the official code, and how they are shared between tokens."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.graph.models.layers.rope import frequencies, middle, rope_table
from ltx2rt.kernels import RopeTable
from ltx2rt.kernels.reference import rope_lanes

VIDEO_MAX = (20.0, 2048.0, 2048.0)


def video_positions() -> np.ndarray:
    """24 frames/s, latent grid 3 x 4 x 5."""
    f, h, w = (axis.ravel() for axis in np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij"))
    start = np.stack([np.maximum(8 * f - 7, 0).astype(np.float32) / np.float32(24), 32 * h, 32 * w])
    end = np.stack([(8 * f + 1).astype(np.float32) / np.float32(24), 32 * h + 32, 32 * w + 32])
    return np.stack([start, end], axis=-1)[None].astype(np.float32)


def audio_positions(frames: int) -> np.ndarray:
    edges = np.maximum(4 * np.arange(frames + 1) - 3, 0).astype(np.float32) * np.float32(160) / np.float32(16000)
    return np.stack([edges[:-1], edges[1:]], axis=-1)[None, None]


def table(positions: np.ndarray, dim: int, max_positions: tuple[float, ...], float64: bool = True) -> RopeTable:
    return rope_table(middle(positions), dim=dim, max_positions=max_positions, theta=10000.0, float64=float64)


def at(rope: RopeTable, half: int, head: int, token: int, lane: int) -> tuple[float, float]:
    cos, sin = rope_lanes(rope, 32 * half)
    return float(cos[0, token, head * half + lane]), float(sin[0, token, head * half + lane])


@pytest.mark.parametrize(
    ("head", "token", "lane", "expected", "tolerance"),
    [
        (0, 0, 0, (1.0, 0.0), 0.0),
        (0, 0, 1, (1.0, 0.0), 0.0),
        (0, 0, 2, (0.0032725, -0.9999946), 1e-6),
        (0, 0, 3, (0.0245411, -0.9996988), 1e-6),
        (0, 0, 4, (0.0245411, -0.9996988), 1e-6),
        (0, 59, 2, (0.0849821, -0.9963825), 1e-6),
        (0, 59, 3, (0.1709619, -0.9852777), 1e-6),
        (0, 59, 4, (0.2191012, -0.9757022), 1e-6),
        (5, 27, 10, (0.9674828, -0.2529368), 1e-5),
        (31, 59, 63, (-0.9236268, -0.3832931), 1e-3),
    ],
)
def test_video_values(head: int, token: int, lane: int, expected: tuple[float, float], tolerance: float) -> None:
    rope = table(video_positions(), 4096, VIDEO_MAX)
    assert at(rope, 64, head, token, lane) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("head", "token", "lane", "expected", "tolerance"),
    [
        (0, 0, 0, (0.0007854, -0.9999997), 1e-6),
        (0, 5, 0, (0.0298406, -0.9995547), 1e-6),
        (7, 3, 11, (0.9487522, -0.3160210), 1e-5),
        (31, 5, 31, (-0.9999999, -0.0002471), 1e-3),
    ],
)
def test_audio_values(head: int, token: int, lane: int, expected: tuple[float, float], tolerance: float) -> None:
    rope = table(audio_positions(6), 2048, (20.0,))
    assert at(rope, 32, head, token, lane) == pytest.approx(expected, abs=tolerance)


def test_frequencies() -> None:
    video = frequencies(4096, 3, theta=10000.0, float64=True)
    audio = frequencies(2048, 1, theta=10000.0, float64=True)
    assert (video.shape, audio.shape) == ((682,), (1024,))
    assert video.dtype == np.float32
    assert video[[0, 1, 340, 681]] == pytest.approx([1.5707963705, 1.5921852589, 156.02098, 15707.9629], rel=1e-7)
    assert audio[[1, 1022, 1023]] == pytest.approx([1.5850024223, 15567.1748, 15707.9629], rel=1e-7)
    single = frequencies(4096, 3, theta=10000.0, float64=False)
    assert 0 < np.abs(single - video).max() < 0.01
    for float64 in (True, False):
        assert frequencies(2, 1, theta=10000.0, float64=float64) == pytest.approx([np.pi / 2])


def test_middle() -> None:
    mid = middle(video_positions())
    assert mid.dtype == np.float32
    assert mid[0, :, 0] == pytest.approx([1 / 48, 16, 16])
    assert mid[0, :, 27] == pytest.approx([5 / 24, 48, 80])
    assert mid[0, :, 59] == pytest.approx([13 / 24, 112, 144])


def test_rows_are_distinct_coordinates() -> None:
    rope = table(video_positions(), 4096, VIDEO_MAX)
    assert rope.cos.shape == rope.sin.shape == (3 + 4 + 5, 682)
    assert rope.index.shape == (60, 3)
    assert rope.index.dtype == mx.int32
    assert rope.index[27].tolist() == [1, 3 + 1, 3 + 4 + 2]


def test_samples_with_other_positions_have_their_own_index() -> None:
    one = video_positions()
    two = one + np.array([0.25, 0.0, 0.0], dtype=np.float32)[None, :, None, None]
    together = table(np.concatenate([one, two]), 96, VIDEO_MAX)
    assert together.index.shape == (2, 60, 3)
    for sample, positions in enumerate((one, two)):
        for ours, alone in zip(rope_lanes(together, 48), rope_lanes(table(positions, 96, VIDEO_MAX), 48), strict=True):
            assert np.array_equal(np.array(ours[sample]), np.array(alone[0]))
    repeated = table(np.concatenate([one, one]), 96, VIDEO_MAX)
    assert repeated.index.shape == (60, 3)

"""Latent sizes, patches and positions: known values and the sizes that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import (
    AudioLatentShape,
    AudioScale,
    VideoLatentShape,
    VideoScale,
    audio_latent_frames,
    check_num_frames,
    check_resolution,
)
from ltx2rt.graph.diffusion.patchify import patchify_audio, patchify_video, unpatchify_audio, unpatchify_video
from ltx2rt.graph.diffusion.positions import audio_positions, video_grid_bounds, video_pixel_bounds, video_positions

SCALE, SOUND = VideoScale(8, 32, 32), AudioScale(16000, 160, 4)


def test_latent_of_a_clip() -> None:
    shape = VideoLatentShape.from_pixels(121, 512, 768, SCALE)
    assert shape.array_shape == (1, 16, 16, 24, 128)
    assert (shape.tokens, shape.tokens_per_frame, shape.pixel_frames(SCALE)) == (6144, 384, 121)


@pytest.mark.parametrize(
    ("frames", "rate", "expected"), [(121, 24, 126), (1, 50, 0), (3, 50, 2), (9, 30, 8), (97, 25, 97), (17, 25, 17)]
)
def test_audio_latents_are_25_per_second_with_ties_to_even(frames: int, rate: float, expected: int) -> None:
    assert audio_latent_frames(frames, rate, SOUND) == expected


@pytest.mark.parametrize(
    ("frames", "message"), [(96, "got 96; use 97 or 89"), (2, "got 2; use 9 or 1"), (0, "got 0; use 1")]
)
def test_frame_counts_other_than_8k_plus_1_are_refused(frames: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_num_frames(frames, SCALE)
    check_num_frames(97, SCALE)
    check_num_frames(1, SCALE)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (480, 704, r"height must be a multiple of 64, got 480 \(of 480x704\); use 512 or 448"),
        (512, 700, "width must be a multiple of 64, got 700 .*; use 704 or 640"),
        (512, 10, "width must be a multiple of 64, got 10 .*; use 64"),
        (-64, 64, "height must be a multiple of 64, got -64 .*; use 64"),
    ],
)
def test_other_resolutions_are_refused_with_a_suggestion(height: int, width: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_resolution(height, width, multiple=64)


def test_good_resolutions_pass() -> None:
    check_resolution(1024, 1536, multiple=64)
    check_resolution(480, 704, multiple=32)


def test_empty_latents_and_bad_rates_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        VideoLatentShape(0, 1, 1)
    with pytest.raises(UsageError, match="frames 0"):
        AudioLatentShape(0)
    with pytest.raises(UsageError, match=r"frame_rate must be a positive number .* got 0"):
        audio_latent_frames(9, 0, SOUND)
    with pytest.raises(UsageError, match="got -1"):
        video_positions(VideoLatentShape(1, 1, 1), -1, SCALE)


def test_video_tokens_run_over_width_first() -> None:
    latent = np.arange(2 * 3 * 2 * 4 * 5).reshape(2, 3, 2, 4, 5)
    tokens = patchify_video(latent)
    np.testing.assert_array_equal(tokens[1, 1 * 8 + 1 * 4 + 2], latent[1, 1, 1, 2])
    np.testing.assert_array_equal(unpatchify_video(tokens, VideoLatentShape(3, 2, 4, 2, 5)), latent)


def test_audio_features_are_channel_major() -> None:
    latent = np.arange(1 * 3 * 16 * 8).reshape(1, 3, 16, 8)
    tokens = patchify_audio(latent)
    assert tokens.shape == (1, 3, 128)
    assert tokens[0, 2, 5 * 16 + 7] == latent[0, 2, 7, 5]
    np.testing.assert_array_equal(unpatchify_audio(tokens, AudioLatentShape(3)), latent)


@pytest.mark.parametrize(
    "call",
    [
        lambda: patchify_video(np.zeros((1, 2, 3, 4))),
        lambda: unpatchify_video(np.zeros((1, 7, 128)), VideoLatentShape(2, 2, 2)),
        lambda: patchify_audio(np.zeros((1, 2, 3))),
        lambda: unpatchify_audio(np.zeros((1, 7, 64)), AudioLatentShape(7)),
    ],
)
def test_wrong_shapes_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()  # type: ignore[operator]


def test_middles_of_video_tokens_at_24_frames_per_second() -> None:
    positions = video_positions(VideoLatentShape(3, 4, 5), 24.0, SCALE)
    assert positions.shape == (1, 3, 60, 2)
    assert positions.dtype == np.float32
    middles = positions.mean(axis=-1)[0].T
    np.testing.assert_allclose(middles[0], [0.0208333, 16, 16], atol=1e-6)
    np.testing.assert_allclose(middles[27], [0.2083333, 48, 80], atol=1e-6)
    np.testing.assert_allclose(middles[59], [0.5416667, 112, 144], atol=1e-6)


def test_first_latent_frame_holds_one_frame() -> None:
    frames = video_pixel_bounds(VideoLatentShape(3, 1, 1), SCALE)[0, 0]
    assert frames.tolist() == [[0, 1], [1, 9], [9, 17]]
    assert video_pixel_bounds(VideoLatentShape(2, 1, 1), SCALE, causal=False)[0, 0].tolist() == [[0, 8], [8, 16]]
    assert video_pixel_bounds(VideoLatentShape(2, 1, 1), VideoScale(4, 16, 16))[0, :, 1].tolist() == [
        [1, 5], [0, 16], [0, 16],
    ]  # fmt: skip


def test_positions_stay_exact_where_bfloat16_would_not() -> None:
    columns = video_positions(VideoLatentShape(1, 1, 40), 24.0, SCALE)[0, 2]
    assert columns[35].tolist() == [1120, 1152]
    assert video_grid_bounds(VideoLatentShape(1, 1, 40, batch=2))[1, 2, 35].tolist() == [35, 36]


def test_audio_positions_in_seconds() -> None:
    positions = audio_positions(AudioLatentShape(4, batch=2), SOUND)
    assert positions.shape == (2, 1, 4, 2)
    np.testing.assert_allclose(positions[1, 0], [[0, 0.01], [0.01, 0.05], [0.05, 0.09], [0.09, 0.13]], atol=1e-7)

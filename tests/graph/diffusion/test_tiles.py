"""Tiles inside a sampler step: how axes are cut, which tokens a tile sees, and what its estimates count for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, AppendReferenceVideo, WithAttentionStrength
from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    create_audio_state,
    create_video_state,
)
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.diffusion.tiles import TiledPredict, TileGrid, cut_tokens
from ltx2rt.graph.tile_splits import LatentInterval, fitting_count, split_by_count, split_pinned

SCALE = VideoScale(8, 32, 32)
SHAPE = VideoLatentShape(2, 4, 6, channels=3)
TARGET = VideoTarget(SHAPE, 24.0, SCALE)
CELLS = SHAPE.tokens
RNG = np.random.default_rng(0)


def latent(frames: int, height: int, width: int) -> np.ndarray:
    return RNG.standard_normal((1, frames, height, width, 3)).astype(np.float32)


def video_state() -> LatentState:
    state = create_video_state(TARGET, initial=latent(2, 4, 6))
    state = AppendReferenceVideo(latent(2, 2, 3), downscale=2).apply(state, TARGET)
    return AppendKeyframe(latent(1, 4, 6), 5, 0.9).apply(state, TARGET)


def audio_state() -> LatentState:
    target = AudioTarget(AudioLatentShape(5), AudioScale(16000, 160, 4))
    return create_audio_state(target, initial=RNG.standard_normal((1, 5, 128)).astype(np.float32))


def request(video: LatentState | None, audio: LatentState | None, passes: int = 1) -> PredictRequest:
    return PredictRequest((GuidancePass("cond"),) * passes, video, audio, 0.5, run_video=True, run_audio=True)


def starts_and_overlaps(intervals: Sequence[LatentInterval]) -> list[tuple[int, int, int, int]]:
    return [(i.start, i.stop, i.left, i.right) for i in intervals]


@pytest.mark.parametrize(
    ("cells", "size", "overlap", "expected"),
    [
        (32, 48, 24, [(0, 32, 0, 0)]),
        (48, 32, 16, [(0, 32, 0, 16), (16, 48, 16, 0)]),
        (40, 32, 16, [(0, 32, 0, 24), (8, 40, 24, 0)]),
        (6, 3, 1, [(0, 3, 0, 0), (3, 6, 0, 0)]),
        (120, 48, 24, [(0, 48, 0, 24), (24, 72, 24, 24), (48, 96, 24, 24), (72, 120, 24, 0)]),
        (69, 32, 16, [(0, 32, 0, 13), (19, 51, 13, 14), (37, 69, 14, 0)]),
    ],
)
def test_tiles_of_a_fixed_size_reach_both_ends(
    cells: int, size: int, overlap: int, expected: list[tuple[int, int, int, int]]
) -> None:
    assert starts_and_overlaps(split_pinned(cells, size, overlap)) == expected


@pytest.mark.parametrize("size", [2, 3, 8, 32])
def test_tiles_of_a_fixed_size_leave_no_gap_and_their_weights_add_up(size: int) -> None:
    for cells in range(1, 100, 1 + size // 4):
        for overlap in range(0, size, 1 + size // 4):
            intervals = split_pinned(cells, size, overlap)
            assert {i.cells for i in intervals} == {min(size, cells)}
            total = np.zeros(cells)
            for interval in intervals:
                total[interval.start : interval.stop] += interval.weights
            assert total.min() > 0.99  # above 1 only where three tiles meet
            if all(i.left + i.right <= i.cells for i in intervals):
                np.testing.assert_allclose(total, 1, atol=1e-6)


def test_so_many_tiles_as_fit() -> None:
    assert fitting_count(3, 4, 10) == (1, 0)
    assert fitting_count(5, 4, 10) == (4, 1)
    assert fitting_count(32, 4, 10) == (4, 10)
    assert starts_and_overlaps(split_by_count(5, *fitting_count(5, 4, 10), "height")) == [
        (0, 2, 0, 1),
        (1, 3, 1, 1),
        (2, 4, 1, 1),
        (3, 5, 1, 0),
    ]
    with pytest.raises(UsageError, match="4 tiles with an overlap of 10"):
        split_by_count(5, 4, 10, "height")
    assert len(TileGrid.by_count(VideoLatentShape(3, 3, 9), 4, 2, 2)) == 2


def test_a_tile_sees_its_own_tokens_and_the_conditions_that_overlap_it() -> None:
    state = video_state()
    tiles = cut_tokens(state.positions, TileGrid.by_size(SHAPE, (2, 4), (0, 2)))
    assert len(tiles) == 4
    first, last = tiles[0], tiles[-1]
    grid = np.arange(CELLS).reshape(2, 4, 6)
    np.testing.assert_array_equal(first.tokens[:16], grid[:, :2, :4].ravel())
    np.testing.assert_array_equal(last.tokens[:16], grid[:, 2:, 2:].ravel())
    reference = CELLS + np.arange(12).reshape(2, 2, 3)  # each of its tokens covers 2 x 2 cells
    keyframe = CELLS + 12 + np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(first.tokens[16:], [*reference[:, 0, :2].ravel(), *keyframe[:2, :4].ravel()])
    np.testing.assert_array_equal(last.tokens[16:], [*reference[:, 1, 1:].ravel(), *keyframe[2:, 2:].ravel()])
    part = last.part(state)
    assert part.positions[0, :, :16, 0].min(axis=1).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(last.origin, [0, 64, 64])
    np.testing.assert_array_equal(part.latent[0], state.latent[0, last.tokens])
    np.testing.assert_array_equal(part.denoise_mask[0], state.denoise_mask[0, last.tokens])
    # A reference token that begins before the tile keeps its place relative to it.
    wide = cut_tokens(state.positions, TileGrid.by_size(SHAPE, (3, 3), (2, 0)))[-1]
    assert wide.part(state).positions[0, 1, 18:, 0].min() == -32


def test_conditions_before_the_clip_are_seen_by_every_tile() -> None:
    state = video_state()
    positions = state.positions.copy()
    positions[0, 0, CELLS] = [-0.08, -0.04]
    tiles = cut_tokens(positions, TileGrid.by_size(SHAPE, (2, 4), (0, 2)))
    assert all(CELLS in tile.tokens for tile in tiles)
    positions[0, 0, CELLS] = [60.0, 61.0]
    assert not any(CELLS in tile.tokens for tile in cut_tokens(positions, TileGrid.by_count(SHAPE, 2, 2, 0)))
    with pytest.raises(ValueError, match="need 48 tokens, the state has 47"):
        cut_tokens(positions[:, :, :47], TileGrid.by_count(SHAPE, 2, 2, 0))


@pytest.mark.parametrize("grid", [TileGrid.by_count(SHAPE, 2, 2, 2), TileGrid.by_size(SHAPE, (3, 4), (1, 2))])
def test_a_model_that_looks_at_each_token_alone_gives_the_same_with_tiles(grid: TileGrid) -> None:
    video, audio = video_state(), audio_state()

    def predict(request: PredictRequest) -> list[Denoised]:
        assert request.video is not None
        assert request.audio is not None
        return [
            (factor * np.tanh(request.video.latent), factor * request.audio.latent)
            for factor in range(1, len(request.passes) + 1)
        ]

    whole = request(video, audio, passes=2)
    for tiled, plain in zip(TiledPredict(predict, grid)(whole), predict(whole), strict=True):
        for actual, expected in zip(tiled, plain, strict=True):
            assert actual is not None
            assert expected is not None
            np.testing.assert_allclose(actual, expected, atol=2e-6)
    only_sound = request(None, audio)

    def silent(request: PredictRequest) -> list[Denoised]:
        return [(None, audio.latent)]

    assert TiledPredict(silent, grid)(only_sound)[0][1] is audio.latent


def test_estimates_are_weighted_by_their_place_and_sound_is_their_mean() -> None:
    """Every tile gives its number: 1, 2, 3, 4."""
    video, audio = video_state(), audio_state()
    number = 0

    def predict(request: PredictRequest) -> list[Denoised]:
        nonlocal number
        number += 1
        assert request.video is not None
        return [(np.full_like(request.video.latent, number), np.full_like(audio.latent, number))]

    grid = TileGrid.by_size(SHAPE, (4, 4), (0, 2))
    ((estimate, sound),) = TiledPredict(predict, grid)(request(video, audio))
    assert estimate is not None
    assert sound is not None
    columns = estimate[0, :6, 0]
    np.testing.assert_allclose(columns, [1, 1, 4 / 3, 5 / 3, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(estimate[0, CELLS : CELLS + 3, 0], [1, 1.5, 2], rtol=1e-6)  # of the reference
    np.testing.assert_allclose(sound, 1.5)


def test_masks_marks_and_rounding_follow_the_tokens() -> None:
    state = WithAttentionStrength(AppendReferenceVideo(latent(2, 2, 3), downscale=2), np.linspace(0, 1, 12)).apply(
        create_video_state(TARGET, dtype="bfloat16"), TARGET
    )
    assert state.attention is not None
    assert state.keyframes_mask is not None
    tile = cut_tokens(state.positions, TileGrid.by_count(SHAPE, 2, 2, 1))[2]
    part = tile.part(state)
    assert part.attention is not None
    assert part.keyframes_mask is not None
    whole = state.attention.dense()[0]
    np.testing.assert_array_equal(part.attention.dense()[0], whole[tile.tokens][:, tile.tokens])
    np.testing.assert_array_equal(part.keyframes_mask, state.keyframes_mask[:, tile.tokens])

    def predict(request: PredictRequest) -> list[Denoised]:
        assert request.video is not None
        return [(np.full_like(request.video.latent, 1 / 3), None)]

    no_sound = replace(request(state, None), run_audio=False)
    ((estimate, sound),) = TiledPredict(predict, TileGrid.by_count(SHAPE, 2, 2, 1))(no_sound)
    assert estimate is not None
    assert sound is None
    np.testing.assert_array_equal(estimate, np.float32(0.333984375))  # of bfloat16

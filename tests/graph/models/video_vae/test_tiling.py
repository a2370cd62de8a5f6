"""Tile plans against the published examples and formulas, masks, blending, chunk order and rejected tilings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae import tiling as tiling_module
from ltx2rt.graph.models.video_vae.tiling import (
    TileCount,
    TilePlan,
    TileSize,
    Tiling,
    decode_tiled,
    encode_tiled,
    split_axis,
)
from ltx2rt.graph.tile_splits import trapezoid

Array = np.ndarray[Any, np.dtype[Any]]
# Plans of the published VAEs.
decode_plan = partial(tiling_module.decode_plan, temporal_factor=8, spatial_factor=32)
encode_plan = partial(tiling_module.encode_plan, temporal_factor=8, spatial_factor=32)
OFFICIAL = Tiling.of(spatial=(768, 64), temporal=(80, 24))


def sources(plan: TilePlan) -> list[tuple[int, int]]:
    return [tile.source for tile in plan.frames]


def targets(plan: TilePlan) -> list[tuple[int, int]]:
    return [tile.target for tile in plan.frames]


def test_trapezoid_ramps() -> None:
    np.testing.assert_allclose(trapezoid(6, 2, 3), [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4], rtol=1e-7)
    np.testing.assert_allclose(trapezoid(5, 4, 0, left_from_zero=True), [0, 1 / 4, 2 / 4, 3 / 4, 1], rtol=1e-7)
    np.testing.assert_allclose(trapezoid(2, 9, 0), [1 / 3, 2 / 3], rtol=1e-7)  # a ramp is cut to the length
    assert trapezoid(3, 0, 0).dtype == np.float32


def test_sixteen_latent_frames_with_the_default() -> None:
    plan = decode_plan((16, 16, 24), OFFICIAL)
    assert plan.shape == (121, 512, 768)
    assert sources(plan) == [(0, 10), (6, 16)]
    assert targets(plan) == [(0, 73), (48, 121)]
    first, second = (tile.mask for tile in plan.frames)
    np.testing.assert_allclose(first, np.r_[np.ones(49), np.arange(24, 0, -1) / 25], rtol=1e-6)
    np.testing.assert_allclose(second, np.r_[0, np.arange(1, 25) / 25, np.ones(48)], rtol=1e-6)
    assert len(plan.tiles) == 2
    assert plan.chunk_frames == [48, 73]
    assert plan.weights() is None


def test_thirty_one_latent_frames_with_the_default() -> None:
    plan = decode_plan((31, 2, 2), OFFICIAL)
    assert sources(plan) == [(0, 10), (6, 17), (13, 24), (20, 31)]
    assert targets(plan) == [(0, 73), (48, 129), (104, 185), (160, 241)]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((512, 768), (512, 768)),
        ((704, 1280), (416, 768)),
        ((1088, 1920), (448, 768)),
        ((2176, 3840), (448, 768)),
        ((1536, 864), (768, 448)),
        ((1024, 1536), (512, 768)),
    ],
)
def test_auto_keeps_the_aspect(size: tuple[int, int], tiles: tuple[int, int]) -> None:
    tiling = Tiling.auto(*size, 32)
    assert (tiling.height, tiling.width) == (TileSize(tiles[0], 64), TileSize(tiles[1], 64))
    assert tiling.frames == TileSize(80, 24)


def test_auto_leaves_a_small_clip_in_one_tile() -> None:
    assert len(decode_plan((10, 16, 24), Tiling.auto(512, 768, 32)).tiles) == 1


def test_tiles_run_time_slowest_width_fastest() -> None:
    plan = decode_plan((10, 4, 4), Tiling.of(spatial=(64, 0), temporal=(40, 0)))
    order = [(tile.frames.source[0], tile.height.source[0], tile.width.source[0]) for tile in plan.tiles]
    assert order == sorted(order)
    assert len(order) == 8


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16, 23, 31])
@pytest.mark.parametrize("tiling", [Tiling.of(spatial=(128, 64), temporal=(48, 16)), OFFICIAL])
def test_masks_sum_to_one_when_overlaps_are_at_most_half(length: int, tiling: Tiling) -> None:
    assert decode_plan((length, length, length), tiling).weights() is None


def test_wide_overlaps_are_normalised() -> None:
    weights = decode_plan((2, 12, 2), Tiling.of(spatial=(96, 64))).weights()
    assert weights is not None
    assert abs(weights[1] - 1).max() > 0.05
    np.testing.assert_array_equal(weights[0], 1)


def test_split_by_count() -> None:
    even = split_axis(10, TileCount(3, 1), 8, "temporal")
    assert [(i.start, i.stop, i.left, i.right) for i in even] == [(0, 4, 0, 1), (3, 7, 1, 1), (6, 10, 1, 0)]
    uneven = split_axis(11, TileCount(3, 1), 8, "temporal")
    assert [(i.start, i.stop) for i in uneven] == [(0, 5), (4, 8), (7, 11)]
    assert len(split_axis(5, TileCount(1), 8, "temporal")) == 1


def nearest(latent: mx.array) -> mx.array:
    """A stand-in decoder: 8 frames and 32x32 pixels per cell, one frame for the first."""
    x = np.repeat(np.repeat(np.array(latent)[..., :3], 32, axis=2), 32, axis=3)
    return mx.array(np.repeat(x, 8, axis=1)[:, 7:])


def corners(frames: mx.array) -> mx.array:
    """A stand-in encoder: the first pixel of each cell of every eighth frame, repeated to 4 channels."""
    x = np.array(frames)[:, ::8, ::32, ::32]
    return mx.array(np.concatenate([x, x[..., :1]], axis=-1))


TILINGS = {
    "temporal": Tiling.of(temporal=(32, 16)),
    "spatial": Tiling.of(spatial=(96, 32)),
    "both": Tiling.of(spatial=(64, 32), temporal=(24, 8)),
    "three tiles overlap": Tiling.of(temporal=(16, 8)),
    "wide": Tiling.of(spatial=(96, 64), temporal=(32, 24)),
    "counts": Tiling(TileCount(3, 1), TileCount(2, 1), None),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("temporal", "spatial", "wide") else ()) for name in TILINGS],
)
def test_tiled_decode_joins_without_a_seam(name: str) -> None:
    latent = mx.array(np.random.default_rng(0).standard_normal((1, 9, 4, 5, 8)).astype(np.float32))
    plan = decode_plan((9, 4, 5), TILINGS[name])
    chunks = list(decode_tiled(nearest, latent, plan))
    assert {chunk.shape for chunk in chunks} == {(1, 128, 160, 3)}
    assert len(chunks) == sum(plan.chunk_frames) == 65
    assert all(chunk.dtype == np.float32 for chunk in chunks)
    np.testing.assert_allclose(np.concatenate(chunks), np.array(nearest(latent))[0], atol=2e-6)


def test_the_order_of_the_tiles_does_not_matter() -> None:
    """Corners that four different tiles share are sums of four products: within their rounding."""
    latent = mx.array(np.random.default_rng(0).standard_normal((1, 3, 4, 5, 8)).astype(np.float32))
    plan = decode_plan((3, 4, 5), Tiling.of(spatial=(96, 64)))

    def unlike(tile: mx.array) -> mx.array:
        return nearest(tile) + mx.sum(tile)  # another value in every tile

    forwards = np.concatenate(list(decode_tiled(unlike, latent, plan)))
    backwards = replace(plan, height=plan.height[::-1], width=plan.width[::-1])
    assert forwards.std() > 0.1
    np.testing.assert_allclose(np.concatenate(list(decode_tiled(unlike, latent, backwards))), forwards, atol=4e-6)


def test_frames_leave_before_the_next_tile_and_belong_to_the_consumer() -> None:
    latent = mx.array(np.random.default_rng(0).standard_normal((1, 16, 2, 2, 3)).astype(np.float32))
    calls: list[int] = []

    def decode(tile: mx.array) -> mx.array:
        calls.append(tile.shape[1])
        return nearest(tile)

    result = []
    for chunk in decode_tiled(decode, latent, decode_plan((16, 2, 2), OFFICIAL)):
        result.append((len(calls), chunk.copy()))
        chunk[...] = np.nan
    assert [count for count, _ in result] == [1] * 48 + [2] * 73
    assert calls == [10, 10]
    np.testing.assert_allclose(np.concatenate([c for _, c in result]), np.array(nearest(latent))[0], atol=2e-6)


@pytest.mark.parametrize(
    "tiling",
    [
        *(
            pytest.param(t, marks=pytest.mark.slow)
            for t in (Tiling.of(spatial=(128, 64)), Tiling.of(temporal=(24, 16)))
        ),
        Tiling.of(spatial=(192, 64), temporal=(40, 16)),
    ],
)
def test_tiled_encode_joins_without_a_seam(tiling: Tiling) -> None:
    frames = np.random.default_rng(0).standard_normal((1, 57, 192, 160, 3)).astype(np.float32)
    plan = encode_plan((57, 192, 160), tiling)
    assert plan.shape == (8, 6, 5)
    latent = encode_tiled(corners, frames, plan, 4)
    np.testing.assert_allclose(np.array(latent), np.array(corners(mx.array(frames))), atol=1e-6)


def test_encode_tiles_start_one_latent_frame_early_with_no_weight() -> None:
    plan = encode_plan((41, 32, 32), Tiling.of(temporal=(24, 16)))
    assert targets(plan) == [(0, 3), (0, 4), (1, 5), (2, 6)]
    assert sources(plan) == [(0, 17), (0, 25), (8, 33), (16, 41)]
    assert all(tile.mask[0] == 0 for tile in plan.frames[1:])
    np.testing.assert_allclose(plan.frames[1].mask, [0, 1 / 3 * 1, 2 / 3 * 2 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling.of(spatial=(32, 0)), "height tile must be a multiple of 32, at least 64, got 32"),
        (Tiling.of(spatial=(80, 32)), "height tile must be a multiple of 32, at least 64, got 80"),
        (Tiling.of(temporal=(20, 8)), "temporal tile must be a multiple of 8, at least 16, got 20"),
        (Tiling.of(spatial=(96, 48)), "height tile overlap must be a multiple of 32 from 0 to 64, got 48"),
        (Tiling.of(spatial=(96, 96)), "height tile overlap must be a multiple of 32 from 0 to 64, got 96"),
        (Tiling(width=TileSize(96, -32)), "width tile overlap must be a multiple of 32 from 0 to 64, got -32"),
        (Tiling(width=TileCount(9)), "width: 9 tiles with an overlap of 0 cells do not fit into 4 cells"),
        (Tiling(width=TileCount(2, 3)), "width: 2 tiles with an overlap of 3 cells do not fit into 4 cells"),
    ],
)
def test_tilings_off_the_latent_grid_are_refused(tiling: Tiling, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decode_plan((4, 4, 4), tiling)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling.of(spatial=(128, 32)), "height tile overlap must be at least 64 for encoding, got 32"),
        (Tiling.of(temporal=(24, 8)), "temporal tile overlap must be at least 16 for encoding, got 8"),
    ],
)
def test_short_encode_overlaps_are_refused(tiling: Tiling, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_plan((41, 256, 256), tiling)


def test_auto_refuses_less_than_a_cell() -> None:
    with pytest.raises(UsageError, match="at least 32, got 16x64"):
        Tiling.auto(16, 64, 32)

"""Clips that are encoded in tiles while they are read once: the bits of tiles that are cut from the whole clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.footprint import encode_bytes
from ltx2rt.graph.models.video_vae.specs import encoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.kernels.host import to_numpy
from ltx2rt.weights.checkpoint import Checkpoint

Frames = np.ndarray[Any, np.dtype[np.float32]]
CHECKPOINT = Checkpoint.open(embedded.CHECKPOINT)
CONFIG = VIDEO_VAE.parse(CHECKPOINT)


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    specs = encoder_specs(CONFIG) + statistics_specs(CONFIG.latent_channels)
    return VideoEncoder(CONFIG, Params(CHECKPOINT.load("video_vae", specs)), mx.bfloat16)


def clip(frames: int, height: int, width: int) -> Frames:
    return np.random.default_rng(0).uniform(-1, 1, (frames, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "tiling",
    [
        pytest.param(Tiling.of(spatial=(96, 64)), marks=pytest.mark.slow),
        pytest.param(Tiling.of(temporal=(24, 16)), marks=pytest.mark.slow),
        Tiling.of(spatial=(128, 64), temporal=(24, 16)),
    ],
)
def test_a_clip_that_is_read_once(encoder: VideoEncoder, tiling: Tiling) -> None:
    frames = clip(33, 128, 160)
    reads = 0

    def one_by_one() -> Iterator[Frames]:
        nonlocal reads
        for frame in frames:
            reads += 1
            yield frame

    whole = encoder.encode_frames(frames[None], tiling)
    latent = encoder.encode_tiles(one_by_one(), (33, 128, 160), tiling, frames_per_push=4)
    assert latent.dtype == whole.dtype
    np.testing.assert_array_equal(to_numpy(latent), to_numpy(whole))
    assert reads == 33


def test_what_is_held_is_a_group_of_frames_and_one_tile() -> None:
    tiling = Tiling.of(spatial=(128, 64), temporal=(24, 16))
    tile = encode_bytes(CONFIG, (25, 128, 128), 2, None, 4).footprint
    small, wide, long = (
        encode_bytes(CONFIG, size, 2, tiling, 4).footprint for size in ((33, 128, 160), (33, 128, 320), (65, 128, 160))
    )
    held = 25 * 128 * 3 * 2  # frames of bfloat16 for each column of pixels
    assert small.activations == tile.activations + 160 * held
    assert wide.activations == tile.activations + 320 * held
    assert long.activations == small.activations


def test_tiles_that_do_not_fit_are_refused(encoder: VideoEncoder) -> None:
    with pytest.raises(UsageError, match="at least 64 for encoding, got 32"):
        encoder.encode_tiles(iter(()), (9, 128, 128), Tiling.of(spatial=(64, 32)), frames_per_push=1)

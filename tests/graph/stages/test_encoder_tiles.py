"""Clips that are encoded in tiles read frame by frame: the latent of the whole clip in the same tiles."""

from __future__ import annotations

from collections.abc import Generator

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.specs import encoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.inputs import FrameStream, GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.types import Array

FILES = WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT))
SHAPE = (25, 64, 128, 3)


@pytest.fixture(scope="module")
def frames() -> Array:
    places = np.indices(SHAPE[:3])
    return np.stack([np.sin(0.1 * (c + 1) * places[1] + 0.2 * places[2] + places[0]) for c in range(3)], -1).astype(
        np.float32
    )


def run(*, planning: bool = False) -> Run:
    return Run(FILES, GenerationInputs.without_clip(Settings(), dtype=mx.float32), planning=planning)


def test_tiles_are_those_of_the_whole_clip(frames: Array) -> None:
    opened = []

    def read() -> Generator[Array, None, None]:
        opened.append(1)
        yield from frames

    tiling = Tiling.of(spatial=(96, 64), temporal=(24, 16))
    stream = FrameStream(SHAPE, read)
    (latent,) = encode_pixels(run(), "encoder", [stream], tiling=tiling)
    config = FILES.config(VIDEO_VAE)
    specs = encoder_specs(config) + statistics_specs(config.latent_channels)
    encoder = VideoEncoder(config, Params(FILES.source(VIDEO_VAE).load(VIDEO_VAE.stored_name, specs)), mx.float32)
    np.testing.assert_allclose(latent, np.array(encoder.encode_frames(frames[None], tiling)), atol=2e-5)
    assert len(opened) == 1
    (whole,) = encode_pixels(run(), "encoder", [stream])
    assert np.abs(whole - latent).max() > 1e-3


def test_one_tile_is_the_clip(frames: Array) -> None:
    stream = FrameStream.of(frames)
    tiled, whole = (encode_pixels(run(), "encoder", [stream], tiling=tiling)[0] for tiling in (Tiling.default(), None))
    np.testing.assert_array_equal(tiled, whole)


def test_a_plan_counts_the_tiles(frames: Array) -> None:
    stream = FrameStream.of(frames)
    needs = []
    for tiling in (Tiling.of(spatial=(96, 64), temporal=(24, 16)), None):
        planned = run(planning=True)
        (latent,) = encode_pixels(planned, "encoder", [stream], tiling=tiling)
        assert latent.shape == (1, 4, 2, 4, 128)
        needs += planned.ledger.needs
    tiles, whole = needs
    assert tiles.flops > 1.5 * whole.flops

"""Golden cases of the latent upscalers: the network alone, and between the VAE's statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import UPSCALER
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.upscaler.model import LatentUpscaler, param_specs
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint

_TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per upscaler of a ``*_upsamplers`` file."""
    if not re.fullmatch(r"\w+_upsamplers", golden.path.stem):
        return
    keys = golden.keys()
    for name in sorted({key.rpartition(".")[0] for key in keys if key != "in"}):
        yield Case(f"{golden.name}/{name}", partial(_upscale, golden, name))


def _upscale(golden: GoldenFile, name: str) -> Iterator[Check]:
    kind, _, scale = name.partition("-")
    path = golden.root / f"tiny-{kind}-upscaler-{scale}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path.name}: not in the golden folder; it is needed by {golden.name}.")
    checkpoint = Checkpoint.open(path)
    config = UPSCALER.parse(checkpoint)
    upscaler = LatentUpscaler(config, Params(checkpoint.load("upscaler", param_specs(config))), mx.float32)
    latent = mx.array(np.moveaxis(golden.given("in"), 1, -1).copy())
    grid = from_numbers(config.upscaled((latent.shape[1], latent.shape[2], latent.shape[3])))
    expected = golden.expected(f"{name}.raw")
    yield Check(f"{name}.raw", _first(upscaler(latent)), expected, **_TOLERANCE)
    yield Check(f"{name}.raw grid", grid, from_numbers(expected.shape[2:]), 0.0)
    vae = Checkpoint.open(golden.root / golden.metadata["checkpoint_for_statistics"])
    statistics = LatentStatistics(Params(vae.load("video_vae", statistics_specs(config.in_channels))))
    yield golden.check(f"{name}.with_statistics", _first(upscaler.upscale(latent, statistics)), **_TOLERANCE)


def _first(x: mx.array) -> Array:
    """Ours (B, F, H, W, C) as official (B, C, F, H, W)."""
    return np.moveaxis(to_numpy(x), -1, 1)

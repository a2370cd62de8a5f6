"""The latent upscalers against float64 numpy, their configurations and tensor lists, and what they refuse."""

from __future__ import annotations

from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy_video_vae import as_loaded, group_norm, random_weights, upscale

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.layers.group_norm import group_norm as our_group_norm
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.upscaler.model import LatentUpscaler, LatentUpscalerConfig, param_specs
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs

SMALL = {"in_channels": 5, "mid_channels": 32, "num_blocks_per_stage": 1}
RATIONAL = {"rational_resampler": True}
TEMPORAL = {"spatial_upsample": False, "temporal_upsample": True}
# Configuration, pixel shuffle, decimation, latent grid of the result for (2, 3, 5).
KINDS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, tuple[int, int, int]]] = {
    "spatial": ({}, (1, 2, 2), 1, (2, 6, 10)),
    "temporal": (TEMPORAL, (2, 1, 1), 1, (3, 3, 5)),
    "spatiotemporal": ({"temporal_upsample": True}, (2, 2, 2), 1, (3, 6, 10)),
    "rational 1.5": (RATIONAL | {"spatial_scale": 1.5}, (1, 3, 3), 2, (2, 5, 8)),
    "rational 0.75": (RATIONAL | {"spatial_scale": 0.75}, (1, 3, 3), 4, (2, 3, 4)),
    "rational 2": (RATIONAL | {"spatial_scale": 2.0}, (1, 2, 2), 1, (2, 6, 10)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_against_numpy(kind: str) -> None:
    section, stride, down, grid = KINDS[kind]
    config = LatentUpscalerConfig.from_dict(SMALL | section)
    specs = [spec for spec in param_specs(config) if not spec.optional]
    weights = random_weights(specs, 0)
    upscaler = LatentUpscaler(config, Params(as_loaded(specs, weights)), mx.float32)
    latent = np.random.default_rng(1).standard_normal((2, 2, 3, 5, 5)).astype(np.float32)
    result = np.array(upscaler(mx.array(latent)))
    expected = np.stack([upscale(item, weights, 1, stride, down) for item in latent])
    assert result.shape == (2, *grid, 5)
    assert config.upscaled((2, 3, 5)) == grid
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5 * abs(expected).max())


def test_upscale_works_on_the_vae_scale() -> None:
    config = LatentUpscalerConfig.from_dict(SMALL)
    specs = param_specs(config)
    upscaler = LatentUpscaler(config, Params(as_loaded(specs, random_weights(specs, 0))), mx.float32)
    weights = random_weights(statistics_specs(5), 3)
    mean, std = (weights[f"per_channel_statistics.{name}-of-means"] for name in ("mean", "std"))
    latent = np.random.default_rng(1).standard_normal((1, 2, 2, 2, 5)).astype(np.float32)
    result = upscaler.upscale(mx.array(latent), LatentStatistics(Params(as_loaded(statistics_specs(5), weights))))
    expected = (np.array(upscaler(mx.array(latent * std + mean))) - mean) / std
    np.testing.assert_allclose(np.array(result), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_follows_float32() -> None:
    config = LatentUpscalerConfig.from_dict(SMALL)
    specs = param_specs(config)
    params = Params(as_loaded(specs, random_weights(specs, 0)))
    latent = mx.array(np.random.default_rng(1).standard_normal((1, 2, 2, 2, 5)).astype(np.float32))
    exact = LatentUpscaler(config, params, mx.float32)(latent)
    half = LatentUpscaler(config, params, mx.bfloat16)(latent)
    assert half.dtype == mx.bfloat16
    assert mx.abs(half.astype(mx.float32) - exact).max() < 0.05 * mx.abs(exact).max()


def test_group_norm_is_exact_far_from_zero() -> None:
    """A large common offset must not eat the variance, as it does in one pass."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 5, 7, 9, 8)) + 1000).astype(np.float32)
    weight, bias = rng.standard_normal((2, 8)).astype(np.float32)
    result = our_group_norm(mx.array(x), mx.array(weight), mx.array(bias), groups=4, eps=1e-5)
    expected = group_norm(x[0].astype(np.float64), weight, bias, 4, 1e-5)
    np.testing.assert_allclose(np.array(result)[0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("section", "count"),
    [
        ({"mid_channels": 1024}, 497_867_904),
        ({"mid_channels": 1024, "spatial_scale": 1.5} | RATIONAL, 545_058_969),
        (TEMPORAL | RATIONAL | {"spatial_scale": 1.0}, 130_968_192),  # as in the published file: rational is ignored
    ],
    ids=["spatial x2", "spatial x1.5", "temporal x2"],
)
def test_published_parameter_counts(section: dict[str, Any], count: int) -> None:
    assert sum(prod(spec.shape) for spec in param_specs(LatentUpscalerConfig.from_dict(section))) == count


def test_defaults() -> None:
    config = LatentUpscalerConfig.from_dict({})
    assert config == LatentUpscalerConfig(128, 512, 4, "spatial")
    names = {spec.name for spec in param_specs(config)}
    assert {"initial_norm.bias", "res_blocks.3.norm2.weight", "upsampler.0.weight", "final_conv.bias"} <= names
    assert len(names) == 72


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "CausalVideoAutoencoder"}, "config is of class 'CausalVideoAutoencoder'"),
        ({"dims": 2}, "dims is 2; only 3"),
        ({"mid_channels": 48}, "mid_channels must be a multiple of 32, got 48"),
        ({"num_blocks_per_stage": 0}, "num_blocks_per_stage must be a positive integer, got 0"),
        ({"spatial_upsample": False}, "neither spatial_upsample nor temporal_upsample"),
        (RATIONAL | {"spatial_scale": 1.7}, "spatial_scale is 1.7; supported are"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        LatentUpscalerConfig.from_dict(change)


def test_wrong_latent_is_refused() -> None:
    upscaler = LatentUpscaler(LatentUpscalerConfig.from_dict(SMALL), Params({}), mx.float32)
    with pytest.raises(UsageError, match=r"latent must be \(B, f, h, w, 5\), got \(1, 2, 2, 2, 4\)"):
        upscaler(mx.zeros((1, 2, 2, 2, 4)))

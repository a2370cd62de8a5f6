"""The video VAE against float64 numpy, its configuration forms and tensor lists, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy_video_vae import NumpyVideoVae, Weights, as_loaded, fold, random_weights, unfold

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.layers import depth_to_space, patchify_pixels, space_to_depth, unpatchify_pixels
from ltx2rt.graph.models.video_vae.pixel_range import to_unit_range
from ltx2rt.graph.models.video_vae.specs import (
    VideoVaeConfig,
    decoder_specs,
    encoder_specs,
    param_specs,
    statistics_specs,
)
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.media.pixel_range import to_signed_range

Array = np.ndarray[Any, np.dtype[Any]]


def res(layers: int, **more: Any) -> list[Any]:
    return ["res_x", {"num_layers": layers, **more}]


def down(axes: str, multiplier: int = 2) -> list[Any]:
    return [f"compress_{axes}_res", {"multiplier": multiplier}]


def up(axes: str, multiplier: int = 2, **more: Any) -> list[Any]:
    return [f"compress_{axes}", {"multiplier": multiplier, **more}]


RESIDUAL_UP = up("all", residual=True)
PUBLISHED_19B: dict[str, Any] = {
    "encoder_blocks": [
        *(res(4), down("space"), res(6), down("time"), res(6), down("all"), res(2), down("all"), res(2)),
    ],
    "decoder_blocks": [res(5), RESIDUAL_UP, res(5), RESIDUAL_UP, res(5), RESIDUAL_UP, res(5)],
    "latent_channels": 128,
    "timestep_conditioning": False,
}
PUBLISHED_23: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder",
    "encoder_blocks": [
        *(res(4), down("space"), res(6), down("time"), res(4), down("all"), res(2), down("all", 1), res(2)),
    ],
    "decoder_blocks": [
        *(res(4), up("space"), res(6), up("time"), res(4), up("all", 1), res(2), up("all"), res(2)),
    ],
    "spatial_padding_mode": "zeros",
    "timestep_conditioning": False,
}

TINY: dict[str, Any] = {
    "latent_channels": 6,
    "patch_size": 2,
    "encoder_base_channels": 4,
    "decoder_base_channels": 4,
    "timestep_conditioning": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "residual, reflect": TINY
    | {
        "encoder_blocks": [res(2), down("space"), down("time"), down("all"), res(1)],
        "decoder_blocks": [res(1), RESIDUAL_UP, res(2), up("time"), up("space")],
        "spatial_padding_mode": "reflect",
    },
    "plain, zeros": TINY
    | {
        "encoder_blocks": [["res_x", 1], down("space"), down("all", 1), down("time")],
        "decoder_blocks": [res(1), up("space"), up("time", 2), up("all", 1), ["res_x", 1]],
        "spatial_padding_mode": "zeros",
    },
    "rare blocks, replicate": TINY
    | {
        "encoder_blocks": [["res_x_y", {}], ["compress_all", {}], ["attn", {}], ["compress_space", {}]],
        "decoder_blocks": [["res_x_y", {"multiplier": 2}], up("all", 1), ["attn", {}], up("space", 2)],
        "spatial_padding_mode": "replicate",
    },
    "causal decoder": TINY
    | {
        "encoder_blocks": [down("all")],
        "decoder_blocks": [res(1), up("all", residual=True)],
        "causal_decoder": True,
        "spatial_padding_mode": "zeros",
    },
    "conditioned": TINY
    | {
        "encoder_blocks": [down("all"), down("all")],
        "decoder_blocks": [res(2, inject_noise=True), RESIDUAL_UP, res(1), up("all")],
        "timestep_conditioning": True,
        "spatial_padding_mode": "replicate",
    },
}


class Vae:
    """A tiny VAE with random weights, ours and the numpy one."""

    def __init__(self, section: dict[str, Any], seed: int = 0) -> None:
        self.config = VideoVaeConfig.from_dict(section)
        specs = param_specs(self.config)
        self.weights: Weights = random_weights(specs, seed)
        self.params = Params(as_loaded(specs, self.weights))
        self.numpy = NumpyVideoVae(section, self.weights, section.get("causal_decoder", False))
        self.encoder = VideoEncoder(self.config, self.params, mx.float32)
        self.decoder = VideoDecoder(self.config, self.params, mx.float32)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def draws(seed: int) -> Callable[[tuple[int, ...]], Array]:
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape).astype(np.float32)


def test_patchify_puts_the_width_offset_before_the_height_offset() -> None:
    image = mx.array([[[0.0, 1.0], [2.0, 3.0]]]).reshape(1, 1, 2, 2, 1)
    packed = patchify_pixels(image, 2)
    assert packed.flatten().tolist() == [0, 2, 1, 3]
    clip = mx.array(normal(0, 2, 3, 8, 12, 3))
    packed = patchify_pixels(clip, 4)
    assert packed.shape == (2, 3, 2, 3, 48)
    assert packed[1, 2, 1, 2, 2 * 16 + 3 * 4 + 1].item() == clip[1, 2, 4 * 1 + 1, 4 * 2 + 3, 2].item()
    assert mx.array_equal(unpatchify_pixels(packed, 4), clip)


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 1, 1), (2, 2, 2)])
def test_space_to_depth_order(stride: tuple[int, int, int]) -> None:
    clip = normal(0, 4, 6, 8, 3)
    folded = space_to_depth(mx.array(clip)[None], stride)
    np.testing.assert_array_equal(np.array(folded[0]), fold(clip, stride))
    np.testing.assert_array_equal(np.array(depth_to_space(folded, stride)[0]), unfold(fold(clip, stride), stride))
    assert mx.array_equal(depth_to_space(folded, stride)[0], mx.array(clip))


@pytest.mark.parametrize("name", CONFIGS)
def test_encoder_against_numpy(name: str) -> None:
    vae = Vae(CONFIGS[name])
    factor = vae.config.spatial_factor
    clip = normal(1, 2, 1 + vae.config.temporal_factor, 2 * factor, 3 * factor, 3)
    latent = np.array(vae.encoder(clip))
    expected = np.stack([vae.numpy.encode(item) for item in clip])
    assert latent.shape == (2, 2, 2, 3, 6)
    np.testing.assert_allclose(latent, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "conditioned"])
def test_decoder_against_numpy(name: str) -> None:
    vae = Vae(CONFIGS[name])
    latent = normal(1, 2, 2, 2, 3, 6)
    frames = np.array(vae.decoder(mx.array(latent)))
    expected = np.stack([vae.numpy.decode(item) for item in latent])
    factor = vae.config.spatial_factor
    assert frames.shape == (2, 1 + vae.config.temporal_factor, 2 * factor, 3 * factor, 3)
    np.testing.assert_allclose(frames, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("timestep", [None, 0.2])
def test_conditioned_decoder_against_numpy(timestep: float | None) -> None:
    vae = Vae(CONFIGS["conditioned"])
    latent = normal(1, 2, 2, 3, 6)
    shapes: list[tuple[int, ...]] = []
    draw = draws(7)

    def noise(shape: tuple[int, ...]) -> Array:
        shapes.append(shape)
        return draw(shape)

    frames = np.array(vae.decoder(mx.array(latent)[None], noise, timestep)[0])
    expected = vae.numpy.decode(latent, draws(7), 0.05 if timestep is None else timestep)
    np.testing.assert_allclose(frames, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    # The latent's noise in the official layout, then two draws per noisy layer.
    assert shapes == [(1, 6, 2, 2, 3)] + 4 * [(8, 12)]


def test_conditioning_and_noise_change_the_result() -> None:
    vae = Vae(CONFIGS["conditioned"])
    latent = mx.array(normal(1, 1, 2, 2, 2, 6))
    first, again, other_noise, other_time = (
        np.array(vae.decoder(latent, draws(seed), timestep))
        for seed, timestep in ((0, 0.05), (0, 0.05), (1, 0.05), (0, 0.3))
    )
    np.testing.assert_array_equal(first, again)
    assert abs(first - other_noise).max() > 1e-3
    assert abs(first - other_time).max() > 1e-3


def test_bfloat16_follows_float32() -> None:
    vae = Vae(CONFIGS["plain, zeros"])
    latent = mx.array(normal(1, 1, 2, 2, 2, 6))
    exact = vae.decoder(latent)
    half = VideoDecoder(vae.config, vae.params, mx.bfloat16)(latent)
    assert half.dtype == mx.bfloat16
    assert mx.abs(half.astype(mx.float32) - exact).max() < 0.05 * mx.abs(exact).max()


def test_taps_name_every_layer() -> None:
    vae = Vae(CONFIGS["plain, zeros"])
    latent = mx.array(normal(1, 1, 2, 2, 2, 6))
    taps = dict(vae.decoder.activations(latent))
    assert list(taps) == [
        "unnormalized",
        "conv_in",
        "up_blocks.0.res_blocks.0",
        "up_blocks.1",
        "up_blocks.2",
        "up_blocks.3",
        "up_blocks.4.res_blocks.0",
        "conv_out",
        "frames",
    ]
    assert mx.array_equal(taps["frames"], vae.decoder(latent))


def test_surplus_frames_are_cropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    vae = Vae(CONFIGS["conditioned"])
    clip = normal(1, 1, 8, 8, 8, 3)
    with caplog.at_level(logging.WARNING):
        latent = vae.encoder(clip)
    assert "8 frames cannot be encoded: the last 3 are dropped, leaving 5 (1 + 4*k)." in caplog.text
    assert mx.array_equal(latent, vae.encoder(clip[:, :5]))


def test_decode_frames_in_one_piece_and_in_one_tile() -> None:
    vae = Vae(CONFIGS["residual, reflect"])
    latent = mx.array(normal(1, 1, 2, 2, 2, 6) * 3)
    (whole,) = vae.decoder.decode_frames(latent)
    tiled = np.concatenate(list(vae.decoder.decode_frames(latent, Tiling.of(spatial=(32, 0), temporal=(24, 8)))))
    expected = np.clip((np.array(vae.decoder(latent))[0] + 1) / 2, 0, 1)
    assert whole.min() == 0
    assert whole.max() == 1
    np.testing.assert_allclose(whole, expected, atol=1e-7)
    np.testing.assert_array_equal(tiled, whole)


def test_tiles_agree_inside() -> None:
    """Beyond the reach of the convolutions (14 pixels) from a tile's border a tiled decode is the untiled one."""
    vae = Vae(CONFIGS["causal decoder"])
    latent = mx.array(normal(1, 1, 2, 8, 8, 6))
    (whole,) = vae.decoder.decode_frames(latent)
    tiled = np.concatenate(list(vae.decoder.decode_frames(latent, Tiling.of(spatial=(24, 4)))))
    np.testing.assert_allclose(tiled[:, :10, :10], whole[:, :10, :10], atol=1e-6)
    assert abs(tiled - whole).max() > 1e-4


def test_encode_frames_tiled_agrees_inside() -> None:
    vae = Vae(CONFIGS["causal decoder"])
    clip = normal(1, 1, 3, 96, 128, 3)
    whole = vae.encoder.encode_frames(clip)
    tiled = vae.encoder.encode_frames(clip, Tiling.of(spatial=(96, 64)))
    assert tiled.shape == whole.shape == (1, 2, 24, 32, 6)
    np.testing.assert_allclose(np.array(tiled)[:, :, :, :6], np.array(whole)[:, :, :, :6], atol=1e-5)


def test_statistics() -> None:
    weights = random_weights(statistics_specs(6), 0)
    statistics = LatentStatistics(Params(as_loaded(statistics_specs(6), weights)))
    latent = normal(1, 1, 2, 2, 2, 6)
    mean, std = (weights[f"per_channel_statistics.{name}-of-means"] for name in ("mean", "std"))
    np.testing.assert_allclose(np.array(statistics.un_normalise(mx.array(latent))), latent * std + mean, atol=1e-6)
    np.testing.assert_allclose(np.array(statistics.normalise(mx.array(latent))), (latent - mean) / std, rtol=1e-5)


def test_pixel_ranges() -> None:
    assert to_signed_range(np.array([0, 255], np.uint8)).tolist() == [-1, 1]
    np.testing.assert_allclose(to_unit_range(np.array([-3, -1, 0.5, 2], np.float32)), [0, 0, 0.75, 1])


@pytest.mark.parametrize(
    ("section", "encoder", "decoder"),
    [(PUBLISHED_19B, 694_099_137, 528_380_976), (PUBLISHED_23, 318_937_153, 407_169_328)],
    ids=["19b", "2.3"],
)
def test_published_parameter_counts(section: dict[str, Any], encoder: int, decoder: int) -> None:
    config = VideoVaeConfig.from_dict(section)
    assert sum(prod(spec.shape) for spec in encoder_specs(config) + statistics_specs(config.latent_channels)) == encoder
    assert sum(prod(spec.shape) for spec in decoder_specs(config) + statistics_specs(config.latent_channels)) == decoder
    assert (config.spatial_factor, config.temporal_factor, config.latent_channels) == (32, 8, 128)
    assert config.latent_frames(121) == 16
    assert config.pixel_frames(16) == 121


def test_tensor_names_are_official() -> None:
    names = {spec.name: spec for spec in param_specs(VideoVaeConfig.from_dict(PUBLISHED_23))}
    assert names["encoder.conv_in.conv.weight"].shape == (128, 48, 3, 3, 3)
    assert names["encoder.down_blocks.7.conv.conv.weight"].shape == (128, 1024, 3, 3, 3)
    assert names["encoder.conv_out.conv.bias"].shape == (129,)
    assert names["decoder.up_blocks.3.conv.conv.weight"].shape == (4096, 512, 3, 3, 3)
    assert names["decoder.up_blocks.8.res_blocks.3.conv2.conv.weight"].shape == (128, 128, 3, 3, 3)
    assert names["decoder.conv_out.conv.weight"].shape == (48, 128, 3, 3, 3)
    assert names["per_channel_statistics.mean-of-means"].shape == (128,)
    conditioned = {spec.name: spec for spec in decoder_specs(VideoVaeConfig.from_dict(CONFIGS["conditioned"]))}
    assert conditioned["decoder.timestep_scale_multiplier"].shape == ()
    assert conditioned["decoder.last_scale_shift_table"].shape == (2, 4)
    assert conditioned["decoder.up_blocks.1.time_embedder.timestep_embedder.linear_2.weight"].layout == "linear"
    assert conditioned["decoder.up_blocks.3.res_blocks.1.per_channel_scale2"].shape == (4, 1, 1)
    assert sum("time_embedder.timestep_embedder.linear_1.weight" in name for name in conditioned) == 3


@pytest.mark.parametrize(
    ("keys", "encoder", "decoder"),
    [
        ({}, "zeros", "reflect"),
        ({"spatial_padding_mode": "replicate"}, "edge", "edge"),
        ({"encoder_spatial_padding_mode": "reflect", "decoder_spatial_padding_mode": "zeros"}, "reflect", "zeros"),
        ({"spatial_padding_mode": "zeros", "decoder_spatial_padding_mode": "reflect"}, "zeros", "zeros"),
    ],
)
def test_padding_mode_precedence(keys: dict[str, str], encoder: str, decoder: str) -> None:
    config = VideoVaeConfig.from_dict(PUBLISHED_19B | keys)
    assert config.require_encoder().padding_mode == encoder
    assert config.require_decoder().padding_mode == decoder


def test_nested_encoder_of_a_diffusion_file() -> None:
    section = {
        "_class_name": "CausalDiffusionVAE",
        "spatial_padding_mode": "zeros",
        "encoder": {
            "out_channels": 128,
            "blocks": PUBLISHED_23["encoder_blocks"],
            "latent_log_var": "constant",
            "base_channels": 128,
            "spatial_padding_mode": "reflect",
        },
        "decoder": {"_class_name": "NADiffusionDecoder"},
    }
    config = VideoVaeConfig.from_dict(section)
    assert encoder_specs(config) == encoder_specs(VideoVaeConfig.from_dict(PUBLISHED_23))
    assert config.require_encoder().padding_mode == "reflect"
    with pytest.raises(CheckpointError, match="'CausalDiffusionVAE': this file holds no convolutional decoder"):
        config.require_decoder()
    with pytest.raises(CheckpointError, match="'CausalVideoAutoencoder': this file holds no diffusion decoder"):
        VideoVaeConfig.from_dict(PUBLISHED_23).require_diffusion()


def test_timestep_conditioning_is_checked_against_the_tensors() -> None:
    silent = {key: value for key, value in PUBLISHED_19B.items() if key != "timestep_conditioning"}
    plain = ["vae.decoder.conv_in.conv.weight"]
    conditioned = [*plain, "vae.decoder.last_time_embedder.timestep_embedder.linear_1.weight"]
    assert VideoVaeConfig.from_dict(silent).require_decoder().timestep_conditioning
    assert not VideoVaeConfig.from_dict(silent, plain).require_decoder().timestep_conditioning
    assert VideoVaeConfig.from_dict(silent, conditioned).require_decoder().timestep_conditioning
    audio = ["audio_vae.decoder.conv_in.conv.weight"]
    assert VideoVaeConfig.from_dict(silent, audio).require_decoder().timestep_conditioning
    with pytest.raises(CheckpointError, match=r"timestep_conditioning is False but the file has decoder\.last_time"):
        VideoVaeConfig.from_dict(PUBLISHED_19B, conditioned)
    with pytest.raises(CheckpointError, match=r"timestep_conditioning is True but the file has no decoder\.last_time"):
        VideoVaeConfig.from_dict(silent | {"timestep_conditioning": True}, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_blocks": [["swirl", {}]]}, r"encoder_blocks\[0\] is 'swirl'"),
        ({"decoder_blocks": [["swirl", {}]]}, "decoder_blocks contains 'swirl'"),
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "decoder_blocks contains 'attn_res_x'"),
        ({"_class_name": "Other"}, "_class_name is 'Other'"),
        ({"dims": 2}, "dims is 2; only 3"),
        ({"norm_layer": "group_norm"}, "norm_layer is 'group_norm'"),
        ({"latent_log_var": "none"}, "latent_log_var is 'none'"),
        ({"spatial_padding_mode": "circular"}, "padding mode is 'circular'"),
        ({"patch_size": 0}, "patch_size must be a positive integer, got 0"),
        ({"encoder_blocks": [["res_x", {}]]}, "lacks num_layers"),
        ({"encoder_blocks": ["res_x"]}, r"must list \[name, params\] pairs, got 'res_x'"),
        ({"encoder_blocks": [["res_x", "four"]]}, "params of res_x must be an object, got 'four'"),
        ({"encoder_blocks": [res(1, inject_noise=True)]}, "down_blocks.0 asks for inject_noise"),
        ({"encoder_blocks": [down("all", 3)]}, "cannot fold 128 channels with multiplier 3"),
        ({"decoder_blocks": [up("all", 3, residual=True)]}, "cannot be repeated to fill 1/3 of 384 channels"),
        ({"encoder_blocks": [down("all")]}, "disagree"),
        ({"encoder_blocks": [], "decoder_blocks": []}, "neither encoder_blocks nor decoder_blocks"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        VideoVaeConfig.from_dict(PUBLISHED_19B | change)


def test_a_section_that_is_no_object_is_refused() -> None:
    with pytest.raises(CheckpointError, match="must be an object, got list"):
        VideoVaeConfig.from_dict([])  # type: ignore[arg-type]


def test_decoder_only_file_cannot_encode() -> None:
    config = VideoVaeConfig.from_dict(PUBLISHED_19B | {"encoder_blocks": []})
    with pytest.raises(CheckpointError, match="lists no encoder_blocks"):
        encoder_specs(config)


def test_shapes_that_do_not_fit_are_refused() -> None:
    vae = Vae(CONFIGS["residual, reflect"])
    with pytest.raises(UsageError, match=r"frames must be \(B, F, H, W, 3\) with F >= 1, got \(1, 5, 16, 16, 4\)"):
        vae.encoder(np.zeros((1, 5, 16, 16, 4), np.float32))
    with pytest.raises(UsageError, match="multiples of 8, at least 16, got 16x20"):
        vae.encoder(np.zeros((1, 5, 16, 20, 3), np.float32))
    with pytest.raises(UsageError, match="multiples of 8, at least 16, got 8x16"):
        vae.encoder(np.zeros((1, 5, 8, 16, 3), np.float32))
    with pytest.raises(UsageError, match=r"latent must be \(B, f, h, w, 6\), got \(1, 2, 2, 2, 5\)"):
        vae.decoder(mx.zeros((1, 2, 2, 2, 5)))
    with pytest.raises(UsageError, match="at least 2x2 latent cells, got 2x1; use frames of at least 16 pixels"):
        vae.decoder(mx.zeros((1, 2, 2, 1, 6)))
    with pytest.raises(UsageError, match=r"latent must be \(1, f, h, w, 6\), got \(2, 2, 2, 2, 6\)"):
        next(vae.decoder.decode_frames(mx.zeros((2, 2, 2, 2, 6))))


def test_a_decoder_that_needs_noise_says_so() -> None:
    with pytest.raises(UsageError, match="conditioned on noise but got noise=None"):
        Vae(CONFIGS["conditioned"]).decoder(mx.zeros((1, 2, 2, 2, 6)))

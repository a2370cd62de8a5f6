"""Tiny models, unchanged, with every kernel on the simulated Metal device: transformer blocks, decoder, vocoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from simulated_kernels import simulated_kernels

from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer import model as transformer
from ltx2rt.graph.models.transformer.modality import Modality
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.diffusion_blocks import AttentionBlock
from ltx2rt.graph.models.video_vae.diffusion_streams import KeyRing, PlaneKeys
from ltx2rt.kernels.selection import forced
from ltx2rt.types import LinearWeight

TRANSFORMER: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 32,
    "in_channels": 8,
    "out_channels": 8,
    "audio_in_channels": 6,
    "audio_out_channels": 6,
    "cross_attention_dim": 128,
    "audio_cross_attention_dim": 64,
    "caption_channels": 40,
    "norm_eps": 1e-6,
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20],
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "apply_gated_attention": False,
    "cross_attention_adaln": False,
    "caption_proj_before_connector": False,
}
GATED = {"apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True}
GENERATIONS = {
    "19b": TRANSFORMER,
    "2.3": TRANSFORMER | GATED,
    "interleaved": TRANSFORMER | {"rope_type": "interleaved"},
}
GRID = (2, 2, 3)  # latent frames, height, width

VIDEO_VAE: dict[str, Any] = {
    "latent_channels": 8,
    "patch_size": 2,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "timestep_conditioning": False,
    "encoder_blocks": [["compress_all_res", {"multiplier": 2}]],
    "decoder_blocks": [["res_x", {"num_layers": 1}], ["compress_all", {"multiplier": 2, "residual": True}]],
    "spatial_padding_mode": "reflect",
}
SNAKE: dict[str, Any] = {
    "resblock": "AMP1",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "stereo": True,
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
    "upsample_initial_channel": 8,
}
VOCODER: dict[str, Any] = {
    "vocoder": {**SNAKE, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4]},
    "bwe": {
        **SNAKE,
        "upsample_rates": [6, 2],
        "upsample_kernel_sizes": [12, 4],
        "apply_final_activation": False,
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
        "hop_length": 4,
        "n_fft": 16,
        "win_size": 16,
        "num_mels": 64,
    },
}

# Where the loader moves an axis of channels to.
AXES = {"conv": (1, -1), "conv_transpose1d": (0, -1)}

GAIN = 0.6
LOW_PASS = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]

Run = Callable[[mx.Dtype], list[mx.array]]


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_params(specs: list[Any], dtype: mx.Dtype) -> Params:
    """Weights of every spec: matrices and kernels of gain GAIN, norms near one."""
    arrays: dict[str, Any] = {}
    for number, spec in enumerate(specs):
        values = GAIN * normal(*spec.shape, seed=number) / np.sqrt(np.prod(spec.shape[1:]) or 1)
        if spec.name.endswith(".filter"):  # a low-pass filter of 12 taps: others would make noise of a sound
            values = np.array(LOW_PASS + LOW_PASS[::-1], np.float32).reshape(spec.shape)
        if spec.name.endswith("norm.weight"):
            values = 1.0 + 0.2 * values
        if spec.layout in AXES:
            values = np.ascontiguousarray(np.moveaxis(values, *AXES[spec.layout]))
        stored = mx.array(values).astype(mx.bfloat16).astype(dtype)
        arrays[spec.name] = LinearWeight("dense", stored) if spec.layout == "linear" else stored
    return Params(arrays)


def check(run: Run, kernels: set[str]) -> None:
    """float32 as the kernels of the CPU; bfloat16 at most twice as far from that as MLX's own ops in bfloat16."""
    exact = evaluated(run, mx.float32)
    with simulated_kernels() as device:
        ours = {dtype: evaluated(run, dtype) for dtype in (mx.float32, mx.bfloat16)}
    with forced("mlx"):
        plain = evaluated(run, mx.bfloat16)
    for whole, single, half, usual in zip(exact, ours[mx.float32], ours[mx.bfloat16], plain, strict=True):
        assert distance(single, whole) < 2e-5 * size(whole)
        assert 0 < distance(half, whole) <= 2 * distance(usual, whole)
    launched = {d.kernel.split("_float32")[0].split("_bfloat16")[0] for d in device.dispatches}
    assert launched == kernels


def evaluated(run: Run, dtype: mx.Dtype) -> list[np.ndarray]:
    return [np.array(a.astype(mx.float32)).astype(np.float64) for a in run(dtype)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))


def size(a: np.ndarray) -> float:
    return float(np.sqrt((a**2).mean()))


def modality(channels: int, positions: np.ndarray, width: int, seed: int, dtype: mx.Dtype) -> Modality:
    tokens = positions.shape[1]
    return Modality(
        latent=mx.array(normal(1, tokens, channels, seed=seed)).astype(dtype),
        sigma=np.array([0.7], np.float32),
        timesteps=np.where(np.arange(tokens) < 2, 0.0, 0.7).astype(np.float32)[None],
        positions=positions[None].astype(np.float32),
        context=mx.array(normal(1, 5, width, seed=seed + 1)).astype(dtype),
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_transformer_block(generation: str) -> None:
    section = GENERATIONS[generation]
    config = transformer.TransformerConfig.from_dict(section)
    gated = section["apply_gated_attention"]
    f, h, w = (axis.ravel() for axis in np.meshgrid(*map(np.arange, GRID), indexing="ij"))
    start = np.stack([np.maximum(8 * f - 7, 0) / 24, 32 * h, 32 * w])
    video_at = np.stack([start, start + np.array([1 / 24, 32, 32])[:, None]], -1)
    audio_at = np.stack([0.04 * np.arange(5), 0.04 * np.arange(5) + 0.01], -1)[None]

    def run(dtype: mx.Dtype) -> list[mx.array]:
        model = transformer.Transformer(config, random_params(transformer.param_specs(config), dtype), dtype)
        video = modality(8, video_at, 128 if gated else 40, 1, dtype)
        audio = modality(6, audio_at, 64 if gated else 40, 3, dtype)
        return [a for a in model(video, audio) if a is not None]

    attention = {f"rope_attention{part}" for part in ("", "_keys", "_row_scale")}
    check(run, {"linear_few", "linear_tile", "modulated_norm", *attention})


def test_a_video_decoder() -> None:
    config = video_vae.VideoVaeConfig.from_dict(VIDEO_VAE)
    latent = normal(1, 2, 2, 3, 8, seed=1)

    def run(dtype: mx.Dtype) -> list[mx.array]:
        decoder = VideoDecoder(config, random_params(video_vae.param_specs(config), dtype), dtype)
        return [decoder(mx.array(latent).astype(dtype))]

    check(run, {"causal_conv3d", "causal_conv3d_row_scale"})


@pytest.mark.parametrize("with_key_frames", [False, True])
def test_a_block_of_the_diffusion_decoder(with_key_frames: bool) -> None:
    """Five frames in a ring of which each sees three, and two key frames after them."""
    block = AttentionBlock("block", 128, 64, (3, 3, 5), (16, 24, 24), denoises=True)
    x = normal(1, 5, 4, 6, 128, seed=1)
    planes = normal(1, 2, 4, 6, 128, seed=2)
    shared = 0.3 * normal(7, 128, seed=3)

    def run(dtype: mx.Dtype) -> list[mx.array]:
        params = random_params(block.specs(), dtype)
        modulation = block.modulation(params, mx.array(shared))
        frames, of_planes = (mx.array(a).astype(dtype) for a in (x, planes))
        keys = PlaneKeys(block.keys_values(of_planes, params, modulation), np.array([0.5, 3.0]))
        ring = KeyRing(5, keys if with_key_frames else None)
        ring.put(block.keys_values(frames, params, modulation))
        at = np.arange(5)
        after = block.attend(frames, at.astype(np.float64), ring.seen(at, 3, 5), params, modulation)
        return [block.mlp(after, params, modulation)]

    check(run, {"linear_tile", "modulated_norm", "neighborhood_attention"})


def test_a_vocoder() -> None:
    config = vocoder.VocoderConfig.from_dict(VOCODER)
    log_mel = normal(1, 6, 64, 2, seed=1)

    def run(_: mx.Dtype) -> list[mx.array]:  # a vocoder computes in float32
        model = vocoder.Vocoder(config, random_params(vocoder.param_specs(config), mx.float32))
        return [model(mx.array(log_mel))]

    exact = evaluated(run, mx.float32)[0]
    with simulated_kernels() as device:
        ours = evaluated(run, mx.float32)[0]
    assert distance(ours, exact) < 2e-5 * size(exact)
    assert {d.kernel for d in device.dispatches} >= {"antialiased_snake_float32", "causal_conv3d_float32_128x32"}

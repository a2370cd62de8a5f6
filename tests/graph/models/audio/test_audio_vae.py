"""Audio VAE: both directions against plain numpy loops, causality, lengths, official names, rejections."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.audio.vae import (
    AudioDecoder,
    AudioEncoder,
    AudioVaeConfig,
    decoder_specs,
    encoder_specs,
    param_specs,
)
from ltx2rt.graph.models.layers.params import Params

Arrays = dict[str, np.ndarray]

SIZES: dict[str, Any] = {
    "ch": 4,
    "ch_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "z_channels": 3,
    "mel_bins": 8,
    "attn_resolutions": [],
    "mid_block_add_attention": False,
}


def section(**changes: Any) -> dict[str, Any]:
    return {"model": {"params": {"ddconfig": {**SIZES, **changes}}}}


CONFIG = AudioVaeConfig.from_dict(section())


def random_arrays() -> Arrays:
    """Official names and layout, float32."""
    rng = np.random.default_rng(7)
    arrays = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) * 0.3 for spec in param_specs(CONFIG)}
    std = arrays["per_channel_statistics.std-of-means"]
    arrays["per_channel_statistics.std-of-means"] = np.abs(std) + 0.5
    return arrays


def as_params(arrays: Arrays) -> Params:
    layouts = {spec.name: spec.layout for spec in param_specs(CONFIG)}
    return Params({k: mx.array(v.transpose(0, 2, 3, 1) if layouts[k] == "conv" else v) for k, v in arrays.items()})


ARRAYS = random_arrays()
PARAMS = as_params(ARRAYS)


def plain_conv(x: np.ndarray, name: str, pad: tuple[tuple[int, int], tuple[int, int]], stride: int = 1) -> np.ndarray:
    """(C, T, M) with official weights (O, I, kh, kw), in float64."""
    weight, bias = ARRAYS[f"{name}.weight"].astype(np.float64), ARRAYS[f"{name}.bias"].astype(np.float64)
    x = np.pad(x, ((0, 0), *pad))
    kernel = weight.shape[2]
    rows, columns = ((side - kernel) // stride + 1 for side in x.shape[1:])
    out = np.empty((weight.shape[0], rows, columns))
    for r in range(rows):
        for c in range(columns):
            patch = x[:, r * stride : r * stride + kernel, c * stride : c * stride + kernel]
            out[:, r, c] = np.tensordot(weight, patch, 3) + bias
    return out


def causal(x: np.ndarray, name: str) -> np.ndarray:
    return plain_conv(x, name, ((2, 0), (1, 1)))


def activated(x: np.ndarray) -> np.ndarray:
    x = x / np.sqrt((x**2).mean(0) + 1e-6)
    return x / (1 + np.exp(-x))


def block(x: np.ndarray, name: str) -> np.ndarray:
    hidden = causal(activated(causal(activated(x), f"{name}.conv1.conv")), f"{name}.conv2.conv")
    shortcut = f"{name}.nin_shortcut.conv"
    return hidden + (plain_conv(x, shortcut, ((0, 0), (0, 0))) if f"{shortcut}.weight" in ARRAYS else x)


def plain_encoder(log_mel: np.ndarray) -> np.ndarray:
    x = causal(log_mel.transpose(2, 0, 1), "encoder.conv_in.conv")
    for level in range(3):
        x = block(x, f"encoder.down.{level}.block.0")
        if level < 2:
            x = plain_conv(x, f"encoder.down.{level}.downsample.conv", ((2, 0), (0, 1)), stride=2)
    x = block(block(x, "encoder.mid.block_1"), "encoder.mid.block_2")
    latent = causal(activated(x), "encoder.conv_out.conv")[:3]
    tokens = np.stack([latent[:, i].reshape(-1) for i in range(latent.shape[1])])
    mean, std = (ARRAYS[f"per_channel_statistics.{n}-of-means"] for n in ("mean", "std"))
    return (tokens - mean) / std


def plain_decoder(tokens: np.ndarray) -> np.ndarray:
    mean, std = (ARRAYS[f"per_channel_statistics.{n}-of-means"] for n in ("mean", "std"))
    latent = np.stack([row.reshape(3, 2) for row in tokens * std + mean], axis=1)
    x = causal(latent, "decoder.conv_in.conv")
    x = block(block(x, "decoder.mid.block_1"), "decoder.mid.block_2")
    for level in (2, 1, 0):
        for index in range(2):
            x = block(x, f"decoder.up.{level}.block.{index}")
        if level:
            doubled = np.kron(x, np.ones((1, 2, 2)))
            x = causal(doubled, f"decoder.up.{level}.upsample.conv.conv")[:, 1:]
    return causal(activated(x), "decoder.conv_out.conv").transpose(1, 2, 0)


def encode(log_mel: np.ndarray, dtype: mx.Dtype = mx.float32) -> np.ndarray:
    return np.array(AudioEncoder(CONFIG, PARAMS, dtype)(mx.array(log_mel)).astype(mx.float32))


def decode(tokens: np.ndarray, dtype: mx.Dtype = mx.float32) -> np.ndarray:
    return np.array(AudioDecoder(CONFIG, PARAMS, dtype)(mx.array(tokens)).astype(mx.float32))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 4, 9])
def test_encoder_agrees_with_plain_loops(frames: int) -> None:
    log_mel = random(2, frames, 8, 2)
    tokens = encode(log_mel)
    assert tokens.shape == (2, -(-frames // 4), 6)
    for item in range(2):
        np.testing.assert_allclose(tokens[item], plain_encoder(log_mel[item].astype(np.float64)), atol=2e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_decoder_agrees_with_plain_loops(length: int) -> None:
    tokens = random(2, length, 6)
    spectrum = decode(tokens)
    assert spectrum.shape == (2, 4 * length - 3, 8, 2)
    for item in range(2):
        np.testing.assert_allclose(spectrum[item], plain_decoder(tokens[item].astype(np.float64)), atol=2e-5)


def test_the_past_does_not_depend_on_the_future() -> None:
    tokens = random(1, 5, 6)
    changed = tokens.copy()
    changed[:, 3] += 1.0
    before, after = decode(tokens), decode(changed)
    # Latent i >= 1 begins at spectrogram frame 4i - 3.
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert np.abs(before - after)[:, 9].max() > 1e-3

    # Latent i ends with spectrogram frame 4i.
    log_mel = random(1, 13, 8, 2)
    changed = log_mel.copy()
    changed[:, 9:] += 1.0
    before, after = encode(log_mel), encode(changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before - after)[:, 3].max() > 1e-3


def test_bfloat16_stays_close() -> None:
    tokens = random(1, 3, 6)
    exact = decode(tokens)
    assert np.abs(decode(tokens, mx.bfloat16) - exact).max() < 0.05 * np.abs(exact).max()


def test_specs_are_the_official_names_of_each_half() -> None:
    names = {spec.name: spec.shape for spec in param_specs(AudioVaeConfig.from_dict(section(ch=128, num_res_blocks=2)))}
    assert len(names) == 102
    assert names["encoder.down.1.block.0.nin_shortcut.conv.weight"] == (256, 128, 1, 1)
    assert names["decoder.up.0.block.0.nin_shortcut.conv.weight"] == (128, 256, 1, 1)
    assert names["decoder.up.2.upsample.conv.conv.weight"] == (512, 512, 3, 3)
    assert names["encoder.down.0.downsample.conv.bias"] == (128,)
    halves = {spec.name for spec in encoder_specs(CONFIG)}, {spec.name for spec in decoder_specs(CONFIG)}
    shared = {"per_channel_statistics.mean-of-means", "per_channel_statistics.std-of-means"}
    assert halves[0] & halves[1] == shared
    assert halves[0] | halves[1] == set(ARRAYS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "group"}, "norm_type: only 'pixel' is supported, got 'group'"),
        ({"causality_axis": "width"}, "causality_axis: only 'height' is supported, got 'width'"),
        ({"mid_block_add_attention": True}, "mid_block_add_attention: only False is supported, got True"),
        ({"attn_resolutions": [64]}, r"attn_resolutions: only \[\] is supported, got \[64\]"),
        ({"mel_bins": 10}, "10 mel bins cannot be halved 2 times"),
    ],
)
def test_unknown_variants_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        AudioVaeConfig.from_dict(section(**changes))

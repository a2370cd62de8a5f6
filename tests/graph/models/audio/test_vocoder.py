"""Vocoders: generators, filters and bandwidth extension against plain numpy loops, lengths, names, rejections."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.audio.bandwidth_extension import upsample_waveform
from ltx2rt.graph.models.audio.snake import antialiased_snake
from ltx2rt.graph.models.audio.vocoder import Vocoder, VocoderConfig, param_specs
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import LinearWeight

Arrays = dict[str, np.ndarray]

FLAT: dict[str, Any] = {
    "upsample_initial_channel": 32,
    "resblock": "1",
    "upsample_rates": [6, 5, 2, 2, 2],
    "upsample_kernel_sizes": [16, 15, 8, 4, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 2]],
    "stereo": True,
}
SNAKE: dict[str, Any] = {
    "resblock": "AMP1",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "stereo": True,
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
}
NESTED: dict[str, Any] = {
    "vocoder": {
        **SNAKE,
        "upsample_initial_channel": 8,
        "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4],
    },
    "bwe": {
        **SNAKE,
        "upsample_initial_channel": 8,
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


def random_arrays(config: VocoderConfig) -> Arrays:
    """Official names and layout, float32; the anti-alias filters are those of the published files."""
    rng = np.random.default_rng(3)
    half = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]
    arrays = {}
    for spec in param_specs(config):
        if spec.name.endswith(".filter"):
            arrays[spec.name] = np.array(half + half[::-1], np.float32).reshape(1, 1, 12)
        else:
            scale = 0.2 if spec.name.endswith("basis") else 0.6 / np.sqrt(np.prod(spec.shape[1:]) or 1)
            arrays[spec.name] = (rng.standard_normal(spec.shape) * scale).astype(np.float32)
    return arrays


def as_params(config: VocoderConfig, arrays: Arrays) -> Params:
    loaded: dict[str, Any] = {}
    for spec in param_specs(config):
        value = arrays[spec.name]
        if spec.layout == "conv":
            loaded[spec.name] = mx.array(value.transpose(0, 2, 1))
        elif spec.layout == "conv_transpose1d":
            loaded[spec.name] = mx.array(value.transpose(1, 2, 0))
        elif spec.layout == "linear":
            loaded[spec.name] = LinearWeight("dense", mx.array(value))
        else:
            loaded[spec.name] = mx.array(value)
    return Params(loaded)


class Plain:
    """The official formulas on (C, S) float64, written as sums over taps."""

    def __init__(self, arrays: Arrays) -> None:
        self.w = {name: value.astype(np.float64) for name, value in arrays.items()}

    def conv(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        weight = self.w[f"{name}.weight"]
        margin = (weight.shape[2] - 1) * dilation // 2
        padded = np.pad(x, ((0, 0), (margin, margin)))
        taps = (weight[:, :, k] @ padded[:, k * dilation :][:, : x.shape[1]] for k in range(weight.shape[2]))
        return sum(taps) + self.w.get(f"{name}.bias", np.zeros(len(weight)))[:, None]

    def up(self, x: np.ndarray, name: str, rate: int) -> np.ndarray:
        weight = self.w[f"{name}.weight"]
        kernel, cut = weight.shape[2], (weight.shape[2] - rate) // 2
        full = np.zeros((weight.shape[1], (x.shape[1] - 1) * rate + kernel))
        for i in range(x.shape[1]):
            full[:, i * rate : i * rate + kernel] += np.tensordot(x[:, i], weight, 1)
        return full[:, cut : full.shape[1] - cut] + self.w[f"{name}.bias"][:, None]

    def snake(self, x: np.ndarray, name: str) -> np.ndarray:
        rise = self.w[f"{name}.upsample.filter"].ravel()
        fall = self.w[f"{name}.downsample.lowpass.filter"].ravel()
        alpha = self.w[f"{name}.act.alpha"][:, None]
        beta = self.w.get(f"{name}.act.beta", alpha[:, 0])[:, None]
        length = x.shape[1]
        padded = np.pad(x, ((0, 0), (5, 5)), mode="edge")
        fine = np.zeros((len(x), 2 * (length + 9) + 12))
        for i in range(length + 10):
            fine[:, 2 * i : 2 * i + 12] += 2 * padded[:, i : i + 1] * rise
        fine = fine[:, 15:-15]
        fine = fine + np.sin(np.exp(alpha) * fine) ** 2 / (np.exp(beta) + 1e-9)
        padded = np.pad(fine, ((0, 0), (5, 6)), mode="edge")
        return np.stack([padded[:, 2 * i : 2 * i + 12] @ fall for i in range(length)], axis=1)

    def generator(self, log_mel: np.ndarray, prefix: str, section: dict[str, Any]) -> np.ndarray:
        x = np.concatenate([log_mel[:, :, 0], log_mel[:, :, 1]], axis=1).T
        x = self.conv(x, f"{prefix}conv_pre")
        snake = section["resblock"] == "AMP1"
        number = 0
        for stage, rate in enumerate(section["upsample_rates"]):
            x = self.up(x if snake else leaky(x, 0.1), f"{prefix}ups.{stage}", rate)
            branches = []
            for dilations in section["resblock_dilation_sizes"]:
                branches.append(self.block(x, f"{prefix}resblocks.{number}", dilations, snake))
                number += 1
            x = np.mean(branches, axis=0)
        x = self.snake(x, f"{prefix}act_post") if snake else leaky(x, 0.01)
        return self.conv(x, f"{prefix}conv_post")

    def block(self, x: np.ndarray, name: str, dilations: list[int], snake: bool) -> np.ndarray:
        for i, dilation in enumerate(dilations):
            hidden = self.snake(x, f"{name}.acts1.{i}") if snake else leaky(x, 0.1)
            hidden = self.conv(hidden, f"{name}.convs1.{i}", dilation)
            hidden = self.snake(hidden, f"{name}.acts2.{i}") if snake else leaky(hidden, 0.1)
            x = x + self.conv(hidden, f"{name}.convs2.{i}")
        return x


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x >= 0, x, slope * x)


def plain_upsampling(x: np.ndarray) -> np.ndarray:
    """Times three by the 43-tap Hann-windowed sinc, (C, S)."""
    t = 0.99 * (np.arange(43) / 3 - 7)
    taps = np.sinc(t) * np.cos(np.pi * np.clip(t, -6, 6) / 12) ** 2 * 0.99 / 3
    padded = np.pad(x, ((0, 0), (7, 7)), mode="edge")
    full = np.zeros((len(x), (padded.shape[1] - 1) * 3 + 43))
    for i in range(padded.shape[1]):
        full[:, 3 * i : 3 * i + 43] += 3 * padded[:, i : i + 1] * taps
    return full[:, 42:-40]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def run(config: VocoderConfig, arrays: Arrays, log_mel: np.ndarray) -> np.ndarray:
    return np.array(Vocoder(config, as_params(config, arrays))(mx.array(log_mel)))


def test_first_generation_agrees_with_plain_loops() -> None:
    config = VocoderConfig.from_dict(FLAT)
    arrays = random_arrays(config)
    log_mel = random(2, 3, 64, 2)
    waveform = run(config, arrays, log_mel)
    assert waveform.shape == (2, 720, 2)
    assert Vocoder(config, as_params(config, arrays)).sample_rate == 24000
    for item in range(2):
        expected = np.tanh(Plain(arrays).generator(log_mel[item].astype(np.float64), "", FLAT))
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(waveform[item].T, expected, atol=1e-5)


def test_second_generation_agrees_with_plain_loops() -> None:
    config = VocoderConfig.from_dict(NESTED)
    arrays = random_arrays(config)
    arrays["vocoder.conv_post.weight"] *= 4  # So that the clamp of the first generator is seen to work.
    log_mel = random(1, 5, 64, 2)
    vocoder = Vocoder(config, as_params(config, arrays))
    plain = Plain(arrays)

    raw = plain.generator(log_mel[0].astype(np.float64), "vocoder.", NESTED["vocoder"])
    base = np.clip(raw, -1, 1)
    assert np.abs(raw).max() > 1
    assert np.abs(raw).mean() < 1
    np.testing.assert_allclose(np.array(vocoder.narrowband(mx.array(log_mel)))[0].T, base, atol=1e-5)

    padded = np.pad(base, ((0, 0), (12, 0)))
    windows = np.stack([padded[:, 4 * i : 4 * i + 16] for i in range(10)], axis=1)
    parts = windows @ arrays["mel_stft.stft_fn.forward_basis"][:, 0].T.astype(np.float64)
    magnitude = np.hypot(parts[..., :9], parts[..., 9:])
    mels = np.log(np.maximum(magnitude @ arrays["mel_stft.mel_basis"].T.astype(np.float64), 1e-5))
    residual = plain.generator(mels.transpose(1, 2, 0), "bwe_generator.", NESTED["bwe"])
    expected = np.clip(residual + plain_upsampling(base), -1, 1)
    waveform = np.array(vocoder(mx.array(log_mel)))
    assert waveform.shape == (1, 120, 2)
    assert vocoder.sample_rate == 48000
    np.testing.assert_allclose(waveform[0].T, expected, atol=5e-5)


@pytest.mark.parametrize("samples", [1, 2, 37])
@pytest.mark.parametrize("beta", [True, False])
def test_antialiased_snake_agrees_with_zero_insertion(samples: int, beta: bool) -> None:
    rng = np.random.default_rng(samples)
    arrays = {
        "a.act.alpha": rng.standard_normal(3).astype(np.float32),
        "a.upsample.filter": rng.standard_normal((1, 1, 12)).astype(np.float32),
        "a.downsample.lowpass.filter": rng.standard_normal((1, 1, 12)).astype(np.float32),
    }
    if beta:
        arrays["a.act.beta"] = rng.standard_normal(3).astype(np.float32)
    x = random(2, samples, 3)
    result = np.array(antialiased_snake(mx.array(x), Params({k: mx.array(v) for k, v in arrays.items()}).at("a")))
    for item in range(2):
        expected = Plain(arrays).snake(x[item].T.astype(np.float64), "a")
        np.testing.assert_allclose(result[item].T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 5, 40])
def test_waveform_upsampling_agrees_with_zero_insertion(samples: int) -> None:
    x = random(1, samples, 2)
    result = np.array(upsample_waveform(mx.array(x), 3))
    np.testing.assert_allclose(result[0].T, plain_upsampling(x[0].T.astype(np.float64)), atol=2e-6)


def test_specs_have_the_official_counts() -> None:
    blocks = {"resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3}
    flat = param_specs(VocoderConfig.from_dict({**FLAT, **blocks, "upsample_initial_channel": 1024}))
    assert len(flat) == 194
    assert sum(int(np.prod(spec.shape)) for spec in flat) == 55_592_802
    core = {"upsample_initial_channel": 1536, "upsample_rates": [5, 2, 2, 2, 2, 2]}
    extension = {"upsample_initial_channel": 512, "upsample_rates": [6, 5, 2, 2, 2]}
    published = {
        "vocoder": {**NESTED["vocoder"], **blocks, **core, "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4]},
        "bwe": {
            **NESTED["bwe"],
            **blocks,
            **extension,
            "upsample_kernel_sizes": [12, 11, 4, 4, 4],
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
        },
    }
    nested = param_specs(VocoderConfig.from_dict(published))
    assert len(nested) == 1227
    assert sum(int(np.prod(spec.shape)) for spec in nested) == 129_085_032


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "vocoder: the config lacks 'resblock'"),
        ({**FLAT, "resblock": "2"}, "unsupported variant, resblock '2'"),
        ({**FLAT, "stereo": False}, "stereo False"),
        ({**FLAT, "upsample_rates": [2]}, "1 rates, 5 kernels"),
        ({**NESTED, "vocoder": {**NESTED["vocoder"], "activation": "relu"}}, "activation 'relu'"),
        ({**NESTED, "bwe": {**NESTED["bwe"], "hop_length": 3}}, "contradict each other"),
        (
            {**NESTED, "bwe": {**NESTED["bwe"], "output_sampling_rate": 44100}},
            "44100 is no multiple of input rate 16000",
        ),
        ({**NESTED, "bwe": {k: v for k, v in NESTED["bwe"].items() if k != "n_fft"}}, "vocoder.bwe: the config lacks"),
    ],
)
def test_unknown_variants_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        VocoderConfig.from_dict(section)

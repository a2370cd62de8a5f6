"""Vocoders: HiFi-GAN of LTX-2 (24 kHz), and the 2.3 generator that is followed by bandwidth extension (48 kHz)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.audio.bandwidth_extension import (
    BandwidthConfig,
    bandwidth_specs,
    causal_log_mel,
    upsample_waveform,
)
from ltx2rt.graph.models.audio.snake import antialiased_snake, snake_specs
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.kernels import conv1d, conv_transpose1d
from ltx2rt.types import ParamSpec

CHANNELS = 2
MEL_BINS = 64
MEL_FRAMES_PER_SECOND = 100  # Of the audio VAE: 16000 Hz / 160.
LEAKY_SLOPE = 0.1
LAST_LEAKY_SLOPE = 0.01
EDGE_KERNEL = 7  # Of the first and the last convolution.


@dataclass(frozen=True)
class GeneratorConfig:
    """One waveform generator: a stack of upsampling stages, each the mean of parallel residual blocks.

    Attributes:
        width: channels before the first stage; every stage halves them.
        rates, kernels: of the transposed convolutions, one per stage.
        block_kernels: of the parallel blocks of a stage.
        dilations: of the convolutions of each of those blocks.
        activation: ``leaky_relu`` (HiFi-GAN), ``snake`` or ``snakebeta`` (BigVGAN, anti-aliased).
        final_bias: the last convolution has a bias.
        final: what bounds the waveform: ``tanh``, ``clamp`` to [-1, 1] or ``none``.
    """

    width: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    activation: Literal["leaky_relu", "snake", "snakebeta"]
    final_bias: bool
    final: Literal["tanh", "clamp", "none"]

    @classmethod
    def from_dict(cls, section: Mapping[str, Any], where: str) -> GeneratorConfig:
        """From one generator's section; ``where`` names it in errors.

        Raises:
            CheckpointError: a key is missing, or the variant is not supported.
        """
        try:
            block, stereo = str(section["resblock"]), section.get("stereo", True)
            width = int(section["upsample_initial_channel"])
            rates = tuple(int(r) for r in section["upsample_rates"])
            kernels = tuple(int(k) for k in section["upsample_kernel_sizes"])
            block_kernels = tuple(int(k) for k in section["resblock_kernel_sizes"])
            dilations = tuple(tuple(int(d) for d in row) for row in section["resblock_dilation_sizes"])
        except KeyError as error:
            raise CheckpointError(f"{where}: the config lacks {error}; the checkpoint's metadata is damaged.") from None
        activation = str(section.get("activation", "snake")) if block == "AMP1" else "leaky_relu"
        if block not in ("1", "AMP1") or activation not in ("leaky_relu", "snake", "snakebeta") or not stereo:
            raise CheckpointError(
                f"{where}: unsupported variant, resblock {block!r}, activation {activation!r}, stereo {stereo!r}; "
                "published models have resblock 1 or AMP1 with snake or snakebeta, and are stereo."
            )
        if len(rates) != len(kernels) or len(block_kernels) != len(dilations) or width % (1 << len(rates)):
            raise CheckpointError(
                f"{where}: {len(rates)} rates, {len(kernels)} kernels, {len(block_kernels)} block kernels, "
                f"{len(dilations)} dilation rows and width {width} do not fit together; check the checkpoint's config."
            )
        final: Literal["tanh", "clamp", "none"] = "tanh" if section.get("use_tanh_at_final", True) else "clamp"
        return cls(
            width=width,
            rates=rates,
            kernels=kernels,
            block_kernels=block_kernels,
            dilations=dilations,
            activation=activation,  # type: ignore[arg-type]
            final_bias=bool(section.get("use_bias_at_final", True)),
            final=final if section.get("apply_final_activation", True) else "none",
        )

    @property
    def upsampling(self) -> int:
        """Samples per spectrogram frame."""
        return math.prod(self.rates)

    @property
    def snake(self) -> bool:
        return self.activation != "leaky_relu"


@dataclass(frozen=True)
class VocoderConfig:
    """A vocoder: one generator and, in 2.3 and later, the extension of its bandwidth by a second one.

    Attributes:
        core: the first generator.
        bandwidth: the extension; None for LTX-2 19B.
        extension: the generator of the extension; None with ``bandwidth``.
        sample_rate: Hz of the result.
    """

    core: GeneratorConfig
    bandwidth: BandwidthConfig | None
    extension: GeneratorConfig | None
    sample_rate: int

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> VocoderConfig:
        """From ``config["vocoder"]``: flat (19B), or nested with the key ``bwe`` (2.3 and later).

        Raises:
            CheckpointError: a key is missing, the variant is not supported, or the rates contradict each other.
        """
        if "bwe" not in section:
            core = GeneratorConfig.from_dict(section, "vocoder")
            rate = int(section.get("output_sampling_rate", MEL_FRAMES_PER_SECOND * core.upsampling))
            return cls(core=core, bandwidth=None, extension=None, sample_rate=rate)
        core = GeneratorConfig.from_dict(section.get("vocoder", {}), "vocoder.vocoder")
        extension = GeneratorConfig.from_dict(section["bwe"], "vocoder.bwe")
        bandwidth = BandwidthConfig.from_dict(section["bwe"])
        if core.upsampling % bandwidth.hop or extension.upsampling != bandwidth.hop * bandwidth.ratio:
            raise CheckpointError(
                f"vocoder.bwe: {core.upsampling} samples per frame, hop {bandwidth.hop}, ratio {bandwidth.ratio} and "
                f"upsampling {extension.upsampling} contradict each other; check the checkpoint's config."
            )
        return cls(core=core, bandwidth=bandwidth, extension=extension, sample_rate=bandwidth.output_rate)


def _conv(name: str, out_channels: int, in_channels: int, kernel: int, bias: bool = True) -> Iterator[ParamSpec]:
    yield ParamSpec(f"{name}.weight", (out_channels, in_channels, kernel), layout="conv")
    if bias:
        yield ParamSpec(f"{name}.bias", (out_channels,))


def _generator(prefix: str, config: GeneratorConfig) -> Iterator[ParamSpec]:
    width = config.width
    yield from _conv(f"{prefix}conv_pre", width, CHANNELS * MEL_BINS, EDGE_KERNEL)
    for stage, kernel in enumerate(config.kernels):
        yield ParamSpec(f"{prefix}ups.{stage}.weight", (width, width // 2, kernel), layout="conv_transpose1d")
        yield ParamSpec(f"{prefix}ups.{stage}.bias", (width // 2,))
        width //= 2
        for branch, block_kernel in enumerate(config.block_kernels):
            block = f"{prefix}resblocks.{stage * len(config.block_kernels) + branch}"
            for index in range(len(config.dilations[branch])):
                for half in (1, 2):
                    yield from _conv(f"{block}.convs{half}.{index}", width, width, block_kernel)
                    if config.snake:
                        beta = config.activation == "snakebeta"
                        yield from snake_specs(f"{block}.acts{half}.{index}", width, beta=beta)
    if config.snake:
        yield from snake_specs(f"{prefix}act_post", width, beta=True)
    yield from _conv(f"{prefix}conv_post", CHANNELS, width, EDGE_KERNEL, config.final_bias)


def param_specs(config: VocoderConfig) -> list[ParamSpec]:
    """All tensors of the component ``vocoder``."""
    if config.bandwidth is None or config.extension is None:
        return list(_generator("", config.core))
    return [
        *_generator("vocoder.", config.core),
        *_generator("bwe_generator.", config.extension),
        *bandwidth_specs(config.bandwidth),
    ]


class Generator:
    """Log-mel spectrogram to waveform by repeated upsampling.

    Args:
        config: sizes and variant.
        params: the generator's tensors.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (HiFi-GAN, BigVGAN).
    """

    def __init__(self, config: GeneratorConfig, params: Params) -> None:
        self.config = config
        self._params = params

    def __call__(self, log_mel: mx.array) -> mx.array:
        """Args: log_mel (B, T, 64, 2). Returns: (B, upsampling * T, 2) float32."""
        config, params = self.config, self._params
        batch, frames, bins, channels = log_mel.shape
        features = log_mel.astype(mx.float32).transpose(0, 1, 3, 2).reshape(batch, frames, channels * bins)
        x = _same_conv(features, params.at("conv_pre"))
        branches = len(config.block_kernels)
        for stage, (rate, kernel) in enumerate(zip(config.rates, config.kernels, strict=True)):
            up = params.at(f"ups.{stage}")
            x = conv_transpose1d(
                x,
                up["weight"],
                up["bias"],
                stride=rate,
                padding=(kernel - rate) // 2,
                activation=None if config.snake else "leaky_relu",
                negative_slope=LEAKY_SLOPE,
            )
            total = self._block(x, stage * branches, config.dilations[0])
            for branch in range(1, branches):
                total = total + self._block(x, stage * branches + branch, config.dilations[branch])
                mx.eval(total)
            x = total / branches
        if config.snake:
            x = _same_conv(antialiased_snake(x, params.at("act_post")), params.at("conv_post"))
        else:
            x = _same_conv(x, params.at("conv_post"), slope=LAST_LEAKY_SLOPE)
        if config.final == "tanh":
            return mx.tanh(x)
        return mx.clip(x, -1.0, 1.0) if config.final == "clamp" else x

    def _block(self, x: mx.array, number: int, dilations: tuple[int, ...]) -> mx.array:
        params = self._params.at(f"resblocks.{number}")
        for index, dilation in enumerate(dilations):
            first, second = params.at(f"convs1.{index}"), params.at(f"convs2.{index}")
            if self.config.snake:
                hidden = _same_conv(antialiased_snake(x, params.at(f"acts1.{index}")), first, dilation=dilation)
                x = _same_conv(antialiased_snake(hidden, params.at(f"acts2.{index}")), second, residual=x)
            else:
                hidden = _same_conv(x, first, dilation=dilation, slope=LEAKY_SLOPE)
                x = _same_conv(hidden, second, slope=LEAKY_SLOPE, residual=x)
            mx.eval(x)  # or all pairs of all branches are there at once
        return x


def _same_conv(
    x: mx.array,
    params: Params,
    *,
    dilation: int = 1,
    slope: float | None = None,
    residual: mx.array | None = None,
) -> mx.array:
    """Convolution that keeps the length, after a leaky ReLU where ``slope`` is given."""
    weight = params["weight"]
    margin = (weight.shape[1] - 1) * dilation // 2
    return conv1d(
        x,
        weight,
        params.get("bias"),
        dilation=dilation,
        padding=(margin, margin),
        activation=None if slope is None else "leaky_relu",
        negative_slope=LEAKY_SLOPE if slope is None else slope,
        residual=residual,
    )


class Vocoder:
    """Log-mel spectrogram to stereo sound; always computed in float32, which bfloat16 audibly falls short of.

    Args:
        config: see `VocoderConfig`.
        params: the component ``vocoder``, see `param_specs`.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0.
    """

    def __init__(self, config: VocoderConfig, params: Params) -> None:
        self.config = config
        self._params = params
        self._core = Generator(config.core, params if config.bandwidth is None else params.at("vocoder"))

    @property
    def sample_rate(self) -> int:
        """Hz of the waveform."""
        return self.config.sample_rate

    def __call__(self, log_mel: mx.array) -> mx.array:
        """Args: log_mel (B, T, 64, 2). Returns: (B, S, 2) float32 in [-1, 1], S = T * sample_rate / 100."""
        waveform = self.narrowband(log_mel)
        bandwidth, extension = self.config.bandwidth, self.config.extension
        if bandwidth is None or extension is None:
            return waveform
        spectrum = causal_log_mel(waveform, bandwidth, self._params.at("mel_stft"))
        residual = Generator(extension, self._params.at("bwe_generator"))(spectrum)
        return mx.clip(residual + upsample_waveform(waveform, bandwidth.ratio), -1.0, 1.0)

    def narrowband(self, log_mel: mx.array) -> mx.array:
        """The first generator's waveform, (B, upsampling * T, 2) float32: before the bandwidth extension, if any."""
        return self._core(log_mel)

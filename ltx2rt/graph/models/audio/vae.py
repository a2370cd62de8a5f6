"""The audio VAE: log-mel spectrograms to normalised latent tokens and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.kernels import conv2d
from ltx2rt.types import ParamSpec

PIXEL_NORM_EPS = 1e-6  # The video VAE has 1e-8.
TIME_CAUSAL = (2, 0)  # A 3-tap convolution sees no future frame,
MEL_CENTRED = (1, 1)  # but both neighbouring mel bands.


@dataclass(frozen=True)
class AudioVaeConfig:
    """Sizes of the audio VAE.

    Attributes:
        channels: width of the first level.
        multipliers: width of each level, in multiples of ``channels``; each level but the last halves time and mel.
        blocks: residual blocks per encoder level; the decoder has one more.
        latent_channels: of the latent; 8 in published files.
        mel_bins: of the spectrogram.
        in_channels, out_channels: sound channels.
        double_z: the encoder's output holds means, then variances; only the means are used.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    mel_bins: int
    in_channels: int
    out_channels: int
    double_z: bool

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> AudioVaeConfig:
        """From ``config["audio_vae"]`` of a checkpoint.

        Raises:
            CheckpointError: for a variant that no published model has.
        """
        params = section.get("model", {}).get("params", {})
        sizes = params.get("ddconfig", {})
        mel = section.get("preprocessing", {}).get("mel", {})
        multipliers = tuple(int(m) for m in sizes.get("ch_mult", (1, 2, 4)))
        resolutions = {int(sizes.get("resolution", 256)) >> level for level in range(len(multipliers))}
        for name, value, wanted in (
            ("norm_type", sizes.get("norm_type", "pixel"), "pixel"),
            ("causality_axis", sizes.get("causality_axis", "height"), "height"),
            # True is the reference's default for a missing key.
            ("mid_block_add_attention", sizes.get("mid_block_add_attention", True), False),
            ("attn_resolutions", sorted(resolutions & set(sizes.get("attn_resolutions", (8, 16, 32)))), []),
        ):
            if value != wanted:
                raise CheckpointError(
                    f"audio_vae.model.params.ddconfig.{name}: only {wanted!r} is supported, got {value!r}; "
                    "no published model differs, check the checkpoint's config."
                )
        config = cls(
            channels=int(sizes.get("ch", 128)),
            multipliers=multipliers,
            blocks=int(sizes.get("num_res_blocks", 2)),
            latent_channels=int(sizes.get("z_channels", 8)),
            mel_bins=int(sizes.get("mel_bins", mel.get("n_mel_channels", 64))),
            in_channels=int(sizes.get("in_channels", 2)),
            out_channels=int(sizes.get("out_ch", 2)),
            double_z=bool(sizes.get("double_z", True)),
        )
        if config.mel_bins % config.downsampling:
            raise CheckpointError(
                f"audio_vae: {config.mel_bins} mel bins cannot be halved {len(multipliers) - 1} times; "
                "check mel_bins and ch_mult in the checkpoint's config."
            )
        return config

    @property
    def downsampling(self) -> int:
        """Spectrogram frames per latent frame, and mel bins per latent bin."""
        return 1 << (len(self.multipliers) - 1)

    @property
    def latent_bins(self) -> int:
        return self.mel_bins // self.downsampling

    @property
    def token_width(self) -> int:
        """Features of a token: channel * latent_bins + bin."""
        return self.latent_channels * self.latent_bins

    def width(self, level: int) -> int:
        return self.channels * self.multipliers[level]


def _conv(name: str, out_channels: int, in_channels: int, kernel: int = 3) -> Iterator[ParamSpec]:
    yield ParamSpec(f"{name}.weight", (out_channels, in_channels, kernel, kernel), layout="conv")
    yield ParamSpec(f"{name}.bias", (out_channels,))


def _block(name: str, out_channels: int, in_channels: int) -> Iterator[ParamSpec]:
    yield from _conv(f"{name}.conv1.conv", out_channels, in_channels)
    yield from _conv(f"{name}.conv2.conv", out_channels, out_channels)
    if in_channels != out_channels:
        yield from _conv(f"{name}.nin_shortcut.conv", out_channels, in_channels, kernel=1)


def _statistics(config: AudioVaeConfig) -> list[ParamSpec]:
    return [
        ParamSpec(f"per_channel_statistics.{name}", (config.token_width,)) for name in ("mean-of-means", "std-of-means")
    ]


def _encoder(config: AudioVaeConfig) -> Iterator[ParamSpec]:
    levels = len(config.multipliers)
    width = config.channels
    yield from _conv("encoder.conv_in.conv", width, config.in_channels)
    for level in range(levels):
        for block in range(config.blocks):
            yield from _block(f"encoder.down.{level}.block.{block}", config.width(level), width)
            width = config.width(level)
        if level < levels - 1:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    for block in (1, 2):
        yield from _block(f"encoder.mid.block_{block}", width, width)
    yield from _conv("encoder.conv_out.conv", config.latent_channels * (2 if config.double_z else 1), width)


def _decoder(config: AudioVaeConfig) -> Iterator[ParamSpec]:
    levels = len(config.multipliers)
    width = config.width(levels - 1)
    yield from _conv("decoder.conv_in.conv", width, config.latent_channels)
    for block in (1, 2):
        yield from _block(f"decoder.mid.block_{block}", width, width)
    for level in reversed(range(levels)):
        for block in range(config.blocks + 1):
            yield from _block(f"decoder.up.{level}.block.{block}", config.width(level), width)
            width = config.width(level)
        if level > 0:
            yield from _conv(f"decoder.up.{level}.upsample.conv.conv", width, width)
    yield from _conv("decoder.conv_out.conv", config.out_channels, width)


def encoder_specs(config: AudioVaeConfig) -> list[ParamSpec]:
    """What `AudioEncoder` needs of the component ``audio_vae``."""
    return [*_encoder(config), *_statistics(config)]


def decoder_specs(config: AudioVaeConfig) -> list[ParamSpec]:
    """What `AudioDecoder` needs of the component ``audio_vae``."""
    return [*_decoder(config), *_statistics(config)]


def param_specs(config: AudioVaeConfig) -> list[ParamSpec]:
    """All tensors of the component ``audio_vae``."""
    return [*_encoder(config), *_decoder(config), *_statistics(config)]


def _causal_conv(x: mx.array, params: Params, *, norm: bool = False, residual: mx.array | None = None) -> mx.array:
    """3x3 convolution, causal in time; with ``norm`` pixel norm and SiLU come first."""
    return conv2d(
        x,
        params["weight"],
        params["bias"],
        padding=(TIME_CAUSAL, MEL_CENTRED),
        pixel_norm_eps=PIXEL_NORM_EPS if norm else None,
        activation="silu" if norm else None,
        residual=residual,
    )


def _residual_block(x: mx.array, params: Params) -> mx.array:
    skip = x
    if "nin_shortcut.conv.weight" in params:
        shortcut = params.at("nin_shortcut.conv")
        skip = conv2d(x, shortcut["weight"], shortcut["bias"])
    hidden = _causal_conv(x, params.at("conv1.conv"), norm=True)
    out = _causal_conv(hidden, params.at("conv2.conv"), norm=True, residual=skip)
    mx.eval(out)  # or the values between of all blocks are there at once
    return out


class AudioEncoder:
    """Log-mel spectrogram to normalised latent tokens.

    Args:
        config: sizes.
        params: the component ``audio_vae``, see `encoder_specs`.
        dtype: of the activations; statistics are float32.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae @ v1.2.0.
    """

    def __init__(self, config: AudioVaeConfig, params: Params, dtype: mx.Dtype) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype

    def __call__(self, log_mel: mx.array) -> mx.array:
        """Args: log_mel (B, T, mel_bins, in_channels). Returns: (B, ceil(T / downsampling), token_width) float32."""
        config, params = self.config, self._params.at("encoder")
        x = _causal_conv(log_mel.astype(self._dtype), params.at("conv_in.conv"))
        for level in range(len(config.multipliers)):
            for block in range(config.blocks):
                x = _residual_block(x, params.at(f"down.{level}.block.{block}"))
            if level < len(config.multipliers) - 1:
                down = params.at(f"down.{level}.downsample.conv")
                x = conv2d(x, down["weight"], down["bias"], stride=(2, 2), padding=(TIME_CAUSAL, (0, 1)))
        for block in (1, 2):
            x = _residual_block(x, params.at(f"mid.block_{block}"))
        x = _causal_conv(x, params.at("conv_out.conv"), norm=True)[..., : config.latent_channels]
        batch, frames = x.shape[:2]
        tokens = x.transpose(0, 1, 3, 2).reshape(batch, frames, config.token_width).astype(mx.float32)
        mean, std = _mean_and_std(self._params)
        return (tokens - mean) / std


class AudioDecoder:
    """Normalised latent tokens to a log-mel spectrogram.

    Args:
        config: sizes.
        params: the component ``audio_vae``, see `decoder_specs`.
        dtype: of the activations; statistics are float32.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae @ v1.2.0.
    """

    def __init__(self, config: AudioVaeConfig, params: Params, dtype: mx.Dtype) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype

    def __call__(self, tokens: mx.array) -> mx.array:
        """Args: tokens (B, L, token_width). Returns: (B, downsampling * (L - 1) + 1, mel_bins, out_channels)."""
        config, params = self.config, self._params.at("decoder")
        batch, frames, _ = tokens.shape
        mean, std = _mean_and_std(self._params)
        latent = (tokens.astype(mx.float32) * std + mean).astype(self._dtype)
        latent = latent.reshape(batch, frames, config.latent_channels, config.latent_bins)
        x = _causal_conv(latent.transpose(0, 1, 3, 2), params.at("conv_in.conv"))
        for block in (1, 2):
            x = _residual_block(x, params.at(f"mid.block_{block}"))
        for level in reversed(range(len(config.multipliers))):
            for block in range(config.blocks + 1):
                x = _residual_block(x, params.at(f"up.{level}.block.{block}"))
            if level > 0:
                up = params.at(f"up.{level}.upsample.conv.conv")
                doubled = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
                # The causal result's first frame is dropped: one zero frame less in front does the same.
                x = conv2d(doubled, up["weight"], up["bias"], padding=((1, 0), MEL_CENTRED))
                del doubled
                mx.eval(x)
        return _causal_conv(x, params.at("conv_out.conv"), norm=True)


def _mean_and_std(params: Params) -> tuple[mx.array, mx.array]:
    statistics = params.at("per_channel_statistics")
    return statistics["mean-of-means"].astype(mx.float32), statistics["std-of-means"].astype(mx.float32)

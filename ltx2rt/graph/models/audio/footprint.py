"""Predicts the bytes and the arithmetic of the audio VAE and the vocoder."""

from __future__ import annotations

from math import prod

from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.footprint import Footprint, largest, largest_convolution

_FLOAT32 = 4


def audio_decode_footprint(config: audio_vae.AudioVaeConfig, tokens: int) -> Footprint:
    """Of `AudioDecoder` in float32."""
    unit = tokens * config.downsampling * config.mel_bins * config.channels * _FLOAT32
    # The first residual block at the finest level: its input has twice the channels.
    return Footprint(5 * unit, largest_convolution(audio_vae.decoder_specs(config)))


def audio_decode_flops(config: audio_vae.AudioVaeConfig, tokens: int) -> float:
    cells, total = float(tokens * config.latent_bins), 0.0
    levels = len(config.multipliers)
    for spec in audio_vae.decoder_specs(config):
        if spec.layout == "conv":
            level = int(spec.name.split(".")[2]) if spec.name.startswith("decoder.up.") else levels - 1
            finer = levels - 1 - level + ("upsample" in spec.name)
            if spec.name.startswith("decoder.conv_out"):
                finer = levels - 1
            total += 2.0 * prod(spec.shape) * cells * 4**finer
    return total


def sound_encode_footprint(config: audio_vae.AudioVaeConfig, frames: int) -> Footprint:
    """Of `AudioEncoder` in float32 for ``frames`` mel frames, and of the spectrogram."""
    unit = frames * config.mel_bins * config.channels * _FLOAT32
    return Footprint(5 * unit, largest_convolution(audio_vae.encoder_specs(config)))


def sound_encode_flops(config: audio_vae.AudioVaeConfig, frames: int) -> float:
    cells, total = float(frames * config.mel_bins), 0.0
    levels = len(config.multipliers)
    for spec in audio_vae.encoder_specs(config):
        if spec.layout == "conv":
            level = int(spec.name.split(".")[2]) if spec.name.startswith("encoder.down.") else levels - 1
            level = 0 if spec.name.startswith("encoder.conv_in") else level + ("downsample" in spec.name)
            total += 2.0 * prod(spec.shape) * cells / 4**level
    return total


def vocoder_footprint(config: vocoder.VocoderConfig, mel_frames: int) -> Footprint:
    """Of `Vocoder` for ``mel_frames`` frames of 10 ms."""
    working = largest_convolution(vocoder.param_specs(config))
    moments = [_generator_footprint(config.core, mel_frames, working)]
    if config.bandwidth is not None and config.extension is not None:
        frames = mel_frames * config.core.upsampling // config.bandwidth.hop
        moments.append(_generator_footprint(config.extension, frames, working))
    # Before that the weights of the transposed convolutions are put in another order.
    return largest(*moments, Footprint(_rearranged_bytes(config.core)))


def _rearranged_bytes(config: vocoder.GeneratorConfig) -> int:
    """Of the largest weight of a transposed convolution, padded to whole strides, and its copy in another order."""
    widths = [config.width >> stage for stage in range(len(config.rates))]
    taps = (-(-kernel // rate) * rate for rate, kernel in zip(config.rates, config.kernels, strict=True))
    return 2 * max(width * (width // 2) * count * 2 for width, count in zip(widths, taps, strict=True))


def _generator_footprint(config: vocoder.GeneratorConfig, frames: int, working: int) -> Footprint:
    longest, length, width = 0, frames, config.width
    for rate in config.rates:
        length, width = length * rate, width // 2
        longest = max(longest, length * width * _FLOAT32)
    # The stage's input and what the three branches hold, which MLX evaluates side by side; measured.
    return Footprint((10 if config.snake else 15) * longest, working)


def vocoder_flops(config: vocoder.VocoderConfig, mel_frames: int) -> float:
    total = _generator_flops(config.core, mel_frames)
    if config.bandwidth is not None and config.extension is not None:
        total += _generator_flops(config.extension, mel_frames * config.core.upsampling // config.bandwidth.hop)
    return total


def _generator_flops(config: vocoder.GeneratorConfig, frames: int) -> float:
    edge = vocoder.EDGE_KERNEL
    width, length = config.width, frames
    total = 2.0 * frames * vocoder.CHANNELS * vocoder.MEL_BINS * edge * width
    for rate, kernel in zip(config.rates, config.kernels, strict=True):
        total += 2.0 * length * kernel * width * width // 2
        width, length = width // 2, length * rate
        for block_kernel, dilations in zip(config.block_kernels, config.dilations, strict=True):
            total += 2.0 * length * width * width * block_kernel * 2 * len(dilations)
    return total + 2.0 * length * width * edge * vocoder.CHANNELS

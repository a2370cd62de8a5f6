"""Predicts the bytes and the arithmetic of the audio VAE and the vocoder."""

from __future__ import annotations

from math import ceil, prod

from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.footprint import Footprint, largest
from ltx2rt.kernels.working_memory import convolution_bytes, snake_bytes
from ltx2rt.types import FLOAT32_BYTES, ParamSpec


def audio_decode_footprint(config: audio_vae.AudioVaeConfig, tokens: int) -> Footprint:
    """Of `AudioDecoder` in float32."""
    unit = tokens * config.downsampling * config.mel_bins * config.channels * FLOAT32_BYTES
    working = max(
        _conv2d_bytes(spec, _decoded_grid(config, tokens, _finer(config, spec)))
        for spec in audio_vae.decoder_specs(config)
        if spec.layout == "conv"
    )
    wider = config.multipliers[min(1, len(config.multipliers) - 1)] / config.multipliers[0]
    # At the finest level: the first residual block, whose input has more channels, and the step to it from the level
    # before (its values, doubled in one direction, in both, and what the convolution makes of them).
    units = max(3 + (wider if wider > 1 else 0), 2.75 * wider)
    return Footprint(ceil(units * unit), working)


def _finer(config: audio_vae.AudioVaeConfig, spec: ParamSpec) -> int:
    """How often the cells of the latent are halved where a convolution of the decoder puts its results."""
    levels = len(config.multipliers)
    if spec.name.startswith("decoder.conv_out"):
        return levels - 1
    level = int(spec.name.split(".")[2]) if spec.name.startswith("decoder.up.") else levels - 1
    return levels - 1 - level + ("upsample" in spec.name)


def _decoded_grid(config: audio_vae.AudioVaeConfig, tokens: int, finer: int) -> tuple[int, int]:
    """(frames, bins); every doubling drops the first frame."""
    return ((tokens - 1) << finer) + 1, config.latent_bins << finer


def _conv2d_bytes(spec: ParamSpec, outputs: tuple[int, int], stride: int = 1) -> int:
    """`convolution_bytes` of one convolution over time and bins in float32."""
    out, channels, *taps = spec.shape
    # All but the first and the resampling ones follow a norm and SiLU, if they see more than one cell.
    plain = "conv_in" in spec.name or "sample" in spec.name or taps == [1, 1]
    return convolution_bytes(
        (1, *outputs),
        (out, 1, taps[0], taps[1], channels),
        stride=(1, stride, stride),
        activation=None if plain else "silu",
    )


def audio_decode_flops(config: audio_vae.AudioVaeConfig, tokens: int) -> float:
    cells, total = float(tokens * config.latent_bins), 0.0
    for spec in audio_vae.decoder_specs(config):
        if spec.layout == "conv":
            total += 2.0 * prod(spec.shape) * cells * 4 ** _finer(config, spec)
    return total


def sound_encode_footprint(config: audio_vae.AudioVaeConfig, frames: int) -> Footprint:
    """Of `AudioEncoder` in float32 for ``frames`` mel frames, and of the spectrogram."""
    unit = frames * config.mel_bins * config.channels * FLOAT32_BYTES
    working = 0
    for spec in audio_vae.encoder_specs(config):
        if spec.layout == "conv":
            level = _coarser(config, spec)
            outputs = -(-frames // (1 << level)), config.mel_bins >> level
            working = max(working, _conv2d_bytes(spec, outputs, 2 if "downsample" in spec.name else 1))
    return Footprint(3 * unit, working)  # input, middle and result of a residual block at the finest level


def _coarser(config: audio_vae.AudioVaeConfig, spec: ParamSpec) -> int:
    """How often the cells of the spectrogram are doubled where a convolution of the encoder puts its results."""
    if spec.name.startswith("encoder.conv_in"):
        return 0
    level = int(spec.name.split(".")[2]) if spec.name.startswith("encoder.down.") else len(config.multipliers) - 1
    return level + ("downsample" in spec.name)


def sound_encode_flops(config: audio_vae.AudioVaeConfig, frames: int) -> float:
    cells, total = float(frames * config.mel_bins), 0.0
    for spec in audio_vae.encoder_specs(config):
        if spec.layout == "conv":
            total += 2.0 * prod(spec.shape) * cells / 4 ** _coarser(config, spec)
    return total


def vocoder_footprint(config: vocoder.VocoderConfig, mel_frames: int) -> Footprint:
    """Of `Vocoder` for ``mel_frames`` frames of 10 ms."""
    moments = [_generator_footprint(config.core, mel_frames)]
    if config.bandwidth is not None and config.extension is not None:
        frames = mel_frames * config.core.upsampling // config.bandwidth.hop
        moments.append(_generator_footprint(config.extension, frames))
    # Before that the weights of the transposed convolutions are put in another order.
    return largest(*moments, Footprint(_rearranged_bytes(config.core)))


def _rearranged_bytes(config: vocoder.GeneratorConfig) -> int:
    """Of the largest weight of a transposed convolution, padded to whole strides, and its copy in another order."""
    widths = [config.width >> stage for stage in range(len(config.rates))]
    taps = (-(-kernel // rate) * rate for rate, kernel in zip(config.rates, config.kernels, strict=True))
    return 2 * max(width * (width // 2) * count * 2 for width, count in zip(widths, taps, strict=True))


def _generator_working_bytes(config: vocoder.GeneratorConfig, frames: int) -> int:
    """Of the kernel of a generator that takes most."""
    width, length = config.width, frames
    sizes = [_conv1d_bytes(length, vocoder.CHANNELS * vocoder.MEL_BINS, width, vocoder.EDGE_KERNEL)]
    for rate, kernel in zip(config.rates, config.kernels, strict=True):
        taps = -(-kernel // rate)  # of the phases that a transposed convolution is computed as
        sizes.append(_conv1d_bytes(length + taps - 1, width, rate * (width // 2), taps))
        length, width = length * rate, width // 2
        for block_kernel, dilations in zip(config.block_kernels, config.dilations, strict=True):
            sizes += [_conv1d_bytes(length, width, width, block_kernel, dilation) for dilation in {1, *dilations}]
        if config.snake:
            sizes.append(snake_bytes(length, width))
    return max(*sizes, _conv1d_bytes(length, width, vocoder.CHANNELS, vocoder.EDGE_KERNEL))


def _conv1d_bytes(samples: int, channels: int, out_channels: int, taps: int, dilation: int = 1) -> int:
    """`convolution_bytes` of one convolution over time in float32."""
    return convolution_bytes((1, 1, samples), (out_channels, 1, 1, taps, channels), dilation=(1, 1, dilation))


def _generator_footprint(config: vocoder.GeneratorConfig, frames: int) -> Footprint:
    longest, length, width = 0, frames, config.width
    for rate in config.rates:
        length, width = length * rate, width // 2
        longest = max(longest, length * width * FLOAT32_BYTES)
    # Input and sum of the stage, what goes into a pair of convolutions, its results and (snake) their activations.
    return Footprint((7 if config.snake else 5) * longest, _generator_working_bytes(config, frames))


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

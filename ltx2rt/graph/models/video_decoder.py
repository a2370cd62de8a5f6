"""The video VAE's convolutional decoder: normalised latents to frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.adaln import sinusoid
from ltx2rt.graph.models.latent_statistics import LatentStatistics
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.pixel_range import to_unit_range
from ltx2rt.graph.models.tiling import Tiling, decode_plan, decode_tiled, to_host
from ltx2rt.graph.models.video_layers import (
    Conditions,
    Convolution,
    Layer,
    NoiseDraw,
    block_layers,
    scale_shift,
    time_embedder_specs,
    unpatchify_pixels,
)
from ltx2rt.graph.models.video_vae_config import DecoderConfig, VideoVaeConfig
from ltx2rt.types import ParamSpec

DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025


class OutputConvolution:
    """conv_out behind PixelNorm, the last timestep modulation where there is one, and SiLU."""

    path = "conv_out"

    def __init__(self, config: DecoderConfig) -> None:
        self._width = config.blocks[-1].out_channels if config.blocks else config.bottleneck_channels
        self._conditioned = config.timestep_conditioning
        out = config.pixel_channels * config.patch_size**2
        self._convolution = Convolution(self.path, self._width, out, config.causal, config.padding_mode, activated=True)

    def specs(self) -> list[ParamSpec]:
        specs = self._convolution.specs()
        if self._conditioned:
            specs += [
                ParamSpec("timestep_scale_multiplier", ()),
                ParamSpec("last_scale_shift_table", (2, self._width), dtype="F32"),
                *time_embedder_specs("last_time_embedder", 2 * self._width),
            ]
        return specs

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        shift = scale = None
        if conditions.timestep is not None:
            shift, scale = scale_shift(params, "last_scale_shift_table", "last_time_embedder", conditions.timestep)
        return self._convolution.modulated(x, params, scale=scale, shift=shift)


def decoder_layers(config: DecoderConfig) -> list[Layer]:
    """conv_in, the up blocks, conv_out."""
    layers: list[Layer] = [
        Convolution("conv_in", config.latent_channels, config.bottleneck_channels, config.causal, config.padding_mode)
    ]
    for block in config.blocks:
        layers += block_layers(
            block,
            causal=config.causal,
            padding_mode=config.padding_mode,
            timestep_conditioning=config.timestep_conditioning,
            upsample=True,
        )
    layers.append(OutputConvolution(config))
    return layers


class VideoDecoder:
    """Decodes normalised latents to frames.

    Args:
        config: of the whole VAE; its decoder must be convolutional.
        params: view of the component ``video_vae`` (``decoder.*`` and ``per_channel_statistics.*``).
        dtype: of the activations and the result.

    Source: ConvVideoDecoder of Lightricks/LTX-2 ltx_core/model/video_vae/conv_video_decoder.py @ v1.2.0.
    """

    def __init__(self, config: VideoVaeConfig, params: Params, dtype: mx.Dtype = mx.bfloat16) -> None:
        self.config = config
        self.statistics = LatentStatistics(params)
        self._decoder = config.require_decoder()
        self.layers = decoder_layers(self._decoder)
        self._params = params.at("decoder")
        self._dtype = dtype

    def __call__(self, latent: mx.array, noise: NoiseDraw | None = None, timestep: float | None = None) -> mx.array:
        """Decode a clip in one piece.

        Args:
            latent: (B, f, h, w, latent_channels) normalised; where the padding mirrors, h and w must be at least 2.
            noise: source of the random numbers of a timestep-conditioned or noise-injecting decoder; drawn in the
                order of the official code, the first draw in its layout (B, C, f, h, w). Not called by others.
            timestep: of a timestep-conditioned decoder; None is 0.05.

        Returns:
            (B, F, H, W, 3), about [-1, 1], not clamped; F = (f - 1) * temporal_factor + 1.

        Raises:
            UsageError: for a shape that does not fit, or a decoder that needs noise and gets none.
        """
        return deque(self.activations(latent, noise, timestep), maxlen=1).pop()[1]

    def activations(
        self, latent: mx.array, noise: NoiseDraw | None = None, timestep: float | None = None
    ) -> Iterator[tuple[str, mx.array]]:
        """The un-normalised latent, the output of every layer by layer path, and last the frames as ``frames``."""
        self._check(latent, noise)
        x = latent.astype(self._dtype)
        conditions = Conditions(noise=noise)
        if self._decoder.timestep_conditioning and noise is not None:
            batch, frames, height, width, channels = x.shape
            drawn = mx.array(noise((batch, channels, frames, height, width))).transpose(0, 2, 3, 4, 1)
            blended = DECODE_NOISE_SCALE * drawn + (1 - DECODE_NOISE_SCALE) * x.astype(mx.float32)
            x = blended.astype(self._dtype)
            conditions = Conditions(self._timestep(timestep), noise)
        x = self.statistics.un_normalise(x)
        yield "unnormalized", x
        for layer in self.layers:
            x = layer(x, self._params, conditions)
            yield layer.path, x
        yield "frames", unpatchify_pixels(x, self._decoder.patch_size)

    def decode_frames(
        self,
        latent: mx.array,
        tiling: Tiling | None = None,
        *,
        noise: NoiseDraw | None = None,
        timestep: float | None = None,
    ) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
        """Decode one clip to chunks of frames, in order.

        Args:
            latent: (1, f, h, w, latent_channels) normalised.
            tiling: None decodes in one piece and yields one chunk.
            noise, timestep: see `__call__`; every tile draws its own noise, in tile order.

        Yields:
            (frames, H, W, 3) float32 in [0, 1]; their frames add up to the clip. The consumer owns each chunk.
        """
        if latent.ndim != 5 or latent.shape[0] != 1:
            raise UsageError(f"latent must be (1, f, h, w, {self.config.latent_channels}), got {latent.shape}.")
        if tiling is None:
            yield to_unit_range(to_host(self(latent, noise, timestep))[0])
            return
        plan = decode_plan(
            (latent.shape[1], latent.shape[2], latent.shape[3]),
            tiling,
            temporal_factor=self.config.temporal_factor,
            spatial_factor=self.config.spatial_factor,
        )
        for chunk in decode_tiled(lambda tile: self(tile, noise, timestep), latent, plan, self._decoder.pixel_channels):
            yield to_unit_range(chunk)

    def _timestep(self, timestep: float | None) -> mx.array:
        value = DECODE_TIMESTEP if timestep is None else timestep
        multiplier = to_host(self._params["timestep_scale_multiplier"])
        return mx.array(sinusoid(np.array([value], np.float32) * multiplier)).astype(self._dtype)

    def _check(self, latent: mx.array, noise: NoiseDraw | None) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 5 or latent.shape[4] != channels or min(latent.shape) < 1:
            raise UsageError(f"latent must be (B, f, h, w, {channels}), got {latent.shape}.")
        if self._decoder.padding_mode == "reflect" and min(latent.shape[2:4]) < 2:
            raise UsageError(
                f"this decoder mirrors at the borders and needs at least 2x2 latent cells, got "
                f"{latent.shape[2]}x{latent.shape[3]}; use frames of at least {2 * self.config.spatial_factor} pixels."
            )
        if noise is None and self._decoder.needs_noise:
            raise UsageError("this decoder is conditioned on noise but got noise=None; give a noise source.")

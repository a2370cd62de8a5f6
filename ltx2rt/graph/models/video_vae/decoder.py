"""The video VAE's convolutional decoder: normalised latents to frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.adaln import sinusoid
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import DecoderConfig, VideoVaeConfig
from ltx2rt.graph.models.video_vae.layer import Layer
from ltx2rt.graph.models.video_vae.layers import (
    Convolution,
    OutputConvolution,
    block_layers,
    unpatchify_pixels,
)
from ltx2rt.graph.models.video_vae.pixel_range import to_unit_range
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics
from ltx2rt.graph.models.video_vae.streaming import FRAMES_PER_PUSH, ClipStream, FrameStream, stream_layers
from ltx2rt.graph.models.video_vae.surroundings import Conditions, NoiseDraw
from ltx2rt.graph.models.video_vae.tiling import Tiling, blend_streams, decode_plan, decode_tiled, to_host
from ltx2rt.kernels.host import from_numbers

DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025


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
    layers.append(
        OutputConvolution(
            "conv_out",
            config.blocks[-1].out_channels if config.blocks else config.bottleneck_channels,
            config.pixel_channels * config.patch_size**2,
            config.causal,
            config.padding_mode,
            config.timestep_conditioning,
        )
    )
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
        x, conditions = self._begin(latent, noise, timestep)
        yield "unnormalized", x
        for layer in self.layers:
            x = layer(x, self._params, conditions)
            mx.eval(x)  # so that a layer's input goes before the next one begins
            yield layer.path, x
        yield "frames", unpatchify_pixels(x, self._decoder.patch_size)

    def _begin(self, latent: mx.array, noise: NoiseDraw | None, timestep: float | None) -> tuple[mx.array, Conditions]:
        """The un-normalised latent, noised if the decoder wants that, and what the layers need besides."""
        self._check(latent, noise)
        x = latent.astype(self._dtype)
        conditions = Conditions(noise=noise)
        if self._decoder.timestep_conditioning and noise is not None:
            batch, frames, height, width, channels = x.shape
            drawn = mx.array(noise((batch, channels, frames, height, width))).transpose(0, 2, 3, 4, 1)
            blended = DECODE_NOISE_SCALE * drawn + (1 - DECODE_NOISE_SCALE) * x.astype(mx.float32)
            x = blended.astype(self._dtype)
            conditions = Conditions(self._timestep(timestep), noise)
        return self.statistics.un_normalise(x), conditions

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

    def stream_frames(
        self,
        latent: mx.array,
        tiling: Tiling | None = None,
        *,
        frames_per_push: int = FRAMES_PER_PUSH,
        noise: NoiseDraw | None = None,
        timestep: float | None = None,
    ) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
        """`decode_frames` with the same bits in memory that does not grow with the clip.

        The bits are those of `decode_frames` with the same ``tiling``, for the compiled kernels, whose results for a
        frame do not depend on how many others are computed with it.

        Args:
            latent: (1, f, h, w, latent_channels) normalised.
            tiling: None runs whole frames; tiles of height and width run side by side and are blended. Cutting time
                is for `decode_frames`.
            frames_per_push: frames that a layer works on at a time; 1 takes the least memory. Where time is doubled,
                and at the end of the clip, it is at least 2.
            noise, timestep: see `__call__`; every tile draws its own noise, in tile order.

        Yields:
            (frames, H, W, 3) float32 in [0, 1], a few frames at a time, in order. The consumer owns each chunk.

        Raises:
            UsageError: for a shape that does not fit, tiles in time, or a decoder that cannot run piece by piece.
        """
        if latent.ndim != 5 or latent.shape[0] != 1:
            raise UsageError(f"latent must be (1, f, h, w, {self.config.latent_channels}), got {latent.shape}.")
        if frames_per_push < 1:
            raise UsageError(f"frames_per_push must be at least 1, got {frames_per_push}.")

        def stream(part: mx.array) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
            x, conditions = self._begin(part, noise, timestep)
            mx.eval(x)
            size = x.shape[2], x.shape[3]
            frames = stream_layers(ClipStream(x, frames_per_push), self.layers, self._params, conditions, size)
            return _pixels(frames, self._decoder.patch_size)

        if tiling is None:
            yield from map(to_unit_range, stream(latent))
            return
        if tiling.frames is not None:
            raise UsageError(f"a streamed decode is not cut in time, got {tiling.frames}; leave tiling.frames out.")
        plan = decode_plan(
            (latent.shape[1], latent.shape[2], latent.shape[3]),
            tiling,
            temporal_factor=self.config.temporal_factor,
            spatial_factor=self.config.spatial_factor,
        )
        yield from map(to_unit_range, blend_streams(stream, latent, plan, self._decoder.pixel_channels))

    def _timestep(self, timestep: float | None) -> mx.array:
        value = DECODE_TIMESTEP if timestep is None else timestep
        multiplier = to_host(self._params["timestep_scale_multiplier"])
        return mx.array(sinusoid(from_numbers([value], np.float32) * multiplier)).astype(self._dtype)

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


def _pixels(stream: FrameStream, patch_size: int) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
    """The pieces of conv_out's stream as (frames, H, W, 3) float32 in the decoder's range."""
    last = False
    while not last:
        x, last = stream.read()
        pixels = to_host(unpatchify_pixels(x, patch_size))[0]
        del x
        yield pixels
        del pixels

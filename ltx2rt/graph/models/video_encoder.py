"""The video VAE's encoder: frames to normalised latents."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.latent_statistics import LatentStatistics
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.tiling import Tiling, encode_plan, encode_tiled
from ltx2rt.graph.models.video_layers import Conditions, Convolution, Layer, block_layers, patchify_pixels
from ltx2rt.graph.models.video_vae_config import EncoderConfig, VideoVaeConfig

logger = logging.getLogger(__name__)

Frames = mx.array | np.ndarray[Any, np.dtype[Any]]


def encoder_layers(config: EncoderConfig) -> list[Layer]:
    """conv_in, the down blocks, conv_out; every convolution is causal."""
    mode = config.padding_mode
    layers: list[Layer] = [
        Convolution("conv_in", config.pixel_channels * config.patch_size**2, config.base_channels, True, mode)
    ]
    for block in config.blocks:
        layers += block_layers(block, causal=True, padding_mode=mode)
    layers.append(Convolution("conv_out", config.out_channels, config.moment_channels, True, mode, activated=True))
    return layers


class VideoEncoder:
    """Encodes frames to the means of the latent distribution, normalised per channel; nothing is sampled.

    Args:
        config: of the whole VAE.
        params: view of the component ``video_vae`` (``encoder.*`` and ``per_channel_statistics.*``).
        dtype: of the activations and the result.

    Source: VideoEncoder of Lightricks/LTX-2 ltx_core/model/video_vae/video_vae.py @ v1.2.0.
    """

    def __init__(self, config: VideoVaeConfig, params: Params, dtype: mx.Dtype = mx.bfloat16) -> None:
        self.config = config
        self.statistics = LatentStatistics(params)
        self._encoder = config.require_encoder()
        self.layers = encoder_layers(self._encoder)
        self._params = params.at("encoder")
        self._dtype = dtype

    def __call__(self, frames: Frames) -> mx.array:
        """Encode a clip in one piece.

        Args:
            frames: (B, F, H, W, 3) in [-1, 1]; F is cut to 1 + k * temporal_factor with a warning; H and W must be
                multiples of the spatial factor (and leave two cells per axis where the padding mirrors).

        Returns:
            (B, f, h, w, latent_channels) normalised latent.

        Raises:
            UsageError: for a shape that does not fit.
        """
        return deque(self.activations(frames), maxlen=1).pop()[1]

    def activations(self, frames: Frames) -> Iterator[tuple[str, mx.array]]:
        """The output of every layer in turn, by layer path, and last the latent as ``latent``."""
        x = patchify_pixels(mx.array(self._cropped(frames)).astype(self._dtype), self._encoder.patch_size)
        for layer in self.layers:
            x = layer(x, self._params, Conditions())
            yield layer.path, x
        yield "latent", self.statistics.normalise(x[..., : self.config.latent_channels])

    def encode_frames(self, frames: Frames, tiling: Tiling | None = None) -> mx.array:
        """Encode in tiles that are blended on the latent grid; None encodes in one piece. See `__call__`."""
        if tiling is None:
            return self(frames)
        frames = self._cropped(frames)
        plan = encode_plan(
            (frames.shape[1], frames.shape[2], frames.shape[3]),
            tiling,
            temporal_factor=self.config.temporal_factor,
            spatial_factor=self.config.spatial_factor,
        )
        return encode_tiled(self, frames, plan, self.config.latent_channels).astype(self._dtype)

    def _cropped(self, frames: Frames) -> Frames:
        shape = tuple(frames.shape)
        channels, factor = self._encoder.pixel_channels, self.config.spatial_factor
        if len(shape) != 5 or shape[1] < 1 or shape[4] != channels:
            raise UsageError(f"frames must be (B, F, H, W, {channels}) with F >= 1, got {shape}.")
        smallest = 2 * factor if self._encoder.padding_mode == "reflect" else factor
        if shape[2] % factor or shape[3] % factor or min(shape[2:4]) < smallest:
            raise UsageError(
                f"frame height and width must be multiples of {factor}, at least {smallest}, "
                f"got {shape[2]}x{shape[3]}; resize or crop the frames first."
            )
        surplus = (shape[1] - 1) % self.config.temporal_factor
        if surplus == 0:
            return frames
        logger.warning(
            "%d frames cannot be encoded: the last %d are dropped, leaving %d (1 + %d*k).",
            shape[1],
            surplus,
            shape[1] - surplus,
            self.config.temporal_factor,
        )
        return frames[:, : shape[1] - surplus]

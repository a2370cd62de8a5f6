"""The video VAE's encoder: frames to normalised latents."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import EncoderConfig, VideoVaeConfig
from ltx2rt.graph.models.video_vae.layer import Layer
from ltx2rt.graph.models.video_vae.layers import Convolution, block_layers, patchify_pixels
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics
from ltx2rt.graph.models.video_vae.streaming import FRAMES_PER_PUSH, IteratedStream, stream_layers
from ltx2rt.graph.models.video_vae.surroundings import Conditions
from ltx2rt.graph.models.video_vae.tiling import Tiling, encode_plan, encode_tiled, encode_tiled_stream

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
        x = self._patchified(self._cropped(frames))
        for layer in self.layers:
            x = layer(x, self._params, Conditions())
            mx.eval(x)  # so that a layer's input goes before the next one begins
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

    def encode_stream(self, chunks: Iterable[Frames], *, frames_per_push: int = FRAMES_PER_PUSH) -> Iterator[mx.array]:
        """`__call__` for a clip that arrives in pieces, with the same bits and memory that does not grow with the clip.

        Args:
            chunks: (f, H, W, 3) in [-1, 1], any number of frames each; together cut to 1 + k * temporal_factor frames
                with a warning.
            frames_per_push: frames that a layer works on at a time; 1 takes the least memory.

        Yields:
            (1, f, h, w, latent_channels) normalised, a few latent frames at a time, in order.

        Raises:
            UsageError: for shapes that do not fit, no frames at all, or an encoder that cannot run piece by piece.
        """
        if frames_per_push < 1:
            raise UsageError(f"frames_per_push must be at least 1, got {frames_per_push}.")
        pieces = (piece for group in self._groups(chunks) for piece in _split(group, frames_per_push))
        source = IteratedStream(pieces, frames_per_push)
        stream = stream_layers(source, self.layers, self._params, Conditions(), source.size)
        last = False
        while not last:
            x, last = stream.read()
            latent = self.statistics.normalise(x[..., : self.config.latent_channels])
            mx.eval(latent)
            del x
            yield latent

    def encode_tiles(
        self, frames: Iterable[Frames], shape: tuple[int, int, int], tiling: Tiling, *, frames_per_push: int
    ) -> mx.array:
        """`encode_frames` in tiles for a clip that is read once, with the same bits; what is held are the frames of one
        group of tiles in the dtype of the activations, and what `encode_stream` takes for the largest tile.

        Args:
            frames: (H, W, 3) in [-1, 1] each.
            shape: (F, H, W) of the clip; F is 1 + k * temporal_factor.
            tiling: the tiles.
            frames_per_push: as for `encode_stream`.

        Returns:
            (1, f, h, w, latent_channels) normalised latent.

        Raises:
            UsageError: as `encode_stream`, or for tiles that do not fit.
        """
        factors = {"temporal_factor": self.config.temporal_factor, "spatial_factor": self.config.spatial_factor}
        plan = encode_plan(shape, tiling, **factors)

        def held() -> Iterator[mx.array]:
            for frame in frames:
                own = mx.array(frame).astype(self._dtype)
                mx.eval(own)
                yield own

        def encode(tile: Iterator[mx.array]) -> mx.array:
            chunks = (frame[None] for frame in tile)
            return mx.concatenate(list(self.encode_stream(chunks, frames_per_push=frames_per_push)), axis=1)

        return encode_tiled_stream(encode, held(), plan, self.config.latent_channels).astype(self._dtype)

    def _groups(self, chunks: Iterable[Frames]) -> Iterator[mx.array]:
        """The first frame, then every ``temporal_factor`` frames, patchified; an incomplete group is left out."""
        size, wanted = self.config.temporal_factor, 1
        shape: tuple[int, ...] | None = None
        waiting: list[mx.array] = []
        total = 0
        for chunk in chunks:
            self._check((1, *chunk.shape))
            if shape is not None and chunk.shape[1:] != shape:
                raise UsageError(f"all frames must have one size, got {shape[:2]} and {chunk.shape[1:3]}.")
            shape = tuple(chunk.shape[1:])
            for index in range(chunk.shape[0]):
                waiting.append(self._patchified(chunk[None, index : index + 1]))
                total += 1
                if len(waiting) == wanted:
                    group = mx.concatenate(waiting, axis=1)
                    mx.eval(group)
                    waiting, wanted = [], size
                    yield group
        if waiting:
            self._warn_dropped(total, len(waiting))

    def _patchified(self, frames: Frames) -> mx.array:
        x = mx.array(frames).astype(self._dtype)
        mx.eval(x)  # one copy of the frames goes before the next is made
        x = patchify_pixels(x, self._encoder.patch_size)
        mx.eval(x)
        return x

    def _cropped(self, frames: Frames) -> Frames:
        self._check(tuple(frames.shape))
        surplus = (frames.shape[1] - 1) % self.config.temporal_factor
        if surplus == 0:
            return frames
        self._warn_dropped(frames.shape[1], surplus)
        return frames[:, : frames.shape[1] - surplus]

    def _check(self, shape: tuple[int, ...]) -> None:
        channels, factor = self._encoder.pixel_channels, self.config.spatial_factor
        if len(shape) != 5 or shape[1] < 1 or shape[4] != channels:
            raise UsageError(f"frames must be (B, F, H, W, {channels}) with F >= 1, got {shape}.")
        smallest = 2 * factor if self._encoder.padding_mode == "reflect" else factor
        if shape[2] % factor or shape[3] % factor or min(shape[2:4]) < smallest:
            raise UsageError(
                f"frame height and width must be multiples of {factor}, at least {smallest}, "
                f"got {shape[2]}x{shape[3]}; resize or crop the frames first."
            )

    def _warn_dropped(self, total: int, surplus: int) -> None:
        logger.warning(
            "%d frames cannot be encoded: the last %d are dropped, leaving %d (1 + %d*k).",
            total,
            surplus,
            total - surplus,
            self.config.temporal_factor,
        )


def _split(group: mx.array, size: int) -> Iterator[mx.array]:
    """Pieces of at most ``size`` frames."""
    for start in range(0, group.shape[1], size):
        yield group[:, start : start + size]

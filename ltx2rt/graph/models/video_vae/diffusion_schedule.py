"""How a decode of the diffusion decoder is laid out: the grown latent, and the frames that each stage works on."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.video_vae.diffusion_blocks import upsamplers
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size
from ltx2rt.graph.models.video_vae.diffusion_streams import frames_ahead, frames_before


class Canvas(NamedTuple):
    """A latent grown to the size that the windows need.

    Attributes:
        size: (f, h, w) of the grown latent.
        above, left: rows and columns that were added in front.
    """

    size: Size
    above: int
    left: int

    @classmethod
    def of(cls, config: DiffusionDecoderConfig, latent: Size) -> Canvas:
        """Of a latent (f, h, w); frames are added behind, rows and columns on both sides."""
        size = tuple(max(pair) for pair in zip(latent, config.smallest_latent, strict=True))
        return cls((size[0], size[1], size[2]), (size[1] - latent[1]) // 2, (size[2] - latent[2]) // 2)

    def frames(self, config: DiffusionDecoderConfig) -> int:
        """Of the last stage."""
        return max(config.factors[0] * (self.size[0] - 1) + 1, config.windows[-1][0])

    def grown(self, latent: mx.array, ghosts: int) -> mx.array:
        """(1, f, h, w, C) with its border cells repeated, and ghost frames behind it."""
        return self.grown_sides(repeated(latent, 1, 0, self.size[0] + ghosts))

    def grown_sides(self, latent: mx.array) -> mx.array:
        """(1, n, h, w, C) with its border cells repeated in height and width."""
        return repeated(repeated(latent, 2, self.above, self.size[1]), 3, self.left, self.size[2])


def repeated(x: mx.array, axis: int, before: int, length: int) -> mx.array:
    """x grown along an axis by copies of its borders, ``before`` of them in front."""
    index = np.clip(np.arange(length) - before, 0, x.shape[axis] - 1)
    return x if length == x.shape[axis] else mx.take(x, mx.array(index.astype(np.int32)), axis=axis)


def stage_frames(config: DiffusionDecoderConfig, latent_frames: int) -> list[int]:
    """Frames of every stage, ghosts included in those of the latent; the last stage's are those of the context."""
    return [config.strides_before(stage)[0] * (latent_frames - 1) + 1 for stage in range(len(config.channels))]


def stage_limit(config: DiffusionDecoderConfig, stage: int, push: int) -> int:
    """Frames that a stage works on at a time; those of the first stages take half as much as ``push`` of the last."""
    last = len(config.channels) - 1
    if stage == last:
        return push
    _, *fine = config.strides_before(last)
    _, *coarse = config.strides_before(stage)
    values = fine[0] * fine[1] * config.channels[last]
    return max(1, push * values // (2 * coarse[0] * coarse[1] * config.channels[stage]))


def needed_frames(config: DiffusionDecoderConfig, canvas: Canvas, frames: int) -> list[int]:
    """Frames that the last block of every stage must give for the first ``frames`` of the clip.

    Frames behind them, of ghosts and of what the clip was grown by, are computed as far as windows reach.
    """
    last = len(config.channels) - 1
    counts = stage_frames(config, canvas.size[0] + config.ghosts)
    counts[last] = canvas.frames(config)
    needs = [frames]
    reached = frames_ahead(config.depths[last] * config.steps, config.windows[last][0], frames, counts[last])
    for stage in reversed(range(last)):
        needs.insert(0, frames_before(upsamplers(config)[stage], reached))
        reached = frames_ahead(config.depths[stage], config.windows[stage][0], needs[0], counts[stage])
    return needs

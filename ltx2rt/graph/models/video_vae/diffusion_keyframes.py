"""Key frames that the diffusion video decoder looks at besides the clip.

Each is a latent of one frame. They go through all stages with the clip: its queries see the nearest two of them, and
those of a key frame see itself and the nearest two frames of the clip. So a block needs the whole clip before the next
one begins: blocks run one after the other, and memory is bounded by tiles.

Source: Lightricks/LTX-2 ltx_core/model/video_vae @ v1.3.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.diffusion_blocks import Attended, AttentionBlock, Modulation, Upsampler
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx2rt.graph.models.video_vae.diffusion_streams import (
    BlockFrames,
    PlaneKeys,
    Queue,
    QueueFrames,
    UpsampledFrames,
    nearest,
)
from ltx2rt.graph.models.video_vae.tiling import Interval
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array


@dataclass(frozen=True)
class KeyFrames:
    """Key frames of a clip.

    Attributes:
        latents: (1, P, h, w, C) normalised.
        positions: pixel frame of each, counted as ``clip_start`` is; they may lie outside the clip.
        clip_start: pixel frame with which the clip begins.
    """

    latents: mx.array
    positions: tuple[int, ...]
    clip_start: int = 0

    def __post_init__(self) -> None:
        if not self.positions or self.latents.ndim != 5 or self.latents.shape[1] != len(self.positions):
            raise UsageError(
                f"key frames must be a latent (1, P, h, w, C) and P positions, P > 0, got {self.latents.shape} and "
                f"{len(self.positions)} positions."
            )

    def times(self, config: DiffusionDecoderConfig, stage: int, begin: int = 0) -> Array:
        """(P,) float64: their places among the frames of a stage, of which the clip or the tile begins at ``begin``."""
        stride = config.factors[0] // config.strides_before(stage)[0]

        def time(frame: int) -> float:
            return 0.0 if frame == 0 else (frame + (stride - 1) / 2) / stride

        start = time(self.clip_start)
        return from_numbers([time(position) - start - begin for position in self.positions], np.float64)

    def near(self, frames: Interval) -> list[int]:
        """Which of them a tile of pixel frames [start, stop) looks at: those inside and the nearest on either side."""
        first, last = (self.clip_start + frame for frame in (frames[0], frames[1] - 1))
        inside = {index for index, position in enumerate(self.positions) if first <= position <= last}
        before = [(position, -index) for index, position in enumerate(self.positions) if position < first]
        after = [(position, index) for index, position in enumerate(self.positions) if position > last]
        if before:
            inside.add(-max(before)[1])
        if after:
            inside.add(min(after)[1])
        return sorted(inside)


class Context(NamedTuple):
    """What the last stage is told, of the clip and of the key frames.

    Attributes:
        coarse: the clip's frames before the last upsampling.
        upsampler: that.
        begins: the first of these frames begins the clip.
        planes: (1, P, H, W, C), upsampled.
    """

    coarse: Queue
    upsampler: Upsampler
    begins: bool
    planes: mx.array

    def reader(self, params: Params) -> Callable[[int], mx.array]:
        """Gives the next n frames of the clip's context, from its beginning on."""
        return UpsampledFrames(QueueFrames(self.coarse), self.upsampler, params, begins=self.begins).read

    def frame(self, index: int, params: Params) -> mx.array:
        """One frame of it."""
        growth = self.upsampler.step.stride[0]
        place, phase = divmod(index + (growth - 1 if self.begins else 0), growth)
        return self.upsampler(self.coarse.look(place, 1), params)[:, phase : phase + 1]


class Joint(NamedTuple):
    """The clip and its key frames between two blocks; ``planes``: (1, P, H, W, C)."""

    clip: Queue
    planes: mx.array


def joint_block(
    streams: Joint,
    block: AttentionBlock,
    times: Array,
    params: Params,
    modulation: Modulation,
    limit: int,
    context: Context | None = None,
) -> Joint:
    """Both streams after a block; the clip's queue is empty afterwards.

    Args:
        streams: before it.
        block: the block.
        times: (P,) of the key frames.
        params: of the decoder.
        modulation: of the block.
        limit: frames that are worked on at a time.
        context: in the last stage.
    """
    clip, planes = streams
    if context is not None:
        planes = block.with_context(planes, context.planes, params)
    keys = block.keys_values(planes, params, modulation)
    mx.eval(planes, keys)
    count = clip.count
    looks = partial(_plane_after, clip=clip, block=block, params=params, modulation=modulation, context=context)
    after = mx.concatenate(
        [looks(planes[:, [place]], keys[:, [place]], times[[place]]) for place in range(len(times))], axis=1
    )
    mx.eval(after)
    del planes
    told = None if context is None else context.reader(params)
    source = BlockFrames(QueueFrames(clip, takes=True), block, params, modulation, limit, told, PlaneKeys(keys, times))
    result = Queue()
    while result.count < count:
        result.put(source.read(min(limit, count - result.count)))
    return Joint(result, after)


def _plane_after(
    plane: mx.array,
    own_keys: mx.array,
    time: Array,
    *,
    clip: Queue,
    block: AttentionBlock,
    params: Params,
    modulation: Modulation,
    context: Context | None,
) -> mx.array:
    """A key frame (1, 1, H, W, C) after a block: it sees itself and the nearest frames of the clip."""
    (near,) = nearest(time, np.arange(clip.count))
    keys = [own_keys]
    for frame in map(int, near):
        x = clip.look(frame, 1)
        if context is not None:
            x = block.with_context(x, context.frame(frame, params), params)
        keys.append(block.keys_values(x, params, modulation))
        mx.eval(keys[-1])
    listed = mx.array(np.arange(len(keys), dtype=np.int32)[None])
    times = np.concatenate([time, near.astype(np.float64)])
    attended = Attended(mx.concatenate(keys, axis=1), times, listed, masked=True)
    after = block.attend(plane, time, attended, params, modulation)
    mx.eval(after)
    del attended, keys
    after = block.mlp(after, params, modulation)
    mx.eval(after)
    return after


def upsampled_planes(planes: mx.array, upsampler: Upsampler, params: Params) -> mx.array:
    """Key frames (1, P, H, W, C) on the finer grid, each of them one frame, the last of those that are made of it."""
    growth = upsampler.step.stride[0]
    finer = upsampler(planes, params)[:, growth - 1 :: growth]
    mx.eval(finer)
    return finer


def joint_upsampled(streams: Joint, upsampler: Upsampler, params: Params, limit: int) -> Joint:
    """Both streams on the finer grid; the clip's queue is empty afterwards."""
    source = UpsampledFrames(QueueFrames(streams.clip, takes=True), upsampler, params)
    result = Queue()
    while result.count < source.count:
        result.put(source.read(min(limit, source.count - result.count)))
    return Joint(result, upsampled_planes(streams.planes, upsampler, params))

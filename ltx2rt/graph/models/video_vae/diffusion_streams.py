"""Runs the diffusion video decoder over a clip some frames at a time, with the bits of the run over the whole clip.

Every block reads frames from the one before it, no more of them than the windows of the frames that it is asked for.
It keeps the keys and values of as many frames as a window has, and frames whose windows are not complete: memory does
not grow with the clip, and nothing is computed twice. Or it keeps the frames alone and computes their keys again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.video_vae.diffusion_blocks import Attended, AttentionBlock, Modulation, Upsampler
from ltx2rt.graph.models.video_vae.surroundings import FrameDraw
from ltx2rt.kernels import first_frames, modulated_norm
from ltx2rt.types import Array


class Frames(Protocol):
    """A clip that is read from its beginning.

    Attributes:
        count: frames of the clip.
    """

    @property
    def count(self) -> int: ...

    def read(self, count: int) -> mx.array:
        """The next ``count`` frames (1, count, H, W, C), evaluated; there must be as many."""


class Queue:
    """Frames that arrive in pieces and leave in others."""

    def __init__(self) -> None:
        self._pieces: deque[mx.array] = deque()
        self.count = 0

    def put(self, frames: mx.array) -> None:
        self._pieces.append(frames)
        self.count += frames.shape[1]

    def look(self, start: int, count: int) -> mx.array:
        """``count`` frames from ``start`` on; a piece is not copied."""
        parts = []
        for piece in self._pieces:
            length = piece.shape[1]
            if start < length and count > 0:
                part = piece if start == 0 and count >= length else piece[:, start : start + count]
                parts.append(part)
                count -= part.shape[1]
            start = max(0, start - length)
            if count == 0:
                break
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def drop(self, count: int) -> None:
        """Forget the first ``count`` frames. What is left of a piece keeps all of it until it has gone, too."""
        self.count -= count
        while count:
            first = self._pieces.popleft()
            if first.shape[1] > count:
                self._pieces.appendleft(first[:, count:])
                return
            count -= first.shape[1]

    def take(self, count: int) -> mx.array:
        """The first ``count`` frames, which leave."""
        taken = self.look(0, count)
        self.drop(count)
        return taken


class ClipFrames:
    """The frames of an array."""

    def __init__(self, clip: mx.array) -> None:
        self.count = clip.shape[1]
        self._clip = clip
        self._start = 0

    def read(self, count: int) -> mx.array:
        start = self._start
        self._start += count
        return self._clip[:, start : self._start]


class QueueFrames:
    """The frames of a queue; ``takes``: they leave it as they are read."""

    def __init__(self, frames: Queue, *, takes: bool = False) -> None:
        self.count = frames.count
        self._frames = frames
        self._takes = takes
        self._start = 0

    def read(self, count: int) -> mx.array:
        if self._takes:
            return self._frames.take(count)
        start = self._start
        self._start += count
        return self._frames.look(start, count)


class AheadFrames:
    """Frames that are read in pieces of ``limit``, so that what makes them works on many at a time.

    Args:
        source: what to read.
        limit: of a piece.
        needed: frames that will be asked for.
    """

    def __init__(self, source: Frames, limit: int, needed: int) -> None:
        self.count = source.count
        self._source = source
        self._limit = limit
        self._left = needed
        self._waiting = Queue()

    def read(self, count: int) -> mx.array:
        while self._waiting.count < count:
            piece = min(self._limit, self._left)
            self._left -= piece
            self._waiting.put(self._source.read(piece))
        frames = self._waiting.take(count)
        mx.eval(frames)
        return frames


class UpsampledFrames:
    """Frames of the finer grid.

    Args:
        source: of the coarser one.
        upsampler: the layer between them.
        params: of the decoder.
        begins: the clip begins with the source: where time is doubled, its first frame becomes one frame.
    """

    def __init__(self, source: Frames, upsampler: Upsampler, params: Params, *, begins: bool = True) -> None:
        self._growth = upsampler.step.stride[0]
        self._skip = self._growth - 1 if begins else 0
        self.count = source.count * self._growth - self._skip
        self._source = source
        self._upsampler = upsampler
        self._params = params
        self._waiting = Queue()

    def read(self, count: int) -> mx.array:
        missing = count - self._waiting.count + self._skip
        if missing > 0:
            frames = self._upsampler(self._source.read(-(-missing // self._growth)), self._params)
            mx.eval(frames)
            self._waiting.put(frames)
            if self._skip:
                self._waiting.drop(self._skip)
                self._skip = 0
        frames = self._waiting.take(count)
        mx.eval(frames)
        return frames


def frames_before(upsampler: Upsampler, count: int, *, begins: bool = True) -> int:
    """Frames of the coarser grid for the first ``count`` of the finer one."""
    growth = upsampler.step.stride[0]
    return -(-(count + (growth - 1 if begins else 0)) // growth)


class FinerTile(NamedTuple):
    """A part of the grid behind an upsampling, made of coarser frames, which take several times less memory.

    Attributes:
        frames: [start, stop) of the clip on the finer grid.
        rows, columns: of it.
    """

    frames: tuple[int, int]
    rows: slice
    columns: slice

    def of_clip(self, coarse: Queue, dropped: int, upsampler: Upsampler, params: Params, limit: int) -> Queue:
        """Its frames, each piece in memory of its own.

        Args:
            coarse: frames before the upsampling; the first ``dropped`` of the clip have left it.
            upsampler, params: what is between, and its tensors.
            limit: finer frames that are made at a time, as far as one coarser frame does not become more.
        """
        growth = upsampler.step.stride[0]
        position, stop = self.frames
        made = Queue()
        while position < stop:
            # The clip's first frame becomes one frame: the last of those that are made of it.
            place, phase = divmod(position + growth - 1, growth)
            count = min(stop - position, max(1, limit // growth) * growth - phase)
            whole = coarse.look(place - dropped, -(-(phase + count) // growth))
            part = mx.contiguous(self._of(whole, upsampler, params)[:, phase : phase + count])
            mx.eval(part)
            made.put(part)
            position += count
        return made

    def of_planes(self, planes: mx.array, upsampler: Upsampler, params: Params) -> mx.array:
        """The same rows and columns of frames (1, P, H, W, C) each of which is a clip of its own."""
        growth = upsampler.step.stride[0]
        part = mx.contiguous(self._of(planes, upsampler, params)[:, growth - 1 :: growth])
        mx.eval(part)
        return part

    def _of(self, frames: mx.array, upsampler: Upsampler, params: Params) -> mx.array:
        _, tall, wide = upsampler.step.stride
        rows, top = _coarser(self.rows, tall)
        columns, left = _coarser(self.columns, wide)
        return upsampler(frames[:, :, rows, columns], params)[:, :, top, left]


def _coarser(part: slice, factor: int) -> tuple[slice, slice]:
    """The cells of a coarser axis that a part of the finer one lies in, and where it lies in these."""
    start = part.start // factor
    inside = slice(part.start - start * factor, part.stop - start * factor)
    return slice(start, -(-part.stop // factor)), inside


class SharedFrames:
    """Frames that several readers read, each at its own pace; they stay until the last one has them."""

    def __init__(self, source: Frames, readers: int) -> None:
        self.count = source.count
        self._source = source
        self._kept = Queue()
        self._first = 0
        self._positions = [0] * readers

    def read(self, reader: int, count: int) -> mx.array:
        """The next frames for ``reader``."""
        start = self._positions[reader]
        missing = start + count - self._first - self._kept.count
        if missing > 0:
            self._kept.put(self._source.read(missing))
        frames = self._kept.look(start - self._first, count)
        self._positions[reader] += count
        gone = min(self._positions) - self._first
        if gone:
            self._kept.drop(gone)
            self._first += gone
        return frames


class PlaneKeys(NamedTuple):
    """Keys and values (1, P, H, W, 2C) of key frames that all frames of a clip may see, and their times (P,)."""

    keys_values: mx.array
    times: Array


class KeyRing:
    """Keys and values of the latest frames, in an array whose frames are used again.

    Args:
        capacity: frames that it holds.
        planes: key frames, which stay in the same array.
    """

    def __init__(self, capacity: int, planes: PlaneKeys | None = None) -> None:
        self._capacity = capacity
        self._times = np.zeros(capacity, np.float64)
        self._planes = planes
        self._frames: mx.array | None = None
        self._end = 0

    def put(self, frames: mx.array) -> None:
        """The next frames (1, n, H, W, 2C), n at most the capacity."""
        count = frames.shape[1]
        arrived = np.arange(self._end, self._end + count)
        self._times[arrived % self._capacity] = arrived
        if self._frames is None and self._planes is None and count == self._capacity:
            self._frames = frames
        else:
            held = self._begun(frames) if self._frames is None else self._frames
            self._frames = None
            done = 0
            while done < count:
                slot = (self._end + done) % self._capacity
                part = min(count - done, self._capacity - slot)
                # Nothing else holds the array, so that it is written in place.
                held = mx.slice_update(held, frames[:, done : done + part], mx.array([slot]), axes=[1])
                done += part
            mx.eval(held)
            self._frames = held
        self._end += count

    def seen(self, frames: Array, window: int, count: int) -> Attended:
        """By queries of ``frames`` (n,) of a clip of ``count``, in windows of ``window`` frames.

        Windows are shifted inward at the ends of the clip. With key frames they are cut there, and each query also sees
        the nearest two of these.
        """
        assert self._frames is not None
        if self._planes is None:
            listed = first_frames(frames, window, count)[:, None] + np.arange(window)
            slots = listed % self._capacity
            return Attended(self._frames, self._times, mx.array(slots.astype(np.int32)))
        listed = frames[:, None] - window // 2 + np.arange(window)
        slots = np.where((listed >= 0) & (listed < count), listed % self._capacity, -1)
        planes = self._capacity + np.sort(nearest(frames, self._planes.times), axis=1)
        times = np.concatenate([self._times, self._planes.times])
        slots = np.concatenate([planes, slots], axis=1)
        return Attended(self._frames, times, mx.array(slots.astype(np.int32)), masked=True)

    def alike(self, frames: Array) -> list[slice]:
        """Runs of ``frames`` that see the same key frames.

        A kernel that takes several frames at once goes through what they see in the order in which it is listed first:
        what all of them see, and then their windows. So it adds up the keys of each as if it were alone.
        """
        if self._planes is None:
            return [slice(0, len(frames))]
        planes = np.sort(nearest(frames, self._planes.times), axis=1)
        changes = (planes[1:] != planes[:-1]).any(axis=1)
        ends = [*(int(frame) + 1 for frame in np.flatnonzero(changes)), len(frames)]
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def _begun(self, frames: mx.array) -> mx.array:
        extra = 0 if self._planes is None else len(self._planes.times)
        held = mx.zeros((1, self._capacity + extra, *frames.shape[2:]), frames.dtype)
        if self._planes is not None:
            held = mx.slice_update(held, self._planes.keys_values, mx.array([self._capacity]), axes=[1])
        mx.eval(held)
        return held


def nearest(positions: Array, others: Array, most: int = 2) -> Array:
    """(n, m) int: for each position (n,) which of the ``others`` are nearest to it, the first of equals first."""
    distances = np.abs(positions[:, None].astype(np.float64) - others.astype(np.float64))
    order: Array = np.argsort(distances, axis=1, kind="stable")[:, :most]
    return order


class BlockFrames:
    """A block's results.

    Args:
        source: what the block reads.
        block: the block.
        params: of the decoder.
        modulation: of the block.
        limit: frames that are worked on at a time.
        context: gives the next n frames of the context, in the last stage.
        planes: key frames that the block's queries see, too.
        keeps_keys: keep the keys and values of frames that later ones see; else the frames themselves, from which they
            are computed again. Without key frames alone.
    """

    def __init__(
        self,
        source: Frames,
        block: AttentionBlock,
        params: Params,
        modulation: Modulation,
        limit: int,
        context: Callable[[int], mx.array] | None = None,
        planes: PlaneKeys | None = None,
        keeps_keys: bool = True,
    ) -> None:
        self.count = source.count
        self._source = source
        self._block = block
        self._params = params
        self._modulation = modulation
        self._limit = limit
        self._context = context
        self._ring = None
        if keeps_keys or planes is not None:
            self._ring = KeyRing(ring_frames(block.window[0], source.count, limit), planes)
        self._waiting = Queue()
        self._seen = 0  # frames in front of those that wait, which are still seen
        self._arrived = 0

    def read(self, count: int) -> mx.array:
        parts = []
        while count:
            piece = min(count, self._limit)
            parts.append(self._next(piece))
            count -= piece
        frames = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        mx.eval(frames)
        return frames

    def _next(self, count: int) -> mx.array:
        block, window = self._block, self._block.window[0]
        done = self._arrived - self._waiting.count + self._seen
        frames = np.arange(done, done + count)
        reached = int(first_frames(frames[-1:], window, self.count)[0]) + min(window, self.count)
        while self._arrived < reached:
            self._arrive(min(self._limit, reached - self._arrived))
        if self._ring is None:
            x, seen = self._again(frames, reached)
            x = block.attend(x, frames, seen, self._params, self._modulation)
            mx.eval(x)
            del seen
        else:
            x = self._attended(self._waiting.take(count), frames, self._ring)
        return block.mlp(x, self._params, self._modulation)

    def _attended(self, x: mx.array, frames: Array, ring: KeyRing) -> mx.array:
        """Frames that look at the keys of a ring."""
        parts = []
        for run in ring.alike(frames):
            seen = ring.seen(frames[run], self._block.window[0], self.count)
            parts.append(self._block.attend(x[:, run], frames[run], seen, self._params, self._modulation))
            mx.eval(parts[-1])
        after = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        mx.eval(after)
        return after

    def _again(self, frames: Array, reached: int) -> tuple[mx.array, Attended]:
        """The frames, and what they see of those that are kept; those that no later frame sees are dropped."""
        window = self._block.window[0]
        first = first_frames(frames, window, self.count)
        begin = self._arrived - self._waiting.count
        start = int(first[0])
        around = self._waiting.look(start - begin, reached - start)
        x = self._waiting.look(int(frames[0]) - begin, len(frames))
        keys_values = self._block.keys_values(around, self._params, self._modulation)
        listed = first[:, None] - start + np.arange(window)
        seen = Attended(keys_values, np.arange(start, reached), mx.array(listed.astype(np.int32)))
        after = int(frames[-1]) + 1
        kept = int(first_frames(np.full(1, after), window, self.count)[0])
        self._waiting.drop(kept - begin)
        self._seen = after - kept
        return x, seen

    def _arrive(self, count: int) -> None:
        x = self._source.read(count)
        if self._context is not None:
            x = self._block.with_context(x, self._context(count), self._params)
            mx.eval(x)
        if self._ring is not None:
            self._ring.put(self._block.keys_values(x, self._params, self._modulation))
        self._waiting.put(x)
        self._arrived += count


def frames_ahead(blocks: int, window: int, needed: int, count: int) -> int:
    """Frames before some blocks for the first ``needed`` frames after them."""
    for _ in range(blocks):
        needed = int(first_frames(np.full(1, needed - 1), window, count)[0]) + window
    return needed


def ring_frames(window: int, count: int, limit: int) -> int:
    """Frames whose keys a block keeps."""
    return min(count, window - 1 + limit)


class PatchNoise:
    """The frames of noise as patches (1, n, h, w, channels * p * p)."""

    def __init__(self, draw: FrameDraw, count: int, patch: Callable[[mx.array], mx.array], dtype: mx.Dtype) -> None:
        self.count = count
        self._draw = draw
        self._patch = patch
        self._dtype = dtype

    def read(self, count: int) -> mx.array:
        drawn = mx.array(self._draw(count)).astype(self._dtype)
        patches = self._patch(drawn.transpose(0, 2, 3, 4, 1))
        mx.eval(patches)
        return patches


class ProjectedFrames:
    """Frames behind a linear layer.

    Args:
        source: what it reads.
        params: of the layer.
        keep: where the frames before it wait for the end of a step of the sampler; None: nothing needs them.
    """

    def __init__(self, source: Frames, params: Params, keep: Queue | None = None) -> None:
        self.count = source.count
        self._source = source
        self._params = params
        self._keep = keep

    def read(self, count: int) -> mx.array:
        frames = self._source.read(count)
        if self._keep is not None:
            self._keep.put(frames)
        x = linear(frames, self._params)
        mx.eval(x)
        return x


class SteppedFrames:
    """The patches after a step of the sampler.

    Args:
        source: of the last block.
        params: of the decoder.
        scale: (1, C) float32, the last norm's factor less 1.
        before: the patches before the step; None: they are not needed.
        update: makes the patches after the step of those before it and of the prediction; None: those are it.
    """

    def __init__(
        self,
        source: Frames,
        params: Params,
        scale: mx.array,
        eps: float,
        before: Queue | None = None,
        update: Callable[[mx.array, mx.array], mx.array] | None = None,
    ) -> None:
        self.count = source.count
        self._source = source
        self._params = params
        self._scale = scale
        self._eps = eps
        self._before = before
        self._update = update

    def read(self, count: int) -> mx.array:
        x = modulated_norm(self._source.read(count), scale=self._scale, eps=self._eps)
        x = linear(x, self._params.at("conv_out"))
        if self._update is not None and self._before is not None:
            x = self._update(self._before.take(count), x)
        mx.eval(x)
        return x

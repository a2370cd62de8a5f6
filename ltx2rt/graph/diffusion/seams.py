"""Windows of a clip become one picture track and one sound track: blended frames, crossfaded samples.

Source: Lightricks/LTX-2 ltx_pipelines chunking @ 1.4.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

import numpy as np

from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.windows import Window

FADE_SECONDS = 0.04


class FrameQueue(Protocol):
    """Frames that wait, first in, first out."""

    def put(self, frame: Float32Array) -> None:
        """Keep a frame (H, W, 3)."""

    def take(self) -> Float32Array:
        """The frame that waits longest, no longer kept."""


class FramesInMemory:
    """A `FrameQueue` in memory."""

    def __init__(self) -> None:
        self._frames: deque[Float32Array] = deque()

    def put(self, frame: Float32Array) -> None:
        self._frames.append(frame.copy())

    def take(self) -> Float32Array:
        return self._frames.popleft()


class FramesInFile:
    """A `FrameQueue` that needs no memory, in which the next window is made.

    Args:
        file: where they wait, open for reading and writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shapes: deque[tuple[int, ...]] = deque()
        self._read = 0

    def put(self, frame: Float32Array) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(frame, np.float32).tobytes())
        self._shapes.append(frame.shape)

    def take(self) -> Float32Array:
        shape = self._shapes.popleft()
        self._file.seek(self._read)
        data = self._file.read(math.prod(shape) * np.dtype(np.float32).itemsize)
        self._read += len(data)
        if not self._shapes:
            self._file.truncate(0)
            self._read = 0
        return np.frombuffer(data, np.float32).reshape(shape)


def blended(before: Float32Array, after: Float32Array, number: int, count: int) -> Float32Array:
    """Blended frame ``number`` of ``count``, from 1: it changes evenly from the window before to the one after."""
    weight = np.float32(number / (count + 1))
    difference = after - before
    result: Float32Array = before + weight * difference if weight < 0.5 else after - difference * (1 - weight)
    return result


class PictureJoin:
    """The frames of a clip from those of its windows.

    The last frames of a window wait until the next one is decoded, whose carried frames are blended into them.

    Args:
        waiting: where they wait.
    """

    def __init__(self, waiting: FrameQueue) -> None:
        self._waiting = waiting
        self._pending = 0

    def frames(self, window: Window, chunks: Iterable[Float32Array]) -> Iterator[Float32Array]:
        """The frames that are complete once the next window is decoded.

        Args:
            window: the next one.
            chunks: all its frames in order, (f, H, W, 3) float32 each.

        Yields:
            (f, H, W, 3), 1 or more of them.
        """
        count, index = self._pending, 0
        self._pending = window.blend
        for chunk in chunks:
            first = min(max(window.carry - count - index, 0), len(chunk))
            own = min(max(window.carry - index, 0), len(chunk))
            last = min(max(window.frames - window.blend - index, 0), len(chunk))
            for place in range(first, own):
                number = index + place - (window.carry - count) + 1
                yield blended(self._waiting.take(), chunk[place], number, count)[None]
            if last > own:
                yield chunk[own:last]
            for frame in chunk[max(own, last) :]:
                self._waiting.put(frame)
            index += len(chunk)
            del chunk  # its memory is free while the next one is decoded


class SoundJoin:
    """The samples of a clip from those of its windows.

    Args:
        sample_rate: Hz.
        frame_rate: frames/s.
    """

    def __init__(self, sample_rate: int, frame_rate: float) -> None:
        self._rate = sample_rate
        self._frame_rate = frame_rate
        self._tail: Float32Array | None = None

    def samples(self, window: Window, waveform: Float32Array) -> Float32Array:
        """The samples that are complete once the sound of the next window is there.

        Args:
            window: the next one.
            waveform: (S, C), all of its sound, what it has from the window before included.

        Returns:
            (n, C); of the last window all that is left.
        """
        fade = max(1, round(FADE_SECONDS * self._rate))
        tail = self._tail
        wanted = self._samples(len(window.owned))
        base = min(len(waveform), wanted)
        kept = min(len(waveform), wanted + (0 if tail is None else min(fade, len(tail))))
        right = waveform[len(waveform) - kept :]
        ready: list[Float32Array] = []
        if tail is not None:
            left, right = crossfaded(tail, right, kept - base)
            ready.append(left)
        # What waits is the sound of the frames that wait; none waits where the picture is cut.
        waits = min(self._samples(window.blend), len(right))
        ready.append(right[: len(right) - waits])
        self._tail = right[len(right) - waits :] if waits else None
        return np.concatenate(ready)

    def _samples(self, frames: int) -> int:
        return round(frames / self._frame_rate * self._rate)


def crossfaded(left: Float32Array, right: Float32Array, count: int) -> tuple[Float32Array, Float32Array]:
    """Sound that changes with equal power over the last ``count`` samples of ``left``.

    Args:
        left, right: (S, C) float32; the first samples of ``right`` are those of the last ones of ``left``.
        count: at most so many, and no more than either has.

    Returns:
        ``left`` with the change, and ``right`` without the samples that went into it.
    """
    count = min(count, len(left), len(right))
    if count == 0:
        return left, right
    angle = (np.linspace(0.0, 1.0, count, dtype=np.float32) * np.float32(np.pi / 2))[:, None]
    faded = left.copy()
    faded[len(left) - count :] = left[len(left) - count :] * np.cos(angle) + right[:count] * np.sin(angle)
    return faded, right[count:]


def sound_until(waveform: Float32Array, begin: int, frames: int, frame_rate: float, sample_rate: int) -> Float32Array:
    """Given sound from sample ``begin`` to the end of ``frames`` frames of the clip; shorter where it ends earlier."""
    return waveform[begin : round(frames / frame_rate * sample_rate)]

"""What the DFR pipeline works on: its canvas, its frame rates, and the parts of time of its rounds. Numbers alone.

Times are pixel frames, counted in the clip of the round; cells are latent frames.

Source: Lightricks/LTX-2 ltx_pipelines/dfr_helpers @ 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from ltx2rt.graph.diffusion.precision import Float32Array

# Pixel frames of a latent cell, of every published video VAE; the lengths of segments are multiples of it.
CELL_FRAMES = 8
# Frames between two key frames. Where both take as many frames beyond the clip, it is the last one.
_SEGMENTS = (24, 32)
# Above the first the transformer is told that the clip has the second.
_FASTEST_OWN_RATE, _FAST_RATE = Fraction(30), Fraction(60)


@dataclass(frozen=True)
class Canvas:
    """What the first two stages make: the clip, with frames behind it until it ends with a key frame.

    Attributes:
        frames: 8*k + 1, at least those of the clip.
        slots: where key frames are made besides it, at even distances; the last is the last frame.
    """

    frames: int
    slots: tuple[int, ...]


def canvas_of(num_frames: int) -> Canvas:
    """The canvas of a clip of ``num_frames``, 8*k + 1.

    Raises:
        ValueError: the clip has fewer than two frames.
    """
    if num_frames < 2:
        raise ValueError(f"The canvas needs at least 2 pixel frames, got {num_frames}.")
    segment = min(reversed(_SEGMENTS), key=lambda length: -(num_frames - 1) % length)
    frames = num_frames + -(num_frames - 1) % segment
    return Canvas(frames, tuple(range(segment, frames, segment)))


def doubled(frames: int, rounds: int) -> int:
    """Frames of a clip whose frame rate has been doubled so many times: ends stay where they are."""
    return ((frames - 1) << rounds) + 1


def conditioning_rate(frame_rate: Fraction) -> Fraction:
    """The frame rate that the transformer is told for a clip that is played at ``frame_rate``."""
    return _FAST_RATE if frame_rate > _FASTEST_OWN_RATE else frame_rate


@dataclass(frozen=True)
class Prefix:
    """What a part of time begins with: the end of the part before it, from a key frame on.

    Attributes:
        keyframe: where that stands; frame 0 of the part.
        video_start: the cell that follows it.
        cells: how many are given: the key frame's own and those up to the border.
        resume: the first frame that is new.
    """

    keyframe: int
    video_start: int
    cells: int
    resume: int


@dataclass(frozen=True)
class Part:
    """A part of the time of a round, worked on by itself.

    Attributes:
        start, end: the cells [start, end) that it makes.
        anchors: frames within it where key frames stand already.
        slots: frames within it where key frames are made.
        prefix: what it begins with besides; None: it begins with the clip.
    """

    start: int
    end: int
    anchors: tuple[int, ...]
    slots: tuple[int, ...]
    prefix: Prefix | None = None

    @property
    def first_frame(self) -> int:
        """The frame of the clip with which cell ``start`` begins to change."""
        return CELL_FRAMES * self.start

    @property
    def last_frame(self) -> int:
        return CELL_FRAMES * (self.end - 1)

    @property
    def origin(self) -> int:
        """The frame of the clip that is frame 0 of the part."""
        return 0 if self.prefix is None else self.prefix.keyframe

    @property
    def resume(self) -> int:
        """The first frame that is new."""
        return 0 if self.prefix is None else self.prefix.resume

    @property
    def base(self) -> int:
        """The cell of the clip in whose place cell 0 of the part stands."""
        return self.start if self.prefix is None else self.prefix.video_start - 1

    @property
    def cells(self) -> int:
        """Of the part, those that it begins with included."""
        return self.end - self.base

    @property
    def given_cells(self) -> int:
        """How many of them come from the part before."""
        return 0 if self.prefix is None else self.prefix.cells

    @property
    def frames(self) -> int:
        """Of the part."""
        return CELL_FRAMES * (self.cells - 1) + 1


def whole(frames: int) -> Part:
    """A clip of ``frames`` as one part, in which no key frames are made."""
    return Part(0, (frames - 1) // CELL_FRAMES + 1, (), ())


def parts_of_round(seams: Sequence[int], rounds: int) -> tuple[Part, ...]:
    """The parts of a clip that ends with its last seam, after its frame rate has been doubled ``rounds`` times.

    Its segments, from seam to seam, are dealt to 2**rounds parts; leading ones get one more where they do not come out
    even. In the middle of every segment a key frame is made.

    Args:
        seams: frames where key frames stand, from 0 on some multiple of 16 apart.
        rounds: 1 or more.

    Raises:
        ValueError: there is no seam, or they lie otherwise.
    """
    segments = list(pairwise((0, *seams)))
    if not segments or any(last <= first or (last - first) % (2 * CELL_FRAMES) for first, last in segments):
        raise ValueError(
            "boundaries must start at 0 and hold at least one segment, each of them a multiple of "
            f"{2 * CELL_FRAMES} frames, got {list(seams)}."
        )
    middles = [(first + last) // 2 for first, last in segments]
    count = min(2**rounds, len(segments))
    each, more = divmod(len(segments), count)
    parts: list[Part] = []
    keyframes, end, dealt = list(seams), 0, 0
    for index in range(count):
        dealt += each + (index < more)
        start, end = end, segments[dealt - 1][1] // CELL_FRAMES + 1
        within = range(CELL_FRAMES * start, CELL_FRAMES * (end - 1) + 1)
        slots = tuple(middle for middle in middles if middle in within)
        anchors = tuple(seam for seam in seams if seam in within)
        parts.append(Part(start, end, anchors, slots, _prefix(start, keyframes) if start else None))
        keyframes += slots
    return tuple(parts)


def _prefix(start: int, keyframes: Sequence[int]) -> Prefix:
    """Of a part that makes the cells from ``start`` on."""
    seam = CELL_FRAMES * (start - 1)
    keyframe = max(frame for frame in keyframes if frame < seam)
    video_start = keyframe // CELL_FRAMES + 1
    return Prefix(keyframe, video_start, 1 + (seam - keyframe) // CELL_FRAMES, seam + 1)


def sound_of_part(
    sound: Float32Array, origin: int, frames: int, frame_rate: Fraction, duration_s: Fraction, count: int
) -> Float32Array:
    """The sound of a part of the time of a clip, on a time axis of its own.

    Args:
        sound: (1, T, C) tokens of the whole clip.
        origin, frames: of the part.
        frame_rate: at which these frames are played.
        duration_s: that the sound lasts.
        count: of tokens that are wanted.

    Returns:
        (1, count, C) float32: between neighbours in proportion, at the ends the first and the last one.
    """
    length = sound.shape[1]
    first, last = (float(frame / frame_rate / duration_s) * length for frame in (origin, origin + frames))
    places = np.clip(first + (last - first) / count * np.arange(count), 0, length - 1)
    before = np.floor(places).astype(np.int64)
    after = np.minimum(before + 1, length - 1)
    share = (places - before).astype(np.float32)[None, :, None]
    result: Float32Array = sound[:, before] * (np.float32(1) - share) + sound[:, after] * share
    return result

"""Sound files and the sound of videos as stereo waveforms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.filter
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame

from ltx2rt.errors import MediaError
from ltx2rt.media.container import LONGEST_GAP_S, picture_stream, pictures_begin_s, reading, sound_stream
from ltx2rt.types import Array

# (offset, full scale) of the integer sample formats; float formats are taken as they are.
_INTEGER_SCALES = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}

SEEK_MARGIN_S = 0.25  # Decoding begins earlier than asked: the first frame after a jump lacks its predecessor's half.
_GAP_S = 0.02
# Containers that find a place by the header's bytes per second. Of ADPCM that number is rounded: what stands behind a
# jump would be stamped a hundredth of its time too late.
_JUMP_BY_BYTES = ("wav", "w64")


@dataclass(frozen=True)
class Sound:
    """A stereo waveform.

    Attributes:
        waveform: (S, 2) float32, full scale is 1.
        sample_rate: Hz.
    """

    waveform: Array
    sample_rate: int


def read_audio(path: str | os.PathLike[str], *, start_s: float = 0.0, duration_s: float | None = None) -> Sound:
    """The sound track of a file as stereo at its own rate: the default one, if there are several.

    Time begins with the first picture of a clip, where sound that begins later has silence in front, and with the first
    sample of a file without pictures. One channel is duplicated; more than two are mixed down by FFmpeg's
    matrices, with weights that add up to 1 at most.

    Args:
        path: a sound or video file.
        start_s: seconds; where to begin.
        duration_s: seconds; at most so much. None: to the end.

    Raises:
        MediaError: the file cannot be read, has no sound track, or none in the window.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (decode_audio_from_file), which knows
    neither mono nor surround, leaves the offset of unsigned samples in and takes stamps as they are.
    """
    sound = read_audio_from(path, zero_of(path), start_s=start_s, duration_s=duration_s)
    if len(sound.waveform) == 0:
        raise MediaError(f"{os.fspath(path)} has no sound from {start_s:g} s on; choose another start or file.")
    return sound


def read_audio_from(
    path: str | os.PathLike[str], zero_s: float, *, start_s: float = 0.0, duration_s: float | None = None
) -> Sound:
    """As `read_audio`, where time begins at the stamp ``zero_s``, and there may be no samples."""
    name = os.fspath(path)
    with reading(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise MediaError(f"{name} has no sound track; give a file with sound.")
        track = _Track(zero_s + start_s)
        end_s = float("inf") if duration_s is None else zero_s + start_s + duration_s
        for begin_s, rate, block in _blocks(container, stream, zero_s + start_s):
            if begin_s is not None and begin_s >= end_s:
                break
            track.add(begin_s, rate, block)
    count = None if duration_s is None else round(duration_s * track.sample_rate)
    return Sound(np.ascontiguousarray(track.waveform()[:count]), track.sample_rate)


def zero_of(path: str | os.PathLike[str]) -> float:
    """Seconds: the stamp at which the first picture is shown, of a file without pictures that of its first sample.

    Raises:
        MediaError: the file cannot be read.
    """
    with reading(path) as container:
        pictures, sound = picture_stream(container), sound_stream(container)
        first: VideoFrame | AudioFrame | None = None
        if pictures is not None:
            first = next(container.decode(pictures), None)
        elif sound is not None:
            first = next(container.decode(sound), None)
        first_s = 0.0 if first is None or first.pts is None else first.pts * float(first.time_base or 0)
        return first_s if pictures is None else pictures_begin_s(container, pictures, first_s)


class _Track:
    """Collects decoded blocks at their places in time.

    Args:
        zero_s: stamp of the first sample that is wanted.
    """

    def __init__(self, zero_s: float) -> None:
        self._zero_s = zero_s
        self._blocks: list[Array] = []
        self._length = 0
        self._end = 0
        self.sample_rate = 0

    def add(self, begin_s: float | None, rate: int, block: Array) -> None:
        """The next block and its stamp; None: it follows the one before, also where that is left out."""
        self.sample_rate = self.sample_rate or rate
        place = self._end
        if begin_s is not None:
            stated = round((begin_s - self._zero_s) * self.sample_rate)
            # Stamps are coarser than samples: only gaps are gaps.
            if not self._blocks or abs(stated - place) > _GAP_S * self.sample_rate:
                place = stated
        gap_s = (place - self._length) / self.sample_rate
        if gap_s > LONGEST_GAP_S:
            raise MediaError(
                f"the time stamps of the sound jump by {gap_s:.0f} s; the file is damaged, convert it first."
            )
        self._end = place + len(block)
        if place > self._length:
            self._append(np.zeros((place - self._length, 2), np.float32))
        self._append(block[max(self._length - place, 0) :])

    def _append(self, block: Array) -> None:
        if len(block):
            self._blocks.append(block)
            self._length += len(block)

    def waveform(self) -> Array:
        return np.concatenate(self._blocks) if self._blocks else np.empty((0, 2), np.float32)


def _blocks(
    container: InputContainer, stream: AudioStream, start_s: float
) -> Iterator[tuple[float | None, int, Array]]:
    """(stamp in seconds, sample rate, (S, 2) float32) of every decoded frame from about the stamp ``start_s``."""
    if start_s > SEEK_MARGIN_S and stream.time_base and _can_jump(container, stream):
        container.seek(int((start_s - SEEK_MARGIN_S) / stream.time_base), stream=stream)
    mixer: _Mixer | None = None
    for frame in container.decode(stream):
        begin_s = None if frame.pts is None else frame.pts * float(frame.time_base or 0)
        if frame.layout.nb_channels > 2:
            if mixer is None or not mixer.takes(frame):
                mixer = _Mixer(frame)
            yield begin_s, frame.sample_rate, mixer.mixed(frame)
        else:
            yield begin_s, frame.sample_rate, _stereo(frame)


def _can_jump(container: InputContainer, stream: AudioStream) -> bool:
    """Whether stamps are right after a jump; else sound is decoded from its beginning."""
    return container.format.name not in _JUMP_BY_BYTES or not stream.codec_context.name.startswith("adpcm")


class _Mixer:
    """Mixes more than two channels down to stereo by FFmpeg's matrix of their layout.

    The weights of an output add up to 1 at most, so that full scale in all channels stays full scale; FFmpeg does that
    of itself for samples that are whole numbers alone.
    """

    def __init__(self, first: AudioFrame) -> None:
        self._kind = self._kind_of(first)
        graph = av.filter.Graph()
        name, layout, rate = self._kind
        graph.link_nodes(
            graph.add_abuffer(sample_rate=rate, format=name, layout=layout, time_base=Fraction(1, rate)),
            graph.add("aresample", "rematrix_maxval=1"),
            graph.add("aformat", "sample_fmts=fltp:channel_layouts=stereo"),
            graph.add("abuffersink"),
        ).configure()
        self._graph = graph

    @staticmethod
    def _kind_of(frame: AudioFrame) -> tuple[str, str, int]:
        return frame.format.name, frame.layout.name, frame.sample_rate

    def takes(self, frame: AudioFrame) -> bool:
        """Whether a frame is of the kind of the first one."""
        return self._kind_of(frame) == self._kind

    def mixed(self, frame: AudioFrame) -> Array:
        """(S, 2) float32 of a decoded frame."""
        self._graph.push(frame)
        mixed = self._graph.pull()
        assert isinstance(mixed, AudioFrame)
        samples: Array = mixed.to_ndarray().T.astype(np.float32)
        return samples


def _stereo(frame: av.AudioFrame) -> Array:
    samples = frame.to_ndarray().astype(np.float32)
    offset, scale = _INTEGER_SCALES.get(frame.format.name.removesuffix("p"), (0.0, 1.0))
    if scale != 1.0:
        samples = (samples - np.float32(offset)) / np.float32(scale)
    channels = frame.layout.nb_channels
    separate = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    return np.repeat(separate, 2, axis=1) if channels == 1 else separate

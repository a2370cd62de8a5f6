"""Reads a clip as it is shown: upright, square pixels, colours of BT.709, a constant rate, and its sound in step."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ltx2rt.errors import MediaError
from ltx2rt.media.audio_reader import read_audio_from
from ltx2rt.media.colour import FULL, IPT_C2, LIMITED, UNSPECIFIED, ClipColour, colour_of
from ltx2rt.media.container import (
    LONGEST_GAP_S,
    is_animated_webp,
    is_known,
    is_still,
    picture_stream,
    pictures_begin_s,
    reading,
    sound_stream,
)
from ltx2rt.media.frame_filters import DEINTERLACER_FRAMES, TABLE_BYTES_PER_PIXEL, FrameFilters
from ltx2rt.media.orientation import orientation_of
from ltx2rt.media.stamps import Layout, constant_rate, sufficient_rate
from ltx2rt.types import Array

SAME_RATE = 1e-3  # rates that differ by less, as 24 and 23.976, are taken as one: picture for picture
DECODER_THREADS = 4

# Codecs whose packets are pictures, one each: these are counted without decoding.
_PACKET_IS_PICTURE = {"h264", "hevc", "av1", "libdav1d", "vp9", "prores", "dnxhd", "mjpeg", "ffv1", "rawvideo"}
# Containers whose index says where key pictures are.
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Pictures before the first one that is wanted, which filters that look at neighbours are given.
_LEAD = 2
_RAW_RATE = Fraction(25)
_SQUARE_ENOUGH = 0.01  # shapes of pixels that only mend the rounding of a size
_OBLONGEST = 8  # beyond that the statement is an error
_DOLBY_VISION_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_FIELDS = (2, 3, 4, 5)  # FFmpeg's codes of the orders in which fields are coded and shown

# Pictures that exist while a clip is read: those that the decoder refers to and those its threads work on; as RGB the
# one that FFmpeg made, its array and the one that is shown for several frames.
DECODED_PICTURES = 8 + DECODER_THREADS
RGB_PICTURES = 3


class ClipReader:
    """A clip by presentation time.

    What is done on the way, where a clip needs it: pictures are turned and mirrored, brought to square pixels,
    deinterlaced and converted to BT.709; those that an edit list hides are left out; a variable rate becomes a constant
    one, where each picture stands at the frame nearest to its time stamp.

    Args:
        path: a file that FFmpeg reads.
        source_color: what the colours are, in place of the tags; one of `colour.SOURCE_COLOR_CHOICES`.
        frame_rate: frames/s to read at, by time stamps; None: the clip's own, or one that is fast enough for a clip of
            variable rate.

    Attributes:
        frame_rate: frames/s.
        num_frames: at this rate.
        width, height: pixels as shown.
        sample_rate: Hz of the sound; None: there is none.
        own_rate: of the file; for a variable rate its average.
        variable_rate: the clip's time stamps have no constant rate.
        reading_bytes: what `frames` takes while it reads, besides the pictures that the caller holds.
        filtered: pictures go through FFmpeg's filters, and not from the decoder to RGB at once.
        notes: what the user has to know, one line each.

    Raises:
        MediaError: the file cannot be read, or is no clip.
        UsageError: an unknown ``source_color``.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, source_color: str | None = None, frame_rate: Fraction | None = None
    ) -> None:
        self._path, self._name = path, os.fspath(path)
        self.notes: list[str] = []
        scan: _Scan | None = None
        for decode in (False, True):
            with reading(path) as container:
                stream = _moving_pictures(container, self._name)
                sound = sound_stream(container)
                self.sample_rate = None if sound is None else int(sound.codec_context.sample_rate)
                unheard = sound is None and len(container.streams.audio) > 0
                scan = _scan(container, stream, self._name, decode=decode)
                if scan is None:
                    continue
                stated = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
                aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
                if source_color is None and _is_dolby_vision_alone(stream, scan.first):
                    raise MediaError(
                        f"{self._name} is Dolby Vision without a picture for other screens (profile 5), whose colours "
                        "are not read; convert it to HDR10, HLG or SDR first, or state a source colour."
                    )
                first_s = float(scan.times[0]) if scan.times else 0.0
                self._sound_zero_s = pictures_begin_s(container, stream, first_s)
                has_alpha = _has_alpha(stream, scan.first)
                self._colour = colour_of(stream.codec_context, scan.first, source_color)
                break
        assert scan is not None  # decoding tells all
        self._interlaced = scan.interlaced
        self._orientation = orientation_of(scan.first)
        self._size = _square(scan.first, aspect)
        self.width, self.height = self._orientation.size(*self._size)
        self._first_s = scan.times[0] if scan.times else Fraction(0)
        self._last_s = scan.times[-1] if scan.times else self._first_s
        self._has_stamps = scan.times is not None
        self._time_base = scan.time_base
        self._stamps, self._keys = np.array(scan.stamps, np.int64), np.array(scan.keys, np.int64)
        self._layout: Layout | None = None
        self.frame_rate, self.num_frames = self._find_rate(scan, stated, frame_rate)
        self._stored = (scan.first.width, scan.first.height)
        self.filtered = (
            self._interlaced or self._colour.needs_table or any(self._orientation) or self._size != self._stored
        )
        self.reading_bytes = _reading_bytes(scan.first, self.width * self.height, self._interlaced, self._colour)
        self._say()
        if has_alpha:
            self.notes.append(f"{self._name} has an alpha channel, which is left out")
        if unheard:
            self.notes.append(f"the sound of {self._name} is of a codec that is not known here; it is left out")

    def _find_rate(self, scan: _Scan, stated: list[Fraction], wanted: Fraction | None) -> tuple[Fraction, int]:
        """(rate, frames at it); sets the layout for pictures that are not taken one by one."""
        self.variable_rate = False
        self.own_rate = stated[0] if stated else _RAW_RATE
        if scan.times is None:
            # Of raw streams the average is FFmpeg's default; the other one stands in the stream.
            self.own_rate = stated[-1] if stated else _RAW_RATE
            times = [place / self.own_rate for place in range(scan.pictures)]
            self.notes.append(f"{self._name} has no time stamps; it is taken as {float(self.own_rate):g} frames/s")
        else:
            times = scan.times
            if len(times) > 1:
                constant = constant_rate([float(time) for time in times], stated)
                self.variable_rate = constant is None
                self.own_rate = constant or (len(times) - 1) / (times[-1] - times[0])
        if not self.variable_rate and (wanted is None or abs(wanted / self.own_rate - 1) <= SAME_RATE):
            return wanted or self.own_rate, scan.pictures
        rate = wanted or sufficient_rate([float(time) for time in times])
        distances = sorted(later - earlier for earlier, later in itertools.pairwise(times) if later > earlier)
        if distances and distances[-1] > LONGEST_GAP_S:
            raise MediaError(
                f"the time stamps of {self._name} jump by {float(distances[-1]):.0f} s; the file is damaged, "
                "convert it first."
            )
        last = scan.last_duration or (distances[len(distances) // 2] if distances else 1 / self.own_rate)
        self._layout = Layout(times[0], rate)
        if self.variable_rate:
            self.notes.append(
                f"{self._name} has a variable frame rate ({float(1 / distances[-1]):.4g} to "
                f"{float(1 / distances[0]):.4g} frames/s); it is read at {float(rate):.5g} by its time stamps"
            )
        # At a rate of the clip's own choosing its last picture has a place; at another one the clip keeps its length.
        least = 1 if wanted else self._layout.frame(times[-1]) + 1
        return rate, max(self._layout.frame(times[-1] + last), least)

    def _say(self) -> None:
        if self._interlaced:
            self.notes.append(f"{self._name} is interlaced; it is deinterlaced (bwdif)")
        if self._size != self._stored:
            was, becomes = (f"{width}x{height}" for width, height in (self._stored, self._size))
            self.notes.append(f"{self._name} has pixels that are not square; {was} is read as {becomes}")
        if self._colour.needs_table:
            done = "tone-mapped" if self._colour.is_hdr else "converted"
            self.notes.append(f"{self._name} is {self._colour.words}; it is {done} to BT.709")
        if self._colour.remark:
            self.notes.append(f"{self._name}: {self._colour.remark}")

    def frames(self, limit: int | None = None, start: int = 0) -> Generator[Array, None, None]:
        """The pictures of all frames from ``start`` on, at most ``limit``: (height, width, 3) uint8 R'G'B' of BT.709.

        Of what comes before, no more is decoded than from the key picture on, where the container has an index.

        Where a picture is shown for several frames, it is the same array.

        Raises:
            MediaError: the file is damaged.
        """
        there = max(0, self.num_frames - start)
        wanted = there if limit is None else min(limit, there)
        count = 0
        if wanted:
            first = self._first_picture(start)
            with reading(self._path) as container:
                pictures = self._upright(container, first)
                for picture in self._laid_out(pictures, start):
                    if count == wanted:
                        return
                    yield picture
                    count += 1
        if count < wanted:
            raise MediaError(
                f"only {count} of the {wanted} frames of {self._name} can be decoded; the file is damaged, "
                "convert it first."
            )

    def sound(self) -> Array | None:
        """The sound from the first picture on, (channels, samples) float32 at `sample_rate`; None: there is none.

        Sound that begins later has silence in front; what sounds before the first picture is left out. A track that
        has nothing else is none, and gets a note.

        Raises:
            MediaError: the sound cannot be decoded.
        """
        if self.sample_rate is None:
            return None
        sound = read_audio_from(self._path, self._sound_zero_s)
        if len(sound.waveform) == 0:
            self.notes.append(f"the sound of {self._name} ends before its first picture; it is taken as silent")
            self.sample_rate = None
            return None
        self.sample_rate = sound.sample_rate
        return np.ascontiguousarray(sound.waveform.T)

    def _first_picture(self, start: int) -> int:
        """The picture that is shown in frame ``start``, or one before it."""
        if self._layout is None:
            return start
        shown = bisect.bisect_right(self._stamps, start, key=lambda stamp: self._layout_frame(int(stamp)))
        return max(0, shown - 1)

    def _layout_frame(self, stamp: int) -> int:
        assert self._layout is not None
        return self._layout.frame(stamp * self._time_base)

    def _laid_out(self, pictures: Iterable[tuple[Fraction, Array]], start: int) -> Iterator[Array]:
        """The picture of every frame from ``start`` on, of pictures and the times at which they begin to be shown."""
        if self._layout is None:
            for _, picture in pictures:
                yield picture
            return
        frame, held, last_s = start, None, self._first_s
        for shown_s, picture in pictures:
            while held is not None and frame < self._layout.frame(shown_s):
                yield held
                frame += 1
            held, last_s = picture, shown_s
        # A file that breaks off is not filled up with its last picture.
        if held is not None and last_s >= self._last_s:
            while frame < self.num_frames:
                yield held
                frame += 1

    def _upright(self, container: InputContainer, first: int) -> Iterator[tuple[Fraction, Array]]:
        """(seconds, RGB) of every picture from the one numbered ``first`` on."""
        begin = max(0, first - _LEAD) if self._interlaced else first
        while 0 < begin < len(self._stamps) and self._stamps[begin - 1] == self._stamps[begin]:
            begin -= 1
        frames = self._decoded(container, begin) if begin and len(self._stamps) else self._all(container)
        for number, frame in enumerate(self._converted(self._stamped(frames, begin)), begin):
            if number >= first:
                yield _seconds(frame), frame.to_ndarray()

    def _all(self, container: InputContainer) -> Iterator[VideoFrame]:
        stream = _moving_pictures(container, self._name)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", DECODER_THREADS
        return container.decode(stream)

    def _decoded(self, container: InputContainer, begin: int) -> Iterator[VideoFrame]:
        """Pictures from the key picture before the one numbered ``begin`` on, and perhaps some before that; all of them
        where the decoder cannot start there."""
        wanted = int(self._stamps[begin])
        key = int(np.searchsorted(self._keys, wanted, "right")) - 1
        if key <= 0 or container.format.name not in _INDEXED:
            yield from self._all(container)
            return
        entered = int(self._keys[key])
        container.seek(entered, stream=_moving_pictures(container, self._name))
        frames = self._all(container)
        head = next(frames, None)
        # Pictures that are shown before the key picture and coded after it come first, and are not used.
        if head is not None and head.pts is not None and head.pts <= entered:
            yield from itertools.chain([head], frames)
            return
        with reading(self._path) as whole:
            yield from self._all(whole)

    def _stamped(self, frames: Iterable[VideoFrame], begin: int) -> Iterator[VideoFrame]:
        """Pictures from the one numbered ``begin`` on, with the colours and, where the file has none, the time stamps
        that they are taken to have."""
        if len(self._stamps):
            first_s = max(self._first_s, int(self._stamps[min(begin, len(self._stamps) - 1)]) * self._time_base)
        else:
            first_s = begin / self.own_rate
        for place, frame in enumerate(frames):
            if not self._has_stamps:
                frame.pts, frame.time_base = place, 1 / self.own_rate
            if frame.pts is None or _seconds(frame) < first_s:
                continue
            if (frame.width, frame.height) != self._stored:
                raise MediaError(
                    f"the pictures of {self._name} change from {self._stored[0]}x{self._stored[1]} to "
                    f"{frame.width}x{frame.height} on the way; convert it to one size first."
                )
            frame.colorspace = self._colour.scaler_code
            frame.color_range = FULL if self._colour.full_range else LIMITED
            yield frame

    def _converted(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """RGB pictures, filtered if the clip needs it."""
        if not self.filtered:
            # One scaler for all: making it takes as long as a small picture.
            code, scaler = self._colour.scaler_code, VideoReformatter()
            for frame in frames:
                yield scaler.reformat(
                    frame,
                    format="rgb24",
                    src_colorspace=code,
                    dst_colorspace=code,
                    src_color_range=FULL if self._colour.full_range else LIMITED,
                    dst_color_range=FULL,
                )
            return
        first = next(frames, None)
        if first is not None:
            filters = FrameFilters(
                first, self._colour, size=self._size, orientation=self._orientation, interlaced=self._interlaced
            )
            yield from filters.pictures(itertools.chain([first], frames))


def _reading_bytes(stored: VideoFrame, pixels: int, interlaced: bool, colour: ClipColour) -> int:
    """What reading takes: pictures in the decoder, in the filters and as RGB; ``pixels`` of one as shown."""
    picture = sum(plane.buffer_size for plane in stored.planes)
    inside = DECODED_PICTURES + (DEINTERLACER_FRAMES if interlaced else 0)
    table = 2 * TABLE_BYTES_PER_PIXEL if colour.needs_table else 0
    return inside * picture + pixels * (RGB_PICTURES * 3 + table)


def is_still_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture, not a clip.

    Raises:
        MediaError: it cannot be read.
    """
    with reading(path) as container:
        return is_still(container)


def has_sound(path: str | os.PathLike[str]) -> bool:
    """Whether a clip has sound that is heard with its pictures.

    Raises:
        MediaError: it cannot be read.
    """
    return ClipReader(path).sound() is not None


class _Scan(NamedTuple):
    """What was found in a file.

    Attributes:
        first: its first picture.
        times: seconds at which its pictures are shown, rising; None: the file has no time stamps.
        pictures: their number.
        last_duration: seconds for which the last one is shown; None: not stated.
        interlaced: the stream says that its pictures are fields, or the first one does.
        time_base: seconds of a unit of the stamps.
        stamps: the same times in that unit; empty: there are none.
        keys: stamps of key pictures, rising, of codecs whose packets are pictures.
    """

    first: VideoFrame
    times: list[Fraction] | None
    pictures: int
    last_duration: Fraction | None
    interlaced: bool
    time_base: Fraction = Fraction(1)
    stamps: Sequence[int] = ()
    keys: Sequence[int] = ()


def _scan(container: InputContainer, stream: VideoStream, name: str, *, decode: bool) -> _Scan | None:
    """Goes through a file once.

    Args:
        decode: all pictures are decoded; else the first one alone, and packets are counted.

    Returns:
        None: packets do not tell how many pictures there are, or when they are shown.
    """
    if not decode and stream.codec_context.name not in _PACKET_IS_PICTURE:
        return None
    first: VideoFrame | None = None
    stamps: list[int | None] = []
    keys: list[int] = []
    durations: dict[int | None, int | None] = {}
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            durations[packet.pts] = packet.duration
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
            if not decode:
                stamps.append(packet.pts)
        if decode or first is None:
            for frame in packet.decode():
                first = first or frame
                if decode:
                    stamps.append(frame.pts)
    if first is None:
        raise MediaError(f"{name} holds no pictures that can be decoded; choose another file.")
    # PyAV says it of newer FFmpegs; a single picture may be progressive among fields.
    interlaced = bool(first.interlaced_frame) or getattr(stream.codec_context, "field_order", 0) in _FIELDS
    if not decode and (None in stamps or interlaced):  # two fields may come in two packets
        return None
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if len(known) < len(stamps) or (len(known) > 1 and known[0] == known[-1]):
        return _Scan(first, None, len(stamps), None, interlaced)
    # What was recorded before the first key frame cannot be decoded.
    known = [stamp for stamp in known if first.pts is None or stamp >= first.pts]
    base = Fraction(stream.time_base or 0)
    last = min((durations.get(known[-1]) or 0) * base, Fraction(LONGEST_GAP_S))
    if stream.codec_context.name not in _PACKET_IS_PICTURE:
        keys = []
    return _Scan(
        first, [stamp * base for stamp in known], len(known), last or None, interlaced, base, known, sorted(keys)
    )


def _seconds(frame: VideoFrame) -> Fraction:
    """When a picture with a stamp is shown."""
    return (frame.pts or 0) * Fraction(frame.time_base or 0)


def _moving_pictures(container: InputContainer, name: str) -> VideoStream:
    if is_still(container):
        if is_animated_webp(name):
            raise MediaError(
                f"{name} is an animated WebP, which is not read as a clip; convert it to MP4 or GIF first."
            )
        raise MediaError(f"{name} is a still picture; give a video here, or the picture as an image.")
    stream = picture_stream(container)
    if stream is None:
        raise MediaError(f"{name} has no video stream; give a video file.")
    if not is_known(stream):
        raise MediaError(f"{name} has pictures of a codec that is not known here; convert it to H.264 in MP4 first.")
    return stream


def _has_alpha(stream: VideoStream, first: VideoFrame) -> bool:
    """Whether pictures have an alpha channel. GIF's always have one: there the first one must use it."""
    if stream.metadata.get("alpha_mode") == "1":  # WebM: a stream of its own, which the decoder does not see
        return True
    if not any(component.is_alpha for component in first.format.components):
        return False
    return stream.codec_context.name != "gif" or bool(first.to_ndarray(format="rgba")[..., 3].min() < 255)


def _is_dolby_vision_alone(stream: VideoStream, first: VideoFrame) -> bool:
    """Whether colours have a meaning for Dolby Vision alone: pictures for other screens, too, are tagged as what they
    are, HLG or PQ."""
    kinds = (SideDataType.DOVI_RPU_BUFFER, SideDataType.DOVI_METADATA)
    side_data = cast("Mapping[SideDataType, SideData]", first.side_data)
    stated = stream.codec_context.codec_tag in _DOLBY_VISION_TAGS or any(side_data.get(kind) for kind in kinds)
    return stated and int(first.colorspace) in (UNSPECIFIED, IPT_C2)


def _square(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) of a picture whose pixels have this shape, with square ones: the shorter side grows."""
    if not aspect or abs(aspect - 1) < _SQUARE_ENOUGH or not 1 / _OBLONGEST <= aspect <= _OBLONGEST:
        return frame.width, frame.height
    if aspect > 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)

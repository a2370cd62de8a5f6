"""Video files as frames: what a file holds, and its pictures in presentation order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from ltx2rt.errors import MediaError
from ltx2rt.media.container import reading
from ltx2rt.types import Array


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frame_rate: frames/s, the average over the file.
        num_frames: as the container says, else counted by decoding.
        height, width: pixels as shown, after the rotation that cameras store beside the pictures.
        audio_rate: Hz of the first sound track; None without sound.
    """

    frame_rate: Fraction
    num_frames: int
    height: int
    width: int
    audio_rate: int | None


def probe_video(path: str | os.PathLike[str]) -> VideoInfo:
    """Read the properties of a video file.

    Raises:
        MediaError: the file cannot be read, or has no pictures or no frame rate.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (get_videostream_metadata), and rotation.
    """
    with reading(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate
        if not rate:
            raise MediaError(f"{os.fspath(path)} states no frame rate; convert it to MP4 first.")
        audio_rate = next((s.codec_context.sample_rate for s in container.streams.audio), None)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise MediaError(f"{os.fspath(path)} holds no pictures that can be decoded; choose another file.")
        count = stream.frames or 1 + sum(1 for _ in frames)
        sides = (first.height, first.width)
        height, width = sides if _quarter_turns(first) % 2 == 0 else sides[::-1]
        return VideoInfo(Fraction(rate), count, height, width, audio_rate)


def read_frames(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    limit: int | None = None,
) -> Iterator[Array]:
    """The pictures of a video, one by one.

    Args:
        path: the file.
        start_s: seconds; earlier pictures are left out.
        duration_s: seconds; pictures shown at start_s + duration_s or later are left out. None: to the end.
        limit: at most so many pictures.

    Yields:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        MediaError: the file cannot be read, or no picture lies in the window.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (decode_video_from_file), and rotation.
    """
    count = 0
    with reading(path) as container:
        for frame in _window(container, _video_stream(container, path), start_s, duration_s):
            if limit is not None and count == limit:
                break
            yield np.ascontiguousarray(np.rot90(frame.to_rgb().to_ndarray(), _quarter_turns(frame)))
            count += 1
    if count == 0:
        end = "the end" if duration_s is None else f"{start_s + duration_s:g} s"
        raise MediaError(
            f"{os.fspath(path)} has no pictures from {start_s:g} s to {end}; choose another range or file."
        )


def _window(
    container: InputContainer, stream: VideoStream, start_s: float, duration_s: float | None
) -> Iterator[av.VideoFrame]:
    time_base = float(stream.time_base or 0)
    end_s = float("inf") if duration_s is None else start_s + duration_s
    if start_s > 0 and time_base:
        container.seek(int(start_s / time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.pts is None:
            # Some streams carry no time stamps: their frames are counted from the start of the file instead.
            container.seek(0)
            yield from _window_by_count(container, stream, start_s, duration_s)
            return
        shown_s = frame.pts * time_base
        if shown_s >= end_s:
            return
        if shown_s >= start_s:
            yield frame


def _window_by_count(
    container: InputContainer, stream: VideoStream, start_s: float, duration_s: float | None
) -> Iterator[av.VideoFrame]:
    rate = float(stream.average_rate or 0)
    first = round(start_s * rate)
    last = None if duration_s is None else first + round(duration_s * rate)
    for index, frame in enumerate(container.decode(stream)):
        if last is not None and index >= last:
            return
        if index >= first:
            yield frame


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often the picture must be turned by 90 degrees counter-clockwise to stand upright."""
    return round(frame.rotation / 90) % 4


def _video_stream(container: InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    if not container.streams.video:
        raise MediaError(f"{os.fspath(path)} has no video stream; give a video file.")
    return container.streams.video[0]

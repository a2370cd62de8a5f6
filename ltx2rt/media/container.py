"""Opens video and sound files for reading, and names what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ltx2rt.errors import MediaError

# Of the containers of HEIC and AVIF photographs.
_STILL_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "avif")


# What PyAV raises for packets of a stream that was not there when the file was opened.
_StreamAppeared = IndexError

# Files that only name other files or addresses, which FFmpeg would open: whoever may send a file would read those.
_LISTS = frozenset({"concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"})
# How these begin, and what those in XML contain. FFmpeg says of them no more than that they are invalid.
_LIST_BEGINS = (b"#EXTM3U", b"ffconcat version", b"v=0\r", b"v=0\n")
_LIST_ELEMENTS = (b"<MPD", b"<CompositionPlaylist")

# Longer than any picture is shown and any track is silent: time stamps that jump by more are damaged.
LONGEST_GAP_S = 3600


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """The opened container; FFmpeg's errors inside the block become `MediaError`.

    Raises:
        MediaError: the file is missing, is a folder, is no known container, is a list of other files, or is damaged.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        problem = "is a folder" if Path(path).is_dir() else "does not exist"
        raise MediaError(f"{name} {problem}; give a video or sound file.")
    try:
        with av.open(name, metadata_errors="ignore", options={"format_whitelist": _containers()}) as container:
            yield container
    except (av.error.FFmpegError, _StreamAppeared) as error:
        if _is_list(path):
            raise MediaError(f"{name} is a list of other files, which are not opened; give one of those.") from error
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else "its streams change on the way"
        raise MediaError(
            f"{name} cannot be read: {reason}; the file may be damaged or of an unknown format."
        ) from error


def _is_list(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a playlist or something like it."""
    try:
        with open(path, "rb") as file:
            begin = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:  # then that is what FFmpeg says
        return False
    if begin.startswith(b"<"):
        return any(element in begin for element in _LIST_ELEMENTS)
    return begin.startswith(_LIST_BEGINS)


@cache
def _containers() -> str:
    """The formats that hold what they show, as FFmpeg's option has them."""
    return ",".join(sorted(av.formats_available - _LISTS))


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The default stream of moving pictures; covers of sound files are none. None: there is none."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    moving = [stream for stream in moving if is_known(stream)] or moving
    if len(moving) < 2:
        return moving[0] if moving else None
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in moving else moving[0]


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The default sound track; where none is marked, the one that FFmpeg thinks best. None: there is none."""
    best = container.streams.best("audio")
    if isinstance(best, AudioStream) and is_known(best):
        return best
    return next((stream for stream in container.streams.audio if is_known(stream)), None)


def pictures_begin_s(container: InputContainer, stream: VideoStream, first_s: float) -> float:
    """Seconds on the container's clock at which the first picture, with the stamp ``first_s``, is shown.

    AVI says in which order pictures are decoded, not when they are shown: FFmpeg gives the first one a later stamp
    where they are in another order. There the beginning of the stream counts.
    """
    if container.format.name != "avi" or stream.start_time is None:
        return first_s
    return stream.start_time * float(stream.time_base or 0)


def is_known(stream: VideoStream | AudioStream) -> bool:
    """Whether FFmpeg here has a decoder for a stream; PyAV gives those without one no context."""
    context: object = stream.codec_context
    return context is not None


def is_still(container: InputContainer) -> bool:
    """Whether the file is a picture, which FFmpeg opens as a clip of one frame."""
    brand = container.metadata.get("major_brand", "")
    return container.format.name.endswith("_pipe") or container.format.name == "image2" or brand in _STILL_BRANDS


def is_animated_webp(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a WebP of several pictures, which FFmpeg opens as one."""
    with open(path, "rb") as file:
        start = file.read(21)
    return start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and any(flags & 2 for flags in start[20:])

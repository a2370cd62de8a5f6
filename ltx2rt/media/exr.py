"""EXR pictures: folders of frames that are read, and frames of half floats that are written."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import OpenEXR

from ltx2rt.errors import MediaError
from ltx2rt.media.hdr import HDR_SPACES, HdrSpace
from ltx2rt.media.output_folder import OutputFolder
from ltx2rt.types import Array

SUFFIX = ".exr"
_NAME = re.compile(r"frame_\d{5,}\.exr")
_CHANNELS = ("R", "G", "B")
# The library's own threads help little with single frames, and the decoder needs the cores.
_THREADS = 0
# What a frame takes while it is written or read besides its float32 values: as half floats, once more in channels of
# their own, and packed.
BYTES_PER_PIXEL = 3 * 3 * 4
_LARGEST_HALF = 65504.0
_SAME = 1e-4  # chromaticities that differ by less are the same


def frame_name(number: int) -> str:
    """Of a frame that is written, counted from 0."""
    return f"frame_{number:05d}{SUFFIX}"


def exr_folder(clip: Path, space: str) -> Path:
    """``clip.mp4`` -> ``clip_acescg_exr`` beside it, for the frames of a clip."""
    return clip.with_name(f"{clip.stem}_{space}_exr")


def is_own_frame(name: str) -> bool:
    """Whether a file has the name of a frame that is written here."""
    return _NAME.fullmatch(name) is not None


def is_exr(path: Path) -> bool:
    """Whether a path names EXR pictures: one of them, or a folder with some."""
    if not path.is_dir():
        return path.suffix.lower() == SUFFIX
    return any(_is_frame(file) for file in path.iterdir())


def frames_in(folder: Path) -> list[Path]:
    """The frames of a folder in the order of their names.

    Raises:
        MediaError: there are none, or it is no folder that can be read.
    """
    if not folder.is_dir():
        if folder.suffix.lower() == SUFFIX:
            raise MediaError(f"{folder} is a single EXR picture; give the folder that holds all frames.")
        raise MediaError(f"{folder} is no folder; give one with EXR frames.")
    try:
        frames = sorted(file for file in folder.iterdir() if _is_frame(file))
    except OSError as error:
        raise MediaError(f"{folder} cannot be read: {error.strerror}; check its permissions.") from error
    if not frames:
        raise MediaError(f"{folder} holds no *.exr files; give the folder of the frames.")
    return frames


def _is_frame(file: Path) -> bool:
    # A Mac leaves files like ._frame_00000.exr on foreign disks.
    return file.suffix.lower() == SUFFIX and not file.name.startswith(".") and file.is_file()


@dataclass(frozen=True)
class ExrFolder:
    """EXR frames of one size.

    Attributes:
        path: the folder.
        frames: its files, in order.
        height, width: of each.
        stated: the colour space that the first header states; None: none that is known here.
    """

    path: Path
    frames: Sequence[Path]
    height: int
    width: int
    stated: HdrSpace | None

    @classmethod
    def open(cls, path: Path) -> ExrFolder:
        """Look at the names and at the first header.

        Raises:
            MediaError: there are no frames, or the first one cannot be read.
        """
        frames = frames_in(path)
        with _opened(frames[0], header_only=True) as file:
            header = dict(file.header())  # the library empties its own
        return cls(path, frames, *exr_size(frames[0]), _stated(header))

    @property
    def reading_bytes(self) -> int:
        """What reading takes."""
        return self.height * self.width * BYTES_PER_PIXEL

    def read(self, part: range | None = None) -> Generator[Array, None, None]:
        """Every frame or, of all, those of ``part``: (height, width, 3) float32.

        Raises:
            MediaError: one cannot be read, or is of another size.
        """
        for path in self.frames if part is None else self.frames[part.start : part.stop]:
            frame = read_exr(path)
            if frame.shape[:2] != (self.height, self.width):
                raise MediaError(
                    f"{path} is {frame.shape[1]}x{frame.shape[0]}, {self.frames[0].name} {self.width}x{self.height}; "
                    "all frames of a folder must be of one size."
                )
            yield frame


def exr_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, from its header; MediaError as `read_exr`."""
    with _opened(path, header_only=True) as file:
        (left, top), (right, bottom) = file.header()["dataWindow"]
        return int(bottom - top) + 1, int(right - left) + 1


def read_exr(path: Path) -> Array:
    """(H, W, 3) float32 of the data window of a picture with channels R, G and B; others are left out.

    Raises:
        MediaError: it is missing, damaged, or holds other pictures.
    """
    with _opened(path) as file:
        channels = file.channels()
        if not all(name in channels for name in _CHANNELS):
            raise MediaError(
                f"{path} has the channels {', '.join(sorted(channels)) or 'of a damaged file'}, but R, G and B are "
                "read; write it as RGB first."
            )
        planes = [channels[name].pixels for name in _CHANNELS]
        if any(plane.shape != planes[0].shape or plane.dtype.kind != "f" for plane in planes):
            raise MediaError(f"{path} has channels of other sizes or of whole numbers; write it as RGB floats first.")
        return np.stack([plane.astype(np.float32) for plane in planes], axis=-1)


def encoded_exr(frame: Array, space: HdrSpace) -> bytes:
    """A picture as the bytes of an EXR file: half floats, packed without loss.

    The header has the chromaticities of the light and, as ``colorSpace``, the name of what the numbers are.

    Args:
        frame: (H, W, 3) floats in ``space``; what no half float can hold becomes the largest one.
        space: what they are.
    """
    half = np.clip(frame, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    header = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "chromaticities": space.primaries.numbers,
        "colorSpace": space.tag,
    }
    channels = {name: np.ascontiguousarray(half[..., place]) for place, name in enumerate(_CHANNELS)}
    packed = io.BytesIO()
    with OpenEXR.File(header, channels, num_threads=_THREADS) as file:
        file.write(packed)
    return packed.getvalue()


class ExrWriter:
    """Frames of half floats in a folder that appears when it is complete; see `OutputFolder`.

    As a context manager: a clean exit completes the folder, any exception removes what was written.

    Args:
        path: the folder.
        space: what the frames are written in.

    Raises:
        MediaError: the folder cannot be made, or holds files that were not written here.
    """

    def __init__(self, path: Path, space: HdrSpace) -> None:
        self._space = space
        self._folder = OutputFolder(path, is_own_frame)
        self.frames_written = 0

    def write(self, codes: Array) -> None:
        """Add frames.

        Args:
            codes: (F, H, W, 3) ACEScct.

        Raises:
            MediaError: they cannot be written (`OutOfSpace`: the disk is full).
        """
        for frame in codes:
            self._folder.write(frame_name(self.frames_written), encoded_exr(self._space.of_acescct(frame), self._space))
            self.frames_written += 1

    def __enter__(self) -> ExrWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._folder.commit()
        else:
            self._folder.discard()


@contextmanager
def _opened(path: Path, *, header_only: bool = False) -> Generator[Any, None, None]:
    """A file of one part; the library's errors become `MediaError`."""
    try:
        with OpenEXR.File(str(path), separate_channels=True, header_only=header_only, num_threads=_THREADS) as file:
            yield file
    except (RuntimeError, ValueError, OSError) as error:
        problem = "does not exist" if not path.exists() else f"cannot be read as EXR ({error})"
        raise MediaError(f"{path} {problem}; it may be damaged, write it again.") from error


def _stated(header: dict[str, Any]) -> HdrSpace | None:
    """The colour space of a header: its name, else linear light of the chromaticities."""
    name = str(header.get("colorSpace", "")).lower()
    for space in HDR_SPACES.values():
        if name in (space.name, space.tag.lower()):
            return space
    stated = header.get("chromaticities")
    if stated is None:
        return None
    return next((space for space in HDR_SPACES.values() if not space.is_log and _is_of(space, stated)), None)


def _is_of(space: HdrSpace, chromaticities: Sequence[float]) -> bool:
    pairs = zip(chromaticities, space.primaries.numbers, strict=True)
    return all(isclose(stated, own, abs_tol=_SAME) for stated, own in pairs)

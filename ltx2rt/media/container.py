"""Opens video and sound files for reading, and names what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error
from av.container import InputContainer

from ltx2rt.errors import MediaError


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """The opened container; FFmpeg's errors inside the block become `MediaError`.

    Raises:
        MediaError: the file is missing, is a folder, is no known container, or is damaged.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        problem = "is a folder" if Path(path).is_dir() else "does not exist"
        raise MediaError(f"{name} {problem}; give a video or sound file.")
    try:
        with av.open(name, metadata_errors="ignore") as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{name} cannot be read: {error.strerror}; the file may be damaged or of an unknown format."
        ) from error

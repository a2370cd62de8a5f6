"""Folders of files that appear under their name only when all of them are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ltx2rt.errors import MediaError, write_failure
from ltx2rt.media.output_file import publish_later


class OutputFolder:
    """A folder that is filled under a hidden name beside its own, and renamed by `commit`.

    One that is there already is replaced as a whole, if it holds nothing but files that ``is_own`` knows. What a killed
    process has left under the hidden name is removed.

    Args:
        path: the folder; that in which it stands must exist.
        is_own: whether a file of this name may be replaced.

    Raises:
        MediaError: it holds other files, or cannot be made (`OutOfSpace`: the disk is full).
    """

    def __init__(self, path: Path, is_own: Callable[[str], bool]) -> None:
        self.path = path
        self._is_own = is_own
        self._temporary = path.with_name(f".{path.name}.part")
        self._old = path.with_name(f".{path.name}.old")
        self._done = False
        require_replaceable(path, is_own)
        try:
            self._remove(self._temporary)
            self._remove(self._old)
            self._temporary.mkdir()
        except OSError as error:
            raise write_failure(path, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Add a file, flushed to the disk.

        Raises:
            MediaError: it cannot be written (`OutOfSpace`: the disk is full).
        """
        try:
            with (self._temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failure(self.path / name, error) from error

    def commit(self) -> None:
        """Give the folder its name; in `files_together` that comes later. MediaError as `write`."""
        if not publish_later(self):
            self.publish()

    def publish(self) -> None:
        """Take the place of what is there; on failure that stays as it was."""
        require_replaceable(self.path, self._is_own)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.rename(self._old)
            try:
                self._temporary.rename(self.path)
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    self._old.rename(self.path)
                raise
            self._done = True
            self._remove(self._old)
        except OSError as error:
            self.discard()
            raise write_failure(self.path, error) from error

    def discard(self) -> None:
        """Remove what was written; harmless after `publish` and when repeated."""
        if not self._done:
            with contextlib.suppress(OSError):
                self._remove(self._temporary)

    @staticmethod
    def _remove(folder: Path) -> None:
        if folder.is_dir():
            shutil.rmtree(folder)


def require_replaceable(path: Path, is_own: Callable[[str], bool]) -> None:
    """Raise MediaError for a name that something else than a folder of our own has."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise MediaError(f"{path} exists and is no folder; move it away, or name another output.")
    other = next((file.name for file in path.iterdir() if not is_own(file.name) or file.is_dir()), None)
    if other is not None:
        raise MediaError(
            f"the folder {path} holds {other}, which was not written here, and is not replaced; move it away, or name "
            "another output."
        )

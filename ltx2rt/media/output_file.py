"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.errors import MediaError, write_failure


class Output(Protocol):
    """Something complete that has not got its name yet."""

    def publish(self) -> None:
        """Give it its name."""

    def discard(self) -> None:
        """Remove it."""


_waiting: ContextVar[list[Output] | None] = ContextVar("waiting", default=None)


def publish_later(output: Output) -> bool:
    """Whether an output gets its name at the end of `files_together`, with the others; False outside of it."""
    waiting = _waiting.get()
    if waiting is not None:
        waiting.append(output)
    return waiting is not None


class OutputFile:
    """An `AtomicFile` for what a user asked for: its failures are errors that say what to do.

    Leaving the ``with`` block by an exception (Ctrl-C included) removes what was written.

    Raises:
        MediaError: the folder is missing, is no folder or refuses new files; the target is a folder.
        OutOfSpace: the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        folder = self.path.parent
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise MediaError(
                f"cannot write {self.path}: {folder} {problem}; create the folder or choose another output."
            )
        if self.path.is_dir():
            raise MediaError(f"cannot write {self.path}: it is a folder; give a file name.")
        try:
            self._target = AtomicFile(self.path)
        except OSError as error:
            raise self.failure(error) from error
        self.file = self._target.file
        self.temporary = self._target.temporary

    def failure(self, error: OSError) -> MediaError:
        """The error to raise for an OSError met while writing."""
        return write_failure(self.path, error)

    def commit(self) -> None:
        """Flush to the disk, close and rename; on failure nothing is left. In `files_together` the name comes later.

        Raises:
            MediaError: the last bytes could not be written (`OutOfSpace`: the disk is full) or the file not renamed.
        """
        try:
            self._target.complete()
            if not publish_later(self):
                self._target.publish()
        except OSError as error:
            raise self.failure(error) from error

    def publish(self) -> None:
        """Give a complete file its name; MediaError as `commit`."""
        try:
            self._target.publish()
        except OSError as error:
            raise self.failure(error) from error

    def discard(self) -> None:
        """Remove what was written; harmless after `commit` and when repeated."""
        self._target.discard()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
            return
        self.discard()
        if isinstance(error, OSError):
            raise self.failure(error) from error


@contextmanager
def files_together() -> Iterator[None]:
    """Output files that become complete inside the block get their names at its end, all of them; none on an exception.

    Raises:
        MediaError: a file cannot be renamed.
    """
    waiting: list[Output] = []
    token = _waiting.set(waiting)
    try:
        yield
        while waiting:
            waiting.pop(0).publish()
    finally:
        _waiting.reset(token)
        for output in waiting:
            output.discard()


@contextmanager
def files_at_once() -> Iterator[None]:
    """Inside `files_together`: files that become complete in this block get their names at once."""
    token = _waiting.set(None)
    try:
        yield
    finally:
        _waiting.reset(token)

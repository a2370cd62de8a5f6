"""Files that are replaced whole: readers see the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import contextlib
import os
import threading
from io import BufferedWriter, FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class AtomicFile:
    """A binary file written beside its target under a temporary name, flushed to the disk and renamed on `commit`.

    As a context manager it gives the file to write to; leaving by an exception (Ctrl-C included) removes what was
    written.

    Args:
        path: the target; replaced if it exists.
        shared: other processes or threads may write the same target at the same time. Without it the temporary name
            is fixed, so that what a killed process left behind is replaced by the next one.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str], *, shared: bool = False) -> None:
        self.path = Path(path)
        writer = f".{os.getpid()}.{threading.get_ident()}" if shared else ""
        self.temporary = self.path.with_name(f".{self.path.name}{writer}.part")
        self.file: BinaryIO = BufferedWriter(FileIO(self.temporary, "w"))

    def commit(self) -> None:
        """Flush to the disk, close and rename; on failure nothing is left."""
        self.complete()
        self.publish()

    def complete(self) -> None:
        """Flush to the disk and close, without the rename; on failure nothing is left."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        except OSError:
            self.discard()
            raise

    def publish(self) -> None:
        """Rename what is complete; on failure nothing is left."""
        try:
            os.replace(self.temporary, self.path)
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written; harmless after `commit` and when repeated."""
        if self.file.closed and not self.temporary.exists():
            return
        with contextlib.suppress(OSError):  # On a full disk the last flush fails once more; the file is closed anyway.
            self.file.close()
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

"""A file that is read at given positions into memory the caller owns, by any thread."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from ltx2rt.errors import CheckpointError

# Most bytes of one system call: large enough for the full speed of a disk, small enough to stop soon.
_BYTES_PER_READ = 16 << 20
# Most places that one system call fills; systems allow 1024.
_TARGETS_PER_READ = 512


class PositionedFile:
    """An open file. Nothing is mapped: a file that shrinks gives an error, not a killed process, and its pages never
    count as memory of this process.

    Attributes:
        path: the file.
        length: bytes when it was opened.

    Raises:
        CheckpointError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self.close = weakref.finalize(self, os.close, self._descriptor)
            self.length = os.fstat(self._descriptor).st_size
            os.pread(self._descriptor, 1, 0)  # a folder opens but cannot be read
            if hasattr(os, "posix_fadvise"):
                # Longer reads ahead: measured faster than announcing each range, and as fast as one plain read.
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"{path}: cannot open the weight file ({reason}); check the path.") from error

    def read_into(self, offset: int, *targets: memoryview) -> None:
        """Fill ``targets`` (writable bytes), one after the other, with what stands in the file from ``offset`` on.

        Raises:
            CheckpointError: the file ends before, because it shrank since it was opened, or the disk fails.
        """
        waiting = [target for target in reversed(targets) if len(target)]
        while waiting:
            pieces = self._next(waiting)
            try:
                count = os.preadv(self._descriptor, pieces, offset)
            except OSError as error:
                reason = error.strerror or str(error)
                raise CheckpointError(f"{self.path}: reading at {offset} failed ({reason}); check the disk.") from error
            if count == 0:
                raise CheckpointError(
                    f"{self.path}: the file shrank from {self.length} to {os.fstat(self._descriptor).st_size} bytes "
                    "while it was in use; restore it and run again."
                )
            offset += count
            while count:
                taken = min(count, len(waiting[-1]))
                rest = waiting.pop()[taken:]
                if len(rest):
                    waiting.append(rest)
                count -= taken

    @staticmethod
    def _next(waiting: Sequence[memoryview]) -> list[memoryview]:
        """What one system call reads: the last of ``waiting`` first, up to a limit."""
        pieces: list[memoryview] = []
        room = _BYTES_PER_READ
        for target in reversed(waiting[-_TARGETS_PER_READ:]):
            if room == 0:
                break
            pieces.append(target[:room])
            room -= len(pieces[-1])
        return pieces

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; see `read_into`."""
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

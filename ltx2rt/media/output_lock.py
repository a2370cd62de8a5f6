"""Locks on files that are about to be written, so that two runs never write the same one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from ltx2rt.errors import UsageError, write_failure

log = logging.getLogger(__name__)


def lock_path(output: Path) -> Path:
    """``clip.mp4`` -> ``.clip.mp4.lock`` beside it; it is there while somebody holds the lock, and after a kill."""
    return output.with_name(f".{output.name}.lock")


class _Lock:
    """A lock of the operating system on one file: it ends with the process, however that ends."""

    def __init__(self, output: Path) -> None:
        self._path = lock_path(output)
        self.owner = threading.get_ident()
        self.count = 1
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise write_failure(output, error) from error
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._file, 32).decode("ascii", "replace")
                os.close(self._file)
                raise _busy(output, holder) from None
            except OSError as error:  # some network file systems have no locks
                log.warning("%s: this file system has no locks (%s); do not write it twice", output, error.strerror)
            if self._is_current():
                break
            os.close(self._file)  # its last holder removed it between the two calls: it locks nothing any more
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
            os.truncate(self._file, 0)
            os.write(self._file, str(os.getpid()).encode())

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        # The name goes first: whoever opens it from here on makes a file of its own.
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)


_locks: dict[str, _Lock] = {}
_guard = threading.Lock()


def _busy(output: Path, holder: str) -> UsageError:
    who = f"process {holder}" if holder.isdigit() else "another one"
    return UsageError(f"{output} is being written by another run ({who}); wait for its end, or name another file.")


@contextlib.contextmanager
def held(outputs: Iterable[Path]) -> Iterator[None]:
    """Nobody else who asks for one of these files gets it inside the block; the thread itself may ask again.

    Args:
        outputs: files to write, in folders that exist.

    Raises:
        UsageError: another run, in this process or another one, holds one of them.
        MediaError: a folder cannot be written to.
    """
    taken: list[str] = []
    try:
        for output in outputs:
            key = os.path.join(os.path.realpath(output.parent), output.name)
            with _guard:
                lock = _locks.get(key)
                if lock is None:
                    _locks[key] = _Lock(output)
                elif lock.owner == threading.get_ident():
                    lock.count += 1
                else:
                    raise _busy(output, str(os.getpid()))
            taken.append(key)
        yield
    finally:
        for key in taken:
            with _guard:
                _locks[key].count -= 1
                if not _locks[key].count:
                    _locks.pop(key).release()


def is_held(output: Path) -> bool:
    """Whether a run, of whatever process, holds a file at this moment."""
    try:
        file = os.open(lock_path(output), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False

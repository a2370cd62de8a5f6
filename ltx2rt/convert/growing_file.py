"""A file whose tensors are written a few rows at a time, and which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.convert.containers import Arrangement
from ltx2rt.convert.encoders.encoder import Entry
from ltx2rt.errors import OutOfSpace, write_failure
from ltx2rt.types import Array

_ROOM_TO_SPARE = 64 << 20


class GrowingFile:
    """The file at ``path``, arranged before. Leaving the context by an exception removes what was written. Threads may
    write different tensors at the same time.

    Args:
        path: the target; replaced if it exists.
        entries: every tensor.
        arrangement: of the same tensors.

    Raises:
        OutOfSpace: the disk has less room than the file takes.
        MediaError: the folder cannot be written to, or writing fails.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], arrangement: Arrangement) -> None:
        _require_room(path, arrangement.size)
        self.path = path
        self._arrangement = arrangement
        self._ends = {name: arrangement.positions[name] + entry.nbytes for name, entry in entries.items()}
        self._next = dict(arrangement.positions)
        self._lock = threading.Lock()
        try:
            self._target = AtomicFile(path)
        except OSError as error:
            raise write_failure(path, error) from error
        try:
            self._target.file.write(arrangement.head)
            self._target.file.truncate(arrangement.size)  # so that also what only aligns tensors is there
        except OSError as error:
            self._target.discard()
            raise write_failure(path, error) from error

    def append(self, name: str, items: Array | bytes) -> None:
        """The items, or bytes, of a tensor that follow those written before."""
        data = items if isinstance(items, bytes) else _bytes(items)
        position = self._next[name]  # a tensor is written by one thread
        self._next[name] += len(data)
        if self._next[name] > self._ends[name]:
            raise ValueError(f"tensor {name!r} gets {self._next[name] - self._ends[name]} bytes too many.")
        try:
            with self._lock:
                self._target.file.seek(position)
                self._target.file.write(data)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._target.discard()
            return
        unfinished = [name for name, end in self._ends.items() if self._next[name] != end]
        if unfinished:
            self._target.discard()
            raise ValueError(f"{len(unfinished)} tensors were not written whole, {unfinished[0]!r} for one.")
        try:
            self._target.commit()
        except OSError as failure:
            raise write_failure(self.path, failure) from failure


def _bytes(items: Array) -> memoryview:
    """The bytes of some items, in the order of the file."""
    ordered = items.astype(items.dtype.newbyteorder("<"), order="C", copy=False)
    return ordered.reshape(-1).view("u1").data


def _require_room(path: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise write_failure(path, error) from error
    if size + _ROOM_TO_SPARE > free:
        raise OutOfSpace(
            f"{path} will take {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free in {os.fspath(path.parent)}; "
            "free some, or name a file on another disk."
        )

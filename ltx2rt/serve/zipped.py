"""A ZIP that is made while it is sent: nothing of it lies on the disk or whole in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_BLOCK = 1 << 20


class _Sink(io.RawIOBase):
    """Holds what has been written and not taken yet. It says that it cannot seek, and sizes then follow each file."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def zipped(files: Sequence[Path]) -> Iterator[bytes]:
    """The parts of a ZIP with these files by their names, uncompressed: EXR frames are compressed already."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for path in files:
            entry = ZipInfo.from_file(path, path.name, strict_timestamps=False)
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    yield sink.take()
    yield sink.take()

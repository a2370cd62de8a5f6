"""Tells weight files apart without reading them whole."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from ltx2rt.errors import CheckpointError

SAMPLES = 64
SAMPLE_BYTES = 4096
# A file that was written so shortly ago may be written again without another time of change: clocks of file systems
# are coarse. Its fingerprint is not remembered.
_SETTLED_SECONDS = 2.0

# What tells whether a file is still the same: path, inode, size and times of change.
_Stamp = tuple[Path, int, int, int, int]
_remembered: dict[Path, tuple[list[_Stamp], str]] = {}


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A hash of a file's size, its beginning, its end and blocks between, or of all files of a folder.

    The beginning of a safetensors file is its header: names, shapes and metadata. Of the rest `SAMPLES` blocks of
    `SAMPLE_BYTES` count, spread evenly, the last one at the end. Another model, another training state or a damaged
    download give another hash; a change of a few single values may not. Files that have not changed since are not read
    again.

    Returns:
        ``sampled-sha256:`` and 64 hexadecimal digits.

    Raises:
        CheckpointError: a file cannot be read.
    """
    path = Path(path)
    key = path.absolute()
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    now, stamps = time.time(), [_stamp(file) for file in files]
    if key in _remembered and _remembered[key][0] == stamps:
        return _remembered[key][1]
    digest = hashlib.sha256()
    for file in files:
        if path.is_dir():
            digest.update(file.name.encode() + b"\0")
        _add(digest, file)
    found = f"sampled-sha256:{digest.hexdigest()}"
    if all(now - max(stamp[3:]) / 1e9 > _SETTLED_SECONDS for stamp in stamps):
        _remembered[key] = stamps, found
    return found


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path.")


def _add(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            head = file.read(8)
            digest.update(head)
            # A safetensors file begins with the length of its header; other files count as one without.
            header = int.from_bytes(head, "little") if path.suffix == ".safetensors" and len(head) == 8 else 0
            digest.update(file.read(min(header, 256 * 2**20)))
            last = max(size - SAMPLE_BYTES, 0)
            for index in range(SAMPLES):
                file.seek(last * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from error

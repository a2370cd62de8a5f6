"""Tells weight files apart without reading them whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ltx2rt.errors import CheckpointError

SAMPLES = 64
SAMPLE_BYTES = 4096


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A hash of a file's size, its beginning, its end and blocks between, or of all files of a folder.

    The beginning of a safetensors file is its header: names, shapes and metadata. Of the rest `SAMPLES` blocks of
    `SAMPLE_BYTES` count, spread evenly, the last one at the end. Another model, another training state or a damaged
    download give another hash; a change of a few single values may not.

    Returns:
        ``sampled-sha256:`` and 64 hexadecimal digits.

    Raises:
        CheckpointError: a file cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.name.encode() + b"\0")
        _add(digest, file)
    return f"sampled-sha256:{digest.hexdigest()}"


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
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path.") from error

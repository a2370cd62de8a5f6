"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from ltx2rt.types import FilePath


def expanded(path: FilePath) -> Path:
    """The path, with ``~`` and ``~user`` replaced by the home folder where no shell did it."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: it may be the name of a file
        return path

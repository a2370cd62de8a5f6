"""Paths as people write them, and text files as their editors do."""

from __future__ import annotations

import codecs
from pathlib import Path

from ltx2rt.types import FilePath


def expanded(path: FilePath) -> Path:
    """The path, with ``~`` and ``~user`` replaced by the home folder where no shell did it."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: it may be the name of a file
        return path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 where it begins with the mark of that; the mark is left out.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")

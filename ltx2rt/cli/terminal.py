"""Output streams that cannot fail a command: closed ones, ones without a reader, ones of another encoding."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any

_HANDLER = "ltx2rt.bytes_of_names"


def make_streams_safe() -> None:
    """Give the process standard streams to which a message can always be sent.

    A closed stream is replaced by nowhere, before another file gets its number. What stderr does not take is dropped.
    Characters that an encoding lacks become the bytes that they have in names of files.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # as long as the process
    codecs.register_error(_HANDLER, _bytes_of_names)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
    if not isinstance(sys.stderr, _Unfailing):
        sys.stderr = _Unfailing(sys.stderr)  # it has what a stream has


def _bytes_of_names(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return os.fsencode(error.object[error.start : error.end]), error.end


class _Unfailing:
    """A stream that drops what cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, the disk is full, or it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

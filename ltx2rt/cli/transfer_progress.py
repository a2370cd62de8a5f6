"""What the user sees while files are fetched or checked: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ltx2rt.memory.limits import format_bytes

_LINE_EVERY_S = 5.0


class TransferProgress:
    """Counts bytes over all files, on stderr. A context manager.

    Args:
        total: bytes that come.
        verb: what becomes of them: ``fetched``.
        quiet: show nothing.
    """

    def __init__(self, total: int, verb: str, quiet: bool = False) -> None:
        self._total = total
        self._verb = verb
        self._shown = not quiet
        self._bar: Any = None
        self._name = ""
        self._done = 0
        self._begun = self._said = time.monotonic()

    def __enter__(self) -> TransferProgress:
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm(total=self._total, unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown and kind is None:
            self._say()

    def begin(self, name: str) -> None:
        """A file follows."""
        self._name = name.rpartition("/")[2].rpartition(":")[2]
        if self._bar is not None:
            self._bar.set_description(self._name)

    def advance(self, count: int) -> None:
        """Bytes have come; negative: they have to come again."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._say()

    def _say(self) -> None:
        now = self._said = time.monotonic()
        rate = self._done / max(now - self._begun, 1e-9)
        left = max(0, self._total - self._done) / rate if rate > 0 else 0.0
        print(
            f"{self._verb} {format_bytes(self._done)} of {format_bytes(self._total)}, {format_bytes(rate)}/s, "
            f"{left / 60:.0f} min left: {self._name}",
            file=sys.stderr,
            flush=True,
        )

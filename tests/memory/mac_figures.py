"""The figures that a Mac gives: no /proc, a resident set with pages in it that nobody uses, free memory that changes.

Imported by tests; run as a program it makes the process of a test such a Mac first: ``mac_figures.py CODE``.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ltx2rt.memory import limits, measure

Memory = namedtuple("Memory", "available")
Process = namedtuple("Process", "rss vms")


class MacFigures:
    """What psutil says on the pretended Mac.

    Attributes:
        stale: bytes of freed or mapped pages that the resident set still shows.
        available: what `psutil.virtual_memory` says; None: what it says here.
    """

    def __init__(self) -> None:
        self.stale = 0
        self.available: int | None = None
        self._real = psutil.Process(), psutil.virtual_memory

    def memory_info(self) -> Process:
        found = self._real[0].memory_info()
        return Process(found.rss + self.stale, found.vms)

    def virtual_memory(self) -> Memory:
        return Memory(self._real[1]().available if self.available is None else self.available)

    def install(self, replace: Callable[[Any, str, Any], Any] = setattr) -> None:
        """Put these figures in the place of this machine's, with ``replace(object, name, value)``."""

        class FakePsutil:
            LINUX = False
            Process = staticmethod(lambda: self)
            virtual_memory = staticmethod(self.virtual_memory)

        replace(measure, "psutil", FakePsutil)
        replace(measure, "_STATUS", Path("/nowhere/status"))
        replace(measure, "_CLEAR_REFS", Path("/nowhere/clear_refs"))
        replace(limits, "_PROC_CGROUP", Path("/nowhere/cgroup"))


if __name__ == "__main__":
    figures = MacFigures()
    figures.install()
    exec(sys.argv[1], {"figures": figures})

"""How much memory this process has in use and the machine has left: psutil, and /proc for what only Linux tells."""

from __future__ import annotations

from pathlib import Path

import psutil

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """The resident set of this process now; see `freed_pages_leave` for what that means."""
    return int(psutil.Process().memory_info().rss)


def freed_pages_leave() -> bool:
    """Whether the resident set falls when memory is given back.

    It does on Linux. macOS may leave freed pages in it until another program wants them, and leaves buffers out that
    only the GPU has touched, so there it bounds nothing.
    """
    return bool(psutil.LINUX)


def virtual_bytes() -> int:
    """The address space in use now."""
    return int(psutil.Process().memory_info().vms)


def available_bytes() -> int:
    """Memory that the machine could give to its processes now without swapping."""
    return int(psutil.virtual_memory().available)


def reset_resident_peak() -> bool:
    """Start a new measurement of the resident peak.

    Returns:
        False where the system cannot do that, macOS for one: it only knows the peak since the process began.
    """
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def resident_peak_bytes() -> int | None:
    """Largest resident set since the last `reset_resident_peak`; None where that cannot be told."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

"""How much memory this process has used: resident peaks as the operating system reports them."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_resident_peak() -> bool:
    """Start a new measurement of the resident peak; False where the system can only report the peak since start."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def resident_peak_bytes() -> int:
    """Largest resident set since the last reset (Linux) or since the process began (elsewhere)."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

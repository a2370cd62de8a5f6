"""How much memory this process uses: resident and reserved bytes as the operating system reports them."""

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
    peak = _status("VmHWM:")
    if peak is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """The resident set now (Linux), or its peak so far (elsewhere)."""
    return _status("VmRSS:") or resident_peak_bytes()


def file_resident_bytes() -> int:
    """Pages of files in the resident set, which the system can take back; 0 where it does not tell."""
    return _status("RssFile:") or 0


def virtual_bytes() -> int:
    """The address space in use now; 0 where the system does not tell."""
    return _status("VmSize:") or 0


def _status(field: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

"""Memory that weights are read into asks for large pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized

MAPPINGS = Path("/proc/self/smaps")


def flags_of(address: int) -> list[str]:
    """The system's flags of the mapping that holds an address."""
    inside = False
    for line in MAPPINGS.read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.skipif(sys.platform != "linux" or "VmFlags" not in MAPPINGS.read_text(), reason="reads Linux's flags")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no large pages")
@pytest.mark.parametrize(("bytes_", "asks"), [(1 << 20, False), (64 << 20, True)], ids=["small", "large"])
def test_large_arrays_ask_for_large_pages(bytes_, asks):
    array = uninitialized((bytes_,), mx.uint8)
    view = writable_view(array)
    assert ("hg" in flags_of(view.ctypes.data + bytes_ // 2)) == asks
    view[:] = 7
    assert mx.all(array == 7).item()

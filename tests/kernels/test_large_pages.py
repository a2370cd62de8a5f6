"""Memory that weights are read into asks for large pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MAPPINGS = Path("/proc/self/smaps")
# In a process of its own: a small array may lie in memory for which a large one asked before.
FLAGS = """
import re
import sys
from pathlib import Path

import mlx.core as mx

from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized

array = uninitialized((int(sys.argv[1]),), mx.uint8)
view = writable_view(array)
middle, inside = view.ctypes.data + len(view) // 2, False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = int(bounds[1], 16) <= middle < int(bounds[2], 16)
    elif inside and line.startswith("VmFlags:"):
        print(line)
view[:] = 7
assert mx.all(array == 7).item()
"""


@pytest.mark.skipif(
    not MAPPINGS.exists() or "VmFlags" not in MAPPINGS.read_text(), reason="reads Linux's flags of mappings"
)
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no large pages")
@pytest.mark.parametrize(("nbytes", "asks"), [(1 << 20, False), (64 << 20, True)], ids=["small", "large"])
def test_large_arrays_ask_for_large_pages(nbytes: int, asks: bool) -> None:
    done = subprocess.run([sys.executable, "-c", FLAGS, str(nbytes)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (flags,) = done.stdout.splitlines()
    assert ("hg" in flags.split()) == asks

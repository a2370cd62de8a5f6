"""Memory that weights are read into asks for large pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ltx2rt.weights.safetensors import write_safetensors

MAPPINGS = Path("/proc/self/smaps")
# In a process of its own: a small array may lie in memory for which a large one asked before.
PROGRAM = """
import re
import sys
from pathlib import Path

import mlx.core as mx

from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.weights.safetensors import SafetensorsFile

if sys.argv[1].isdigit():
    array = uninitialized((int(sys.argv[1]),), mx.uint8)
else:
    array = SafetensorsFile(sys.argv[1]).mlx("weight")
    assert mx.array_equal(array[:: 1 << 16], mx.arange(array.size // (1 << 16)).astype(mx.uint8)).item()
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


pytestmark = [
    pytest.mark.skipif(
        not MAPPINGS.exists() or "VmFlags" not in MAPPINGS.read_text(), reason="reads Linux's flags of mappings"
    ),
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no large pages"
    ),
]


def asks_for_large_pages(array: str) -> bool:
    """Whether the memory of an array does: of so many bytes, or loaded from a file."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, array], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (flags,) = done.stdout.splitlines()
    return "hg" in flags.split()


@pytest.mark.parametrize(("nbytes", "asks"), [(1 << 20, False), (64 << 20, True)], ids=["small", "large"])
def test_large_arrays_ask_for_large_pages(nbytes: int, asks: bool) -> None:
    assert asks_for_large_pages(str(nbytes)) == asks


def test_weights_that_stay_in_memory_ask_for_large_pages(tmp_path: Path) -> None:
    weight = np.zeros((16, 1 << 20), np.uint8)
    weight.reshape(-1, 1 << 16)[:, 0] = np.arange(256)
    write_safetensors(tmp_path / "weights.safetensors", {"weight": weight.reshape(-1)}, {})
    assert asks_for_large_pages(str(tmp_path / "weights.safetensors"))

"""Working memory of the kernels: at most 64 MB on two threads whatever the size, and not more than predicted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ltx2rt import _ext
from ltx2rt.kernels.working_memory import attention_bytes, convolution_bytes, linear_bytes

MOST = 64 << 20
THREAD = 256 << 10
"""What `working_memory` books for a thread; other numbers of threads are taken out below."""


def for_two_threads(count: int) -> int:
    """Bytes of this process as two threads would need them; regions of convolutions are as large as `THREAD`."""
    return count + (2 - _ext.num_threads()) * 2 * THREAD


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("rows", [1, 126, 1024, 100_000])
def test_products_stay_within_64_megabytes(rows: int, itemsize: int) -> None:
    for depth in (2048, 4096, 16384, 15360):
        assert for_two_threads(linear_bytes(rows, depth, itemsize)) <= MOST


@pytest.mark.parametrize("queries", [1, 126, 4096, 60_000])
@pytest.mark.parametrize("keys", [126, 1024, 4096, 60_000])
def test_attention_stays_within_64_megabytes(queries: int, keys: int) -> None:
    for heads, size in ((32, 128), (32, 64), (8, 256)):
        assert for_two_threads(attention_bytes(2, heads, size, queries, keys)) <= MOST


@pytest.mark.parametrize("itemsize", [2, 4])
def test_convolutions_stay_within_64_megabytes(itemsize: int) -> None:
    for channels in (128, 512, 1024, 2048):
        assert for_two_threads(convolution_bytes(27 * channels * channels, itemsize)) <= MOST


PRODUCT = """
import resource
import mlx.core as mx
from ltx2rt.kernels import quantized_linear
from ltx2rt.types import LinearWeight

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

x, w = mx.zeros((6000, 4096), mx.bfloat16), LinearWeight("dense", mx.zeros((32, 4096), mx.bfloat16))
mx.eval(x, w.values, quantized_linear(x[:12], w))
before = peak()
out = quantized_linear(x, w)
mx.eval(out)
print(peak() - before - out.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_product_takes_what_is_predicted() -> None:
    environment = {**os.environ, "LTX2RT_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", PRODUCT], env=environment, capture_output=True, text=True, check=True)
    # Beside the kernel's buffers: pages of the allocator and of the second thread's stack.
    assert int(run.stdout) <= for_two_threads(linear_bytes(6000, 4096, 2)) + (4 << 20)

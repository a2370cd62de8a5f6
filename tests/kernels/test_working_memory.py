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


MEASURED = """
import resource
import mlx.core as mx
from ltx2rt.kernels import antialiased_snake, causal_conv3d, modulated_norm, quantized_linear, rope_attention
from ltx2rt.types import LinearWeight

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def zeros(*shape, dtype=mx.bfloat16):
    array = mx.zeros(shape, dtype)
    mx.eval(array)
    return array

def beyond(call, small, large):
    mx.eval(call(*small))
    before = peak()
    out = call(*large)
    mx.eval(out)
    print(peak() - before - out.nbytes)

"""
CALLS = {
    "quantized_linear": """
w = LinearWeight("dense", zeros(32, 4096))
x = zeros(6000, 4096)
beyond(lambda x: quantized_linear(x, w), [x[:12]], [x])
""",
    "rope_attention": """
q, k, v = zeros(1, 3000, 1024), zeros(1, 3000, 1024), zeros(1, 3000, 1024)
beyond(lambda *a: rope_attention(*a, num_heads=8), [a[:, :12] for a in (q, k, v)], [q, k, v])
""",
    "causal_conv3d": """
w = zeros(64, 3, 3, 3, 64)
x = zeros(1, 9, 96, 96, 64)
beyond(lambda x: causal_conv3d(x, w, padding=((2, 0), (1, 1), (1, 1))), [x[:, :, :6, :6]], [x])
""",
    "modulated_norm": """
x, scale = zeros(1, 20000, 1024), zeros(1, 1024)
beyond(lambda x: modulated_norm(x, scale=scale), [x[:, :12]], [x])
""",
    "antialiased_snake": """
x, values, taps = zeros(1, 100000, 128), zeros(128), zeros(12)
beyond(lambda x: antialiased_snake(x, values, values, taps, taps), [x[:, :32]], [x])
""",
}
# Pages of the allocator and of the second thread's stack.
OTHER_BYTES = 4 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("kernel", CALLS)
def test_what_a_kernel_takes_is_predicted_and_at_most_64_megabytes(kernel: str) -> None:
    environment = {**os.environ, "LTX2RT_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURED + CALLS[kernel]], env=environment, capture_output=True, text=True, check=True
    )
    predicted = {
        "quantized_linear": linear_bytes(6000, 4096, 2),
        "rope_attention": attention_bytes(1, 8, 128, 3000, 3000),
        "causal_conv3d": convolution_bytes(27 * 64 * 64, 2),
        "modulated_norm": 0,  # registers and a row
        "antialiased_snake": 0,  # tiles of a thread
    }[kernel]
    taken = int(run.stdout)
    assert taken <= MOST
    assert taken <= for_two_threads(predicted) + OTHER_BYTES

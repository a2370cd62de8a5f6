"""Launch code at the sizes of the published models, without computing anything: every dispatch keeps the limit."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from unittest import mock

import mlx.core as mx
import pytest
from simulated_kernels import simulated_kernels

from ltx2rt.kernels import causal_conv3d, neighborhood_attention, quantized_linear, rope_attention, shifted_frames
from ltx2rt.types import LinearWeight
from tools.metal_sim.device import Given, SimulatedDevice, Triple

LIMIT = 25 * 10**9  # kMostOperationsPerDispatch
TOKENS = 6144  # of 121 frames of 768 x 512


def dispatched(call: Callable[[], mx.array]) -> list[tuple[str, Triple]]:
    """Kernel and grid of each dispatch; outputs become zeros."""
    found: list[tuple[str, Triple]] = []

    def record(device: SimulatedDevice, source: str, kernel: str, constants: object, arguments: dict[int, Given],
               threadgroup_memory: object, grid: Triple, group: Triple, grid_is_threads: bool) -> None:  # fmt: skip
        found.append((kernel, grid))
        for argument in arguments.values():
            if isinstance(argument, tuple) and argument[4]:
                address, size, *_ = argument
                ctypes.memset(address, 0, size)

    with mock.patch.object(SimulatedDevice, "__call__", record), simulated_kernels():
        mx.eval(call())
    return found


def ones(*shape: int) -> mx.array:
    return mx.ones(shape, mx.bfloat16)


@pytest.mark.parametrize(
    ("kernel", "call", "operations_per_threadgroup", "operations"),
    [
        (
            "rope_attention_bfloat16_128",
            lambda: rope_attention(*(ones(1, TOKENS, 4096) for _ in range(3)), num_heads=32),
            4 * 64 * TOKENS * 128,
            4 * TOKENS**2 * 4096,
        ),
        (
            "neighborhood_attention_bfloat16",  # the last stage of the diffusion decoder, 25 frames of 256 x 256
            lambda: neighborhood_attention(
                *(ones(1, 25, 64, 64, 256) for _ in range(3)), shifted_frames(25, 11), num_heads=4, window=(11, 11)
            ),
            4 * 128 * 22 * 12 * 14 * 64,
            4 * 25 * 64 * 64 * 11**3 * 256,
        ),
        (
            "linear_tile_bfloat16_bfloat16_128x64",
            lambda: quantized_linear(ones(TOKENS, 4096), LinearWeight("dense", ones(8192, 4096))),
            2 * 128 * 64 * 4096,
            2 * TOKENS * 4096 * 8192,
        ),
        (
            "linear_tile_bfloat16_bfloat16_128x64",  # one row of tiles is too much; sums in two parts
            lambda: quantized_linear(ones(100, 65536), LinearWeight("dense", ones(2048, 65536))),
            2 * 128 * 64 * 65536 // 2,
            2 * 128 * 2048 * 65536,
        ),
        (
            "causal_conv3d_bfloat16_128x64",
            lambda: causal_conv3d(ones(1, 9, 128, 192, 128), ones(128, 3, 3, 3, 128), padding=((2, 0), (1, 1), (1, 1))),
            2 * 128 * 64 * 27 * 128,
            2 * 9 * 128 * 192 * 27 * 128 * 128,
        ),
    ],
    ids=["attention", "neighborhood", "linear", "deep linear", "convolution"],
)
def test_no_dispatch_exceeds_the_limit(
    kernel: str, call: Callable[[], mx.array], operations_per_threadgroup: int, operations: int
) -> None:
    grids = [grid for name, grid in dispatched(call) if name == kernel]
    work = [math.prod(grid) * operations_per_threadgroup for grid in grids]
    assert max(work) <= LIMIT
    assert sum(work) >= operations
    assert len(grids) <= 2 * math.ceil(sum(work) / LIMIT)  # and few are much smaller

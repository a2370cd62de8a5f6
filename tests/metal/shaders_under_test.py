"""Our shaders, and what their tests share: random operands in a dtype, launching an op, and the accuracy rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from simulated_kernels import simulated_kernels

from tools.metal_sim import Argument, Counters, Result, from_bits, run, to_bits
from tools.metal_sim.device import Dispatch

ROOT = Path(__file__).parents[2]
DTYPES = ["float32", "float16", "bfloat16"]
# Numbers of csrc/metal/shared_types.h.
ELEMENT_TYPE = {None: -1, "float32": 0, "float16": 1, "bfloat16": 2}
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def launch(
    shader: str,
    kernel: str,
    buffers: dict[int, Argument | None],
    grid: tuple[int, int, int],
    group: tuple[int, int, int],
    constants: dict[str, Any],
    **options: Any,
) -> Result:
    """Runs a kernel of ``csrc/metal/SHADER.metal`` as Metal would see it; absent buffers are not bound."""
    given = {index: buffer for index, buffer in buffers.items() if buffer is not None}
    path = ROOT / f"csrc/metal/{shader}.metal"
    return run(path, kernel, given, grid, group, constants, strict=True, include=[ROOT], **options)


def as_mlx(bits: np.ndarray, dtype: str) -> mx.array:
    """An array of values of ``dtype`` from their bits as numpy stores them."""
    a = mx.array(bits)
    return a.view(mx.bfloat16) if dtype == "bfloat16" else a


@dataclass(frozen=True)
class Launched:
    """What an op's launch code made: the bits of its output, and its dispatches in order."""

    bits: np.ndarray
    dispatches: list[Dispatch]

    @property
    def kernels(self) -> list[str]:
        return [d.kernel for d in self.dispatches]

    @property
    def counters(self) -> list[Counters]:
        return [d.counters for d in self.dispatches]


def launched(call: Callable[[], mx.array], **options: Any) -> Launched:
    """Evaluates an op of ``ltx2rt.kernels`` on the simulated device; ``options`` are those of `simulated_kernels`.

    Raises:
        SimulationError: if a dispatch had findings.
    """
    with simulated_kernels(**options) as device:
        out = call()
        mx.eval(out)
    bits = np.array(out.view(mx.uint16)) if out.dtype == mx.bfloat16 else np.array(out)
    return Launched(bits, device.dispatches)


class Operand:
    """Random values stored in a dtype: ``bits`` as the kernel sees them, ``exact`` as float64."""

    def __init__(self, shape: tuple[int, ...], dtype: str, seed: int, scale: float = 1.0, shift: float = 0.0) -> None:
        values = np.random.default_rng(seed).standard_normal(shape) * scale + shift
        self.dtype = dtype
        self.bits = to_bits(values, dtype)
        self.exact = from_bits(self.bits, dtype).astype(np.float64)
        self.strided: mx.array | None = None  # the same values in another layout, for the launch

    @property
    def mlx(self) -> mx.array:
        return as_mlx(self.bits, self.dtype) if self.strided is None else self.strided


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 values after one rounding to ``dtype``: one step of plain low-precision code."""
    return from_bits(to_bits(values.astype(np.float32), dtype), dtype).astype(np.float64)


def given(operand: Operand | None) -> mx.array | None:
    """The operand as an array, None for one that is absent."""
    return None if operand is None else operand.mlx


def assert_accurate(result: Launched, dtype: str, exact: np.ndarray, plain: np.ndarray) -> None:
    """At most twice as far from ``exact`` as plain code of the same dtype.

    ``plain`` is what code computes that rounds each intermediate array to the dtype; for float32 a little more is
    allowed, because numpy's plain code sums pairwise.
    """
    values = from_bits(result.bits, dtype).astype(np.float64).reshape(exact.shape)
    largest = np.abs(exact).max()
    budget = 2 * np.abs(plain - exact).max() + (4e-6 if dtype == "float32" else 1e-6) * largest
    assert np.abs(values - exact).max() <= budget, (np.abs(values - exact).max(), budget)

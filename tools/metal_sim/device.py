"""Runs what the fake Metal device is given: each dispatch of the launch code, in the simulator."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from tools.metal_sim.bfloat16 import storage_dtype
from tools.metal_sim.run import Argument, Counters, In, Inline, Out, Prepared, SimulationError, prepare, run_prepared

# What the module hands over for an argument: bytes set inline; or address, size, offset, dtype, and if it is written.
Given = bytes | tuple[int, int, int, str, bool]
Triple = tuple[int, int, int]


PREPARING = ("specialise", "strict", "mode", "arithmetic")
# What this process has compiled and loaded: a pipeline asks for the same kernels thousands of times.
_kernels: dict[Any, Prepared] = {}


@dataclass(frozen=True)
class Dispatch:
    """One dispatch as it was run."""

    kernel: str
    constants: dict[int, bool | int | float]
    grid: Triple
    group: Triple
    counters: Counters


def _memory(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)


def _array(given: Given) -> Argument:
    if isinstance(given, bytes):
        return Inline(given)
    address, size, offset, dtype, written = given
    if not written:
        return In(_memory(address, size), offset)
    # The bytes before an output's first element are never part of it, and outputs are contiguous arrays.
    step = np.dtype(storage_dtype(dtype)).itemsize
    return Out((size // step,), dtype, offset, partial=True)


@dataclass
class SimulatedDevice:
    """Executes dispatches and keeps what they did; ``options`` are those of `tools.metal_sim.run`."""

    options: dict[str, Any] = field(default_factory=dict)
    dispatches: list[Dispatch] = field(default_factory=list)

    def __call__(
        self,
        source: str,
        kernel: str,
        constants: Mapping[int, bool | int | float],
        arguments: Mapping[int, Given],
        threadgroup_memory: Mapping[int, int],
        grid: Triple,
        group: Triple,
        grid_is_threads: bool,
    ) -> None:
        options = {"strict": True, **self.options}
        preparing = {name: options.pop(name) for name in PREPARING if name in options}
        key = (source, kernel, tuple(constants.items()), tuple(preparing.items()))
        if key not in _kernels:
            _kernels[key] = prepare(source, kernel, dict(constants), **preparing)
        prepared = _kernels[key]
        unbound = prepared.buffers() - set(arguments)
        if unbound:
            raise SimulationError(f"{kernel}: arguments {sorted(unbound)} are not bound.")
        given = {index: _array(argument) for index, argument in arguments.items()}
        options["grid_is_threads"] = grid_is_threads
        result = run_prepared(prepared, given, grid, group, threadgroup_memory=threadgroup_memory, **options)
        try:
            result.check()
        except SimulationError as error:
            raise SimulationError(f"{kernel}, grid {grid} of {group}, {dict(constants)}: {error}") from None
        for index, argument in arguments.items():
            if isinstance(argument, bytes) or not argument[4]:
                continue
            # The fake encoder fills outputs with ones, and so does the simulator: what no thread of this dispatch
            # wrote keeps what an earlier one has written.
            bits = np.dtype(f"u{result.outputs[index].dtype.itemsize}")
            made = result.outputs[index].view(bits)
            np.copyto(_memory(argument[0], made.nbytes).view(bits), made, where=made != np.iinfo(bits).max)
        self.dispatches.append(Dispatch(kernel, dict(constants), grid, group, result.counters))


@contextmanager
def simulated(module: ModuleType, **options: Any) -> Iterator[SimulatedDevice]:
    """Runs the ops of ``_ext_metal_sim`` in the simulator while the context is open."""
    device = SimulatedDevice(options)
    module.set_executor(device)
    try:
        yield device
    finally:
        module.set_executor(None)

"""Puts the simulated Metal device under ltx2rt's kernels, so that unchanged graphs run on it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any
from unittest import mock

from tools.metal_sim.device import SimulatedDevice, simulated
from tools.metal_sim.extension import simulated_extension

OPS = [
    *("antialiased_snake", "causal_conv3d", "modulated_norm", "neighborhood_attention", "quantized_linear"),
    "rope_attention",
]
FENCED_OPS = ("causal_conv3d", "neighborhood_attention", "quantized_linear", "rope_attention")


class _Variant:
    """The module with ``fenced`` or ``half_operands`` set for the ops that take it."""

    def __init__(self, module: ModuleType, fenced: bool, half: bool) -> None:
        for op in OPS:
            changed = {"fenced": True} if fenced and op in FENCED_OPS else {}
            if half and op == "quantized_linear":
                changed["half_operands"] = True
            setattr(self, op, partial(self._changed, getattr(module, op), changed))

    @staticmethod
    def _changed(function: Callable[..., Any], changed: dict[str, bool], *args: Any, **options: Any) -> Any:
        return function(*args, **{**options, **changed})


@contextmanager
def simulated_kernels(
    most_operations: int = 0,
    slab_bytes: int = 0,
    reach: int = 0,
    least_depth_in_parts: int = 0,
    most_threads: int = 0,
    fenced: bool = False,
    half: bool = False,
    **options: Any,
) -> Iterator[SimulatedDevice]:
    """Every kernel of ``ltx2rt.kernels`` runs its launch code on the device that is yielded; evaluate arrays inside.

    Args:
        most_operations: cuts dispatches at another limit than the product's.
        slab_bytes: cuts slabs of expanded weights at another size than the product's.
        least_depth_in_parts: sums over fewer values in parts than the product does.
        reach: elements that launch code believes shaders to reach, fewer than they do.
        most_threads: what pipelines allow per threadgroup; 0 for 1024.
        fenced: builds the variants with scheduling fences, where an op has them.
        half: builds products of float16 operands, where an op has them.
        options: the simulator's.
    """
    module = simulated_extension()
    modules = [importlib.import_module(f"ltx2rt.kernels.{op}") for op in OPS]
    module.set_most_operations_per_dispatch(most_operations)
    module.set_slab_bytes(slab_bytes)
    module.set_reach(reach)
    module.set_least_depth_in_parts(least_depth_in_parts)
    module.set_most_threads_per_threadgroup(most_threads)
    try:
        with simulated(module, **options) as device, ExitStack() as patches:
            ext = _Variant(module, fenced, half) if fenced or half else module
            for changed in modules:
                patches.enter_context(mock.patch.object(changed, "ext", ext))
            yield device
    finally:
        module.set_most_operations_per_dispatch(0)
        module.set_slab_bytes(0)
        module.set_reach(0)
        module.set_least_depth_in_parts(0)
        module.set_most_threads_per_threadgroup(0)

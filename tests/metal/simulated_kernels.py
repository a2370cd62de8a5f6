"""Puts the simulated Metal device under ltx2rt's kernels, so that unchanged graphs run on it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from tools.metal_sim.device import SimulatedDevice, simulated
from tools.metal_sim.extension import simulated_extension

OPS = ["antialiased_snake", "causal_conv3d", "modulated_norm", "quantized_linear", "rope_attention"]


@contextmanager
def simulated_kernels(most_operations: int = 0, **options: Any) -> Iterator[SimulatedDevice]:
    """Every kernel of ``ltx2rt.kernels`` runs its launch code on the device that is yielded; evaluate arrays inside.

    ``most_operations`` cuts dispatches at another limit than the product's; ``options`` are the simulator's.
    """
    module = simulated_extension()
    modules = [importlib.import_module(f"ltx2rt.kernels.{op}") for op in OPS]
    module.set_most_operations_per_dispatch(most_operations)
    try:
        with simulated(module, **options) as device, ExitStack() as patches:
            for changed in modules:
                patches.enter_context(mock.patch.object(changed, "ext", module))
            yield device
    finally:
        module.set_most_operations_per_dispatch(0)

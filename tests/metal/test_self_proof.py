"""The self-proof with the product's launch code on the simulated device: sound, wrong and uncompilable shaders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated_kernels import simulated_kernels

from ltx2rt.kernels import modulated_norm, neighborhood_attention, quantized_linear, rope_attention
from ltx2rt.kernels.gpu_device import GpuDevice
from ltx2rt.kernels.kernel_choice import KernelChoice
from ltx2rt.kernels.proof import DeviceRunner
from ltx2rt.kernels.variants import AttentionVariant, LinearVariant, NeighborhoodVariant, NormVariant
from tools.metal_sim.extension import simulated_extension

DEVICE = GpuDevice("Simulated", "applegpu_g13s", "15.0")
NORM = NormVariant("bfloat16", "rms", "float32", "bfloat16", True)


class Device(DeviceRunner):
    """Times mean nothing in the simulator."""

    def seconds(self, front_end: Any, implementation: Any, problem: Any) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("front_end", "variant"),
    [
        (modulated_norm, NORM),
        (quantized_linear, LinearVariant("float16", "int8", 32, "float16", 4, "float16", "gelu_tanh")),
        (quantized_linear, LinearVariant("bfloat16", "q6_k", rows=4)),
        (quantized_linear, LinearVariant("bfloat16", rows=32, bias="bfloat16", half=True)),
        pytest.param(
            quantized_linear, LinearVariant("bfloat16", rows=32, residual=True, in_parts=True), marks=pytest.mark.slow
        ),
        (quantized_linear, LinearVariant("bfloat16", "int8_rows", rows=32, bias="bfloat16", rotation=256)),
        (quantized_linear, LinearVariant("float16", "w4a8", 16, rows=64, rotation=64)),
        (
            neighborhood_attention,
            NeighborhoodVariant("bfloat16", 64, 3, (3, 5), ("mask", "replicate"), "bfloat16", "bfloat16", (8, 12, 12)),
        ),
        (rope_attention, AttentionVariant("bfloat16", 64, False, False, "row", "row", 3, 3, "split")),
    ],
    ids=lambda value: getattr(value, "op", ""),
)
def test_launch_code_and_shaders_prove_themselves(front_end: Any, variant: Any, tmp_path: Path) -> None:
    with simulated_kernels() as device:
        outcome = KernelChoice(DEVICE, tmp_path, Device()).outcome(front_end, variant)
        assert outcome.choice == "kernel", outcome
        assert 0 < outcome.error <= outcome.tolerance
        assert any(variant.op in d.kernel or "linear" in d.kernel for d in device.dispatches)


def wrong(source: str) -> str:
    assert "precise::rsqrt(" in source
    return source.replace("precise::rsqrt(", "1.25f * precise::rsqrt(")


def uncompilable(source: str) -> str:
    return source + "\nkernel void unfinished(\n"


@pytest.mark.parametrize(
    ("change", "fault"), [(wrong, "differs from the reference by"), (uncompilable, "does not run: ")]
)
def test_faulty_shaders_are_replaced_with_one_warning(
    change: Callable[[str], str], fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with simulated_kernels() as device:
        simulated_extension().set_executor(lambda source, *rest: device(change(source), *rest))
        chooser = KernelChoice(DEVICE, tmp_path, Device())
        for _ in range(2):
            assert chooser.choose(modulated_norm, NORM) == "reference"
        assert fault in chooser.outcome(modulated_norm, NORM).fault
    assert len(caplog.records) == 1

"""Every kernel against its reference on this machine: the variants that the models use, and what else they may meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ltx2rt.kernels import antialiased_snake, causal_conv3d, modulated_norm, quantized_linear, rope_attention
from ltx2rt.kernels.kernel_choice import metal_kernels
from ltx2rt.kernels.proof import DeviceRunner, FrontEnd, prove
from ltx2rt.kernels.proof_store import Outcome
from ltx2rt.kernels.variants import AttentionVariant, ConvVariant, LinearVariant, NormVariant, SnakeVariant, Variant

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class KernelResult:
    """One variant and what proving it found."""

    variant: str
    outcome: Outcome

    @property
    def passed(self) -> bool:
        return not self.outcome.fault

    def as_dict(self) -> dict[str, Any]:
        return {"variant": self.variant, **asdict(self.outcome)}


def variants(dtype: str) -> list[tuple[FrontEnd, Variant]]:
    """The variants of one activation dtype."""
    edges = ("edge", "zeros", "zeros")
    chosen: list[tuple[FrontEnd, Variant]] = [
        (modulated_norm, NormVariant(dtype)),
        (modulated_norm, NormVariant(dtype, "rms", "float32", "float32", True)),
        (modulated_norm, NormVariant(dtype, "layer", dtype, dtype)),
        (modulated_norm, NormVariant(dtype, "none", dtype, dtype, True)),
    ]
    for rows in (4, 32, 0):
        chosen += [
            (quantized_linear, LinearVariant(dtype, dtype, rows=rows, bias=dtype)),
            (quantized_linear, LinearVariant(dtype, "bfloat16", rows=rows, bias="bfloat16", activation="gelu_tanh")),
            (quantized_linear, LinearVariant(dtype, "e4m3", rows=rows, bias="bfloat16")),
            (quantized_linear, LinearVariant(dtype, "int8", 64, dtype, rows, dtype, "silu")),
            (quantized_linear, LinearVariant(dtype, "int4", 32, dtype, rows, "", "", True, "float32", True)),
        ]
    for head in (64, 128):
        chosen += [
            (rope_attention, AttentionVariant(dtype, head)),
            (rope_attention, AttentionVariant(dtype, head, bias=dtype)),
            (rope_attention, AttentionVariant(dtype, head, False, True, "row", "row", 3, 3, "split")),
            (rope_attention, AttentionVariant(dtype, head, False, False, "row", "row", 1, 1, "split", "", dtype)),
            (rope_attention, AttentionVariant(dtype, head, True, False, "head", "head", -1, -1, "split", causal=True)),
            (rope_attention, AttentionVariant(dtype, head, False, False, "row", "row", 3, 3, "interleaved")),
        ]
    return [
        *chosen,
        (antialiased_snake, SnakeVariant(dtype)),
        (causal_conv3d, ConvVariant(dtype, dtype, bias=dtype)),
        (causal_conv3d, ConvVariant(dtype, dtype, (3, 3, 3), modes=edges, bias=dtype, residual=True)),
        (
            causal_conv3d,
            ConvVariant(dtype, dtype, (3, 3, 3), modes=edges, bias=dtype, pixel_norm=True, activation="silu"),
        ),
        (causal_conv3d, ConvVariant(dtype, dtype, (3, 3, 3), modes=("edge", "reflect", "reflect"), halo=True)),
        (causal_conv3d, ConvVariant(dtype, dtype, (3, 3, 3), (2, 2, 2), modes=edges, scale=dtype, shift=dtype)),
        (causal_conv3d, ConvVariant(dtype, dtype, (1, 3, 3), modes=("none", "zeros", "zeros"), activation="silu")),
        (
            causal_conv3d,
            ConvVariant(
                dtype,
                dtype,
                (1, 1, 7),
                dilation=(1, 1, 3),
                modes=("none", "none", "zeros"),
                bias=dtype,
                activation="leaky_relu",
            ),
        ),
    ]


def run_kernels(only: str = "") -> Iterator[KernelResult]:
    """Proves, anew, every variant whose key contains ``only``.

    On a Metal GPU outcomes, with times, are kept for later runs, in place of what was known. On a CPU kernels are
    compared only; which is used there was decided by measurement.
    """
    metal = metal_kernels()
    if metal is not None and not only:
        metal.store.forget()
    for dtype in DTYPES:
        for front_end, variant in variants(dtype):
            if only not in variant.key:
                continue
            if metal is not None:
                outcome = metal.outcome(front_end, variant, again=True)
            else:
                outcome = prove(front_end, variant, DeviceRunner(), timed=False)
            yield KernelResult(variant.key, outcome)

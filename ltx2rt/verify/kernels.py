"""Every kernel against its reference on this machine: the variants that the models use, and what else they may meet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any, get_args

import mlx.core as mx

from ltx2rt.kernels import (
    antialiased_snake,
    causal_conv3d,
    half_operands,
    modulated_norm,
    neighborhood_attention,
    quantized_linear,
    rope_attention,
)
from ltx2rt.kernels.kernel_choice import metal_kernels
from ltx2rt.kernels.proof import DeviceRunner, FrontEnd, prove
from ltx2rt.kernels.proof_store import Outcome
from ltx2rt.kernels.variants import (
    AttentionVariant,
    ConvVariant,
    LinearVariant,
    NeighborhoodVariant,
    NormVariant,
    SnakeVariant,
    Variant,
)
from ltx2rt.types import Activations
from ltx2rt.verify.activation_errors import ROTATIONS, activation_errors
from ltx2rt.verify.kernel_stress import STRESSED, far_buffer, far_operands_fault, launch_order_fault

_FRONT_ENDS: dict[str, tuple[FrontEnd, type[Variant]]] = {
    "modulated_norm": (modulated_norm, NormVariant),
    "quantized_linear": (quantized_linear, LinearVariant),
    "rope_attention": (rope_attention, AttentionVariant),
    "neighborhood_attention": (neighborhood_attention, NeighborhoodVariant),
    "causal_conv3d": (causal_conv3d, ConvVariant),
    "antialiased_snake": (antialiased_snake, SnakeVariant),
}
DTYPES = ("bfloat16", "float16", "float32")
# Packed weights that published files do not rotate.
_UNROTATED = ("q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8")


@dataclass(frozen=True)
class KernelResult:
    """One variant, or a check of one under stress, and what was found; ``skipped`` says why nothing was compared."""

    variant: str
    outcome: Outcome
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return not self.outcome.fault and not self.skipped

    def as_dict(self) -> dict[str, Any]:
        return {"variant": self.variant, **asdict(self.outcome), "skipped": self.skipped}


def model_variants() -> list[tuple[FrontEnd, Variant]]:
    """What the graphs of LTX-2 19B, 2.3 and 2.5 use in bfloat16, with weights in every published form.

    ``model_variants.json`` lists them; tests/metal/test_published_graphs.py derives them from the graphs. Where
    products of float16 operands are tried, weights are those that fit.
    """
    listed = json.loads(resources.files("ltx2rt.verify").joinpath("model_variants.json").read_text("utf-8"))
    found = []
    for op, options in listed:
        front_end, kind = _FRONT_ENDS[op]
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
        }
        variant = kind(**fields)
        if isinstance(variant, LinearVariant) and half_operands.are_tried():
            variant = replace(variant, half=variant.has_fences and variant.dtype != "float32")
        found.append((front_end, variant))
    return found


def variants(dtype: str) -> list[tuple[FrontEnd, Variant]]:
    """A choice of variants of one activation dtype: every op's options, also those that no published model uses."""
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
            (quantized_linear, LinearVariant(dtype, "e4m3", 1, rows=rows, bias=dtype)),
            (quantized_linear, LinearVariant(dtype, "int8_rows", rows=rows, bias=dtype, rotation=64)),
            (quantized_linear, LinearVariant(dtype, "w4a8", 16, rows=rows, activation="silu", rotation=256)),
            *((quantized_linear, LinearVariant(dtype, kind, rows=rows)) for kind in _UNROTATED),
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
    pairs = (8, 12, 12)
    return [
        *chosen,
        (neighborhood_attention, NeighborhoodVariant(dtype, 64, 3, (5, 5))),
        (neighborhood_attention, NeighborhoodVariant(dtype, 64, 5, (3, 7), ("mask", "mask"), dtype, dtype, pairs)),
        (neighborhood_attention, NeighborhoodVariant(dtype, 64, 4, (7, 4), ("replicate", "shift"), "", dtype, pairs)),
        (neighborhood_attention, NeighborhoodVariant(dtype, 32, 3, (5, 5), rope=(4, 6, 6))),
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
    every = model_variants() + [pair for dtype in DTYPES for pair in variants(dtype)]
    for front_end, variant in dict.fromkeys(every):
        if only not in variant.key:
            continue
        if metal is not None:
            outcome = metal.outcome(front_end, variant, again=True)
        else:
            outcome = prove(front_end, variant, DeviceRunner(), timed=False, metal=False)
        yield KernelResult(variant.key, outcome)
    yield from _activations(only, has_codes=metal is None)
    yield from _stress(only)


def _activations(only: str, *, has_codes: bool) -> Iterator[KernelResult]:
    """8-bit weights and both choices of what they are multiplied with; a GPU has no products of 8-bit codes."""
    for form in ROTATIONS:
        names = {activations: f"--activations {activations}: {form}" for activations in get_args(Activations)}
        wanted = {activations for activations, name in names.items() if only in name}
        if not has_codes:
            for activations in sorted(wanted):
                reason = "8-bit activations are for processors"
                yield KernelResult(names[activations], Outcome("kernel"), skipped=reason)
        elif wanted:
            for activations, outcome in activation_errors(form):
                if activations in wanted:
                    yield KernelResult(names[activations], outcome)


def _stress(only: str) -> Iterator[KernelResult]:
    """Every op behind work in flight, and over operands far inside a large buffer; see `kernel_stress`."""
    for front_end, variant in STRESSED:
        name = f"launch order: {variant.key}"
        if only in name:
            yield _stressed(name, launch_order_fault(front_end, variant))
    named = [(f"beyond 2**31 elements: {variant.key}", front_end, variant) for front_end, variant in STRESSED]
    if not any(only in name for name, *_ in named):
        return
    made = far_buffer()
    for name, front_end, variant in named:
        if only not in name:
            continue
        if isinstance(made, str):
            yield KernelResult(name, Outcome("kernel"), skipped=made)
        else:
            yield _stressed(name, far_operands_fault(front_end, variant, *made))
    del made
    mx.clear_cache()  # the buffer is too large to be kept for a later array


def _stressed(name: str, fault: str) -> KernelResult:
    """Exact: the bits are compared."""
    return KernelResult(name, Outcome("kernel", 0.0 if not fault else -1.0, 0.0, fault=fault))

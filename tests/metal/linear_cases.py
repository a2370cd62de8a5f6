"""Cases of quantized_linear: their operands, launching them, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import packed_weights
from shaders_under_test import ELEMENT_TYPE, Launched, Operand, as_mlx, given, launched, rounded

from ltx2rt.kernels import proof_problems, quantized_linear
from ltx2rt.types import LinearWeight
from tools.metal_sim import from_bits, to_bits

FACTOR = 0.0037
GROUP_SIZE = 32


@dataclass
class Weight:
    """W (N, K) as it is stored, and its exact values; those of a rotated x where there is a ``rotation``.

    ``packed`` holds the arrays of a packed format, in place of the others.
    """

    format: str
    stored: np.ndarray
    exact: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    group_type: str | None = None
    packed: LinearWeight | None = None
    rotation: int = 0
    spare_bytes: int = 0  # in front of the values of a packed format, so that they begin at an odd place


def packed_weight(format_: str, columns: int, depth: int, seed: int, group_size: int = 16, rotation: int = 0) -> Weight:
    """A random weight of a packed format; ``e4m3_rows`` is E4M3 with a scale for each row."""
    if format_ == "e4m3_rows":
        plain = random_weight("e4m3", columns, depth, seed)
        scale = (FACTOR * np.random.default_rng(seed).uniform(0.5, 1.5, columns)).astype(np.float32)
        exact = packed_weights.e4m3(plain.stored) * scale.astype(np.float64)[:, None]
        packed = LinearWeight("e4m3", mx.array(plain.stored), mx.array(scale), rotation=rotation)
        return Weight(format_, plain.stored, exact, packed=packed, rotation=rotation)
    packed = proof_problems.packed_weight(format_, columns, depth, seed, group_size)
    stored, scale, zero, table = (
        None if a is None else np.array(a) for a in (packed.values, packed.scale, packed.zero, packed.table)
    )
    if format_ == "int8_rows":
        exact = packed_weights.int8_rows(stored, scale)
    elif format_ == "nvfp4":
        exact = packed_weights.nvfp4(stored, scale, float(zero))
    elif format_ == "mxfp8":
        exact = packed_weights.mxfp8(stored, scale)
    elif format_ == "w4a8":
        exact = packed_weights.w4a8(stored, scale, zero, table, group_size)
    else:
        exact = packed_weights.ggml(format_, stored)
    return Weight(format_, stored, exact, packed=packed._replace(rotation=rotation), rotation=rotation)


def random_weight(format_: str, columns: int, depth: int, seed: int, group_type: str = "bfloat16") -> Weight:
    if format_ in ELEMENT_TYPE:
        dense = Operand((columns, depth), format_, seed, 0.1)
        return Weight(format_, dense.bits, dense.exact)
    values = np.random.default_rng(seed).standard_normal((columns, depth)).astype(np.float32)
    if format_ == "e4m3":
        codes = mx.to_fp8(mx.array(values * 40))
        exact = np.array(mx.from_fp8(codes, mx.float32)).astype(np.float64) * np.float32(FACTOR)
        return Weight(format_, np.array(codes), exact, scale=np.array([FACTOR], np.float32))
    bits = int(format_[3:])
    codes, scale, zero = (np.array(a) for a in mx.quantize(mx.array(values * 0.1), group_size=GROUP_SIZE, bits=bits))
    per_word = 32 // bits
    spread = codes[..., None] >> (bits * np.arange(per_word, dtype=np.uint32)) & (2**bits - 1)
    scale_bits, zero_bits = to_bits(scale, group_type), to_bits(zero, group_type)
    scale64, zero64 = (from_bits(b, group_type).astype(np.float64) for b in (scale_bits, zero_bits))
    exact = spread.reshape(columns, -1, GROUP_SIZE) * scale64[..., None] + zero64[..., None]
    return Weight(format_, codes, exact.reshape(columns, depth), scale_bits, zero_bits, group_type)


@dataclass
class Case:
    """The operands of one call; absent ones are None. x is (M, K) inside rows of ``x_row_stride`` elements."""

    x: Operand
    weight: Weight
    bias: Operand | None = None
    activation: str = "none"
    residual: Operand | None = None
    gate: Operand | None = None
    gate_index: np.ndarray | None = None
    x_offset: int = 0
    x_row_stride: int = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, N, K."""
        columns, depth = self.weight.exact.shape
        return self.x.exact.shape[0], columns, depth

    @property
    def x_exact(self) -> np.ndarray:
        rows, _, depth = self.sizes
        stride = self.x_row_stride or depth
        flat = self.x.exact.reshape(-1)[self.x_offset :]
        return np.stack([flat[r * stride :][:depth] for r in range(rows)])

    def formula(self, dtype: str | None = None) -> np.ndarray:
        """In float64, or as plain code that rounds every array to ``dtype``."""

        def step(values: np.ndarray) -> np.ndarray:
            return values if dtype is None else rounded(values, dtype)

        x, rotation = self.x_exact, self.weight.rotation
        if rotation:
            x = step((x.reshape(-1, rotation) @ packed_weights.rotation_matrix(rotation)).reshape(x.shape))
        out = step(x @ step(self.weight.exact).T)
        if self.bias is not None:
            out = step(out + self.bias.exact)
        if self.activation == "gelu_tanh":
            out = step(0.5 * out * (1 + step(np.tanh(np.sqrt(2 / np.pi) * step(out + 0.044715 * out**3)))))
        elif self.activation == "silu":
            out = step(out * step(1 / (1 + np.exp(-out))))
        if self.gate is not None:
            out = step(out * self.gate.exact[0 if self.gate_index is None else self.gate_index])
        if self.residual is not None:
            out = step(self.residual.exact + out)
        return out


def product(case: Case, **options: Any) -> Launched:
    """quantized_linear of the case on the simulated device."""
    rows, _, depth = case.sizes
    w = case.weight
    if w.packed is not None:
        values = mx.concatenate([mx.zeros((w.spare_bytes,), w.packed.values.dtype), w.packed.values.reshape(-1)])
        mx.eval(values)
        weight = w.packed._replace(values=values[w.spare_bytes :].reshape(w.packed.values.shape))
    elif w.format in ELEMENT_TYPE:
        weight = LinearWeight("dense", as_mlx(w.stored, w.format))
    elif w.format == "e4m3":
        weight = LinearWeight("e4m3", mx.array(w.stored), mx.array(w.scale))
    else:
        scale, zero = (as_mlx(a, str(w.group_type)) for a in (w.scale, w.zero))
        weight = LinearWeight("affine", mx.array(w.stored), scale, zero, GROUP_SIZE, int(w.format[3:]))
    flat = as_mlx(case.x.bits.reshape(-1), case.x.dtype)
    x = mx.as_strided(flat, (rows, depth), (case.x_row_stride or depth, 1), case.x_offset)
    return launched(
        lambda: quantized_linear(
            x,
            weight,
            given(case.bias),
            activation=None if case.activation == "none" else case.activation,
            residual=given(case.residual),
            gate=given(case.gate),
            gate_index=None if case.gate_index is None else mx.array(case.gate_index.astype(np.int32)),
        ),
        **options,
    )

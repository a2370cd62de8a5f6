"""Launches the shaders of quantized_linear as their host does, and computes what they should give."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from shaders_under_test import ELEMENT_TYPE, ITEMSIZE, Operand, launch, rounded

from tools.metal_sim import In, Inline, Out, Result, from_bits, to_bits

FORMATS = ELEMENT_TYPE | {"e4m3": 3, "int8": 4, "int4": 5}
ACTIVATIONS = {"none": 0, "gelu_tanh": 1, "silu": 2}
FACTOR = 0.0037
GROUP_SIZE, GROUP_SHIFT = 32, 5


@dataclass
class Weight:
    """W (N, K) as it is stored, and its exact values."""

    format: str
    stored: np.ndarray
    exact: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    group_type: str | None = None


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

        out = step(self.x_exact @ step(self.weight.exact).T)
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

    def constants(self) -> dict[str, Any]:
        _, columns, depth = self.sizes
        stride = self.x_row_stride or depth
        return {
            "bias_type": ELEMENT_TYPE[self.bias.dtype if self.bias else None],
            "activation": ACTIVATIONS[self.activation],
            "has_residual": self.residual is not None,
            "gate_type": ELEMENT_TYPE[self.gate.dtype if self.gate else None],
            "has_gate_index": self.gate_index is not None,
            "has_factor": self.weight.format == "e4m3",
            "aligned_x": depth % 4 == 0 and stride % 4 == 0 and self.x_offset % 4 == 0,
            "aligned_w": depth % 4 == 0,
            "aligned_out": columns % 4 == 0,
        }

    def buffers(self, weight: np.ndarray, first_row_block: int = 0) -> dict[int, Any]:
        rows, columns, depth = self.sizes
        parameters = struct.pack(
            "<2q6i", self.x_row_stride or depth, columns, rows, columns, depth, GROUP_SHIFT, first_row_block, 0
        )

        def given(operand: Operand | None) -> In | None:
            return None if operand is None else In(operand.bits)

        return {
            0: In(self.x.bits, offset=self.x_offset * ITEMSIZE[self.x.dtype]),
            1: In(weight),
            2: given(self.bias),
            3: given(self.residual),
            4: given(self.gate),
            5: None if self.gate_index is None else In(self.gate_index.astype(np.int32)),
            6: In(self.weight.scale) if self.weight.format == "e4m3" and self.weight.scale is not None else None,
            7: Out((rows, columns), self.x.dtype, partial=first_row_block > 0),
            8: Inline(parameters),
        }


def few(case: Case, rows_per_group: int = 4, **options: Any) -> Result:
    """linear_few; output 7."""
    rows, columns, _ = case.sizes
    affine = case.weight.format.startswith("int")
    constants = case.constants() | {
        "format": FORMATS[case.weight.format],
        "group_type": ELEMENT_TYPE[case.weight.group_type],
        "few_rows": rows_per_group,
    }
    buffers = case.buffers(case.weight.stored)
    if affine:
        buffers |= {9: In(case.weight.scale), 10: In(case.weight.zero)}
    grid = (-(-columns // 16), -(-rows // rows_per_group), 1)
    kernel = f"linear_few_{case.x.dtype}"
    return launch("quantized_linear", kernel, buffers, grid, (128, 1, 1), constants, **options)


def dequantise(weight: Weight, dtype: str, **options: Any) -> Result:
    """The weights that linear_tile reads; output 3."""
    columns, depth = weight.exact.shape
    values = columns * depth
    affine = weight.format.startswith("int")
    threads = -(-values // 8)
    width = min(threads, 96)
    return launch(
        "quantized_linear",
        f"dequantise_{dtype}",
        {
            0: In(weight.stored),
            1: In(weight.scale) if affine and weight.scale is not None else None,
            2: In(weight.zero) if affine and weight.zero is not None else None,
            3: Out((columns, depth), dtype),
            4: Inline(struct.pack("<q2i", values, GROUP_SHIFT, 0)),
        },
        (width, -(-threads // width), 1),
        (32, 1, 1),
        {
            "format": FORMATS[weight.format],
            "group_type": ELEMENT_TYPE[weight.group_type],
            "aligned_w": depth % 4 == 0,
        },
        grid_is_threads=True,
        **options,
    )


def tile(case: Case, size: str = "64x64", first_row_block: int = 0, **options: Any) -> Result:
    """linear_tile, after dequantise where the weights are quantised; output 7."""
    dense = case.weight.format in ELEMENT_TYPE
    weight_type = case.weight.format if dense else case.x.dtype
    stored = case.weight.stored if dense else dequantise(case.weight, case.x.dtype).check().outputs[3]
    rows, columns, _ = case.sizes
    tile_rows, tile_columns = (int(n) for n in size.split("x"))
    grid = (-(-columns // tile_columns), -(-rows // tile_rows) - first_row_block, 1)
    kernel = f"linear_tile_{case.x.dtype}_{weight_type}_{size}"
    threads = tile_rows * tile_columns // 32
    buffers = case.buffers(stored, first_row_block)
    return launch("quantized_linear", kernel, buffers, grid, (threads, 1, 1), case.constants(), **options)

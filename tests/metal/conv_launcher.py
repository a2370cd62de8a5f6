"""Launches the shaders of causal_conv3d as their host does, and computes what they should give."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from launch_plans import ConvPlan, conv_plan
from shaders_under_test import ELEMENT_TYPE, Operand, launch, rounded

from tools.metal_sim import Counters, In, Inline, Out, Result

PADDING = {"zeros": 0, "edge": 1, "reflect": 2}
ACTIVATIONS = {None: 0, "silu": 1, "leaky_relu": 2}
SLOPE, EPS = 0.1, 1e-6
Triple = tuple[int, int, int]
# Tiles of 128 outputs, as in csrc/metal/launch_plans.h.
TILES: list[Triple] = [(4, 4, 8), (2, 8, 8), (1, 8, 16), (2, 4, 16), (1, 4, 32), (1, 1, 128)]


def cut_into(tile: Triple, case: Case, one_phase: bool) -> ConvPlan:
    """A plan with this tile, whether or not it is the best."""
    sizes = zip(tile, case.kernel, case.stride, case.dilation, strict=True)
    region = tuple((t - 1) * s + (k - 1) * d + 1 for t, k, s, d in sizes) if one_phase else tile
    tiles = tuple(-(-o // t) for o, t in zip(case.out_size, tile, strict=True))
    return ConvPlan(tile, region, tiles, one_phase)  # type: ignore[arg-type]


def pad_indices(size: int, before: int, after: int, mode: str) -> np.ndarray:
    """Source of each padded position; -1 is a zero."""
    at = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "reflect":
        at = np.abs(at)
        return np.where(at >= size, 2 * (size - 1) - at, at)
    return np.where((at < 0) | (at >= size), -1, at)


@dataclass
class Case:
    """The operands of one call; x (B, F, H, W, C), weight (O, kt, kh, kw, C)."""

    x: Operand
    weight: Operand
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0), (0, 0))
    modes: tuple[str, ...] = ("edge", "zeros", "zeros")
    norm: bool = False
    scale: Operand | None = None
    shift: Operand | None = None
    activation: str | None = None
    bias: Operand | None = None
    residual: Operand | None = None
    halo: Operand | None = None

    @property
    def in_size(self) -> Triple:
        frames, rows, columns = self.x.exact.shape[1:4]
        return frames + (0 if self.halo is None else self.halo.exact.shape[1]), rows, columns

    @property
    def kernel(self) -> Triple:
        kt, kh, kw = self.weight.exact.shape[1:4]
        return kt, kh, kw

    @property
    def out_size(self) -> Triple:
        sizes = [
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.in_size, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        ]
        return sizes[0], sizes[1], sizes[2]

    def formula(self, dtype: str | None = None) -> np.ndarray:
        """In float64, or as plain code that rounds every array to ``dtype``."""

        def step(values: np.ndarray) -> np.ndarray:
            return values if dtype is None else rounded(values, dtype)

        y = self.x.exact if self.halo is None else np.concatenate([self.halo.exact, self.x.exact], 1)
        if self.norm:
            y = step(y * step(1 / np.sqrt((y * y).mean(-1, keepdims=True) + EPS)))
        if self.scale is not None:
            y = step(y * step(1 + self.scale.exact[:, None, None, None]))
        if self.shift is not None:
            y = step(y + self.shift.exact[:, None, None, None])
        if self.activation == "silu":
            y = step(y * step(1 / (1 + np.exp(-y))))
        elif self.activation == "leaky_relu":
            y = step(np.where(y >= 0, y, SLOPE * y))
        for axis, ((before, after), mode) in enumerate(zip(self.padding, self.modes, strict=True)):
            at = pad_indices(y.shape[axis + 1], before, after, mode)
            y = np.concatenate([y, np.zeros_like(np.take(y, [0], axis + 1))], axis + 1)
            y = np.take(y, at, axis + 1)
        out = np.zeros((y.shape[0], *self.out_size, self.weight.exact.shape[0]))
        weight = step(self.weight.exact)
        for tap in np.ndindex(self.kernel):
            slices = [
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, self.dilation, self.out_size, self.stride, strict=True)
            ]
            out += y[:, slices[0], slices[1], slices[2]] @ weight[:, tap[0], tap[1], tap[2]].T
        out = step(out)
        if self.bias is not None:
            out = step(out + self.bias.exact)
        if self.residual is not None:
            out = step(out + self.residual.exact)
        return out


def _strides(operand: Operand | None) -> list[int]:
    """Elements between batch items, frames, rows and columns."""
    if operand is None:
        return [0, 0, 0, 0]
    shape = operand.exact.shape
    return [int(np.prod(shape[i + 1 :])) for i in range(4)]


def row_scales(case: Case, **options: Any) -> tuple[np.ndarray, list[Counters]]:
    """Reciprocal norms of the voxels of halo and x, one launch each."""
    batch, channels = case.x.exact.shape[0], case.x.exact.shape[-1]
    total = case.in_size[0]
    parts, counters = [], []
    halo_frames = 0 if case.halo is None else case.halo.exact.shape[1]
    for operand, first in ((case.halo, 0), (case.x, halo_frames)):
        if operand is None:
            continue
        size = operand.exact.shape[1:4]
        parameters = struct.pack("<4q", *_strides(operand))
        parameters += struct.pack("<6ifi", *size, first, total, channels, EPS, batch)
        result = launch(
            "causal_conv3d",
            f"causal_conv3d_row_scale_{case.x.dtype}",
            {0: In(operand.bits), 1: Out((batch, *case.in_size), "float32", partial=True), 2: Inline(parameters)},
            (-(-math.prod(size) // 8), batch, 1),
            (256, 1, 1),
            {"aligned": channels % 4 == 0},
            **options,
        ).check()
        parts.append(result.outputs[1][:, first : first + size[0]])
        counters.append(result.counters)
    return np.concatenate(parts, 1), counters


def convolve(
    case: Case, variant: str = "128x64", cut: ConvPlan | None = None, first_tile: int = 0, **options: Any
) -> tuple[Result, list[Counters]]:
    """The result of causal_conv3d, output 2, and the counters of every kernel that was needed."""
    batch, channels = case.x.exact.shape[0], case.x.exact.shape[-1]
    out_channels, out = case.weight.exact.shape[0], case.out_size
    cut = cut or conv_plan(out, case.kernel, case.stride, case.dilation)
    one = (1, 1, 1)
    parameters = b"".join(struct.pack("<4q", *_strides(o)) for o in (case.x, case.halo, case.residual))
    for triple in (case.in_size, out, case.kernel, case.stride, case.dilation, [p[0] for p in case.padding], cut.tiles):
        parameters += struct.pack("<3i", *triple)
    parameters += struct.pack("<3i", *cut.tile) + struct.pack("<3i", *cut.region)
    parameters += struct.pack("<3i", *(one if cut.one_phase else case.stride))
    parameters += struct.pack("<3i", *(case.stride if cut.one_phase else one))
    parameters += struct.pack(
        "<4if4i",
        *(math.prod(case.kernel) if cut.one_phase else 1, 0 if case.halo is None else case.halo.exact.shape[1]),
        *(channels, out_channels, SLOPE, cut.tile[2].bit_length() - 1),
        *((cut.tile[1] * cut.tile[2]).bit_length() - 1, first_tile, 0),
    )
    scales, counters = row_scales(case, **options) if case.norm else (None, [])

    def given(operand: Operand | None) -> In | None:
        return None if operand is None else In(operand.bits)

    buffers: dict[int, Any] = {
        0: In(case.x.bits),
        1: In(case.weight.bits),
        2: Out((batch, *out, out_channels), case.x.dtype, partial=first_tile > 0),
        3: Inline(parameters),
        4: given(case.halo),
        5: None if scales is None else In(scales),
        6: given(case.scale),
        7: given(case.shift),
        8: given(case.bias),
        9: given(case.residual),
    }

    def element(operand: Operand | None) -> int:
        return ELEMENT_TYPE[operand.dtype if operand else None]

    constants = {
        "padding_frames": PADDING[case.modes[0]],
        "padding_rows": PADDING[case.modes[1]],
        "padding_columns": PADDING[case.modes[2]],
        "has_norm": case.norm,
        "scale_type": element(case.scale),
        "shift_type": element(case.shift),
        "activation": ACTIVATIONS[case.activation],
        "weight_type": element(case.weight),
        "bias_type": element(case.bias),
        "has_residual": case.residual is not None,
        "has_halo": case.halo is not None,
        "aligned": channels % 4 == 0,
        "aligned_out": out_channels % 4 == 0,
    }
    columns = int(variant.split("x")[1])
    grid = (-(-out_channels // columns), math.prod(cut.tiles) - first_tile, batch)
    kernel = f"causal_conv3d_{case.x.dtype}_{variant}"
    result = launch("causal_conv3d", kernel, buffers, grid, (columns * 4, 1, 1), constants, **options)
    return result, [*counters, result.counters]

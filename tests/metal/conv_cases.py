"""Cases of causal_conv3d: their operands, launching them, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from shaders_under_test import Launched, Operand, given, launched, rounded

from ltx2rt.kernels import causal_conv3d

SLOPE, EPS = 0.1, 1e-6
Triple = tuple[int, int, int]


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


def convolve(case: Case, **options: Any) -> Launched:
    """causal_conv3d of the case on the simulated device."""
    return launched(
        lambda: causal_conv3d(
            case.x.mlx,
            case.weight.mlx,
            given(case.bias),
            stride=case.stride,
            dilation=case.dilation,
            padding=case.padding,
            padding_mode=case.modes,
            pixel_norm_eps=EPS if case.norm else None,
            scale=given(case.scale),
            shift=given(case.shift),
            activation=case.activation,
            negative_slope=SLOPE,
            residual=given(case.residual),
            halo=given(case.halo),
        ),
        **options,
    )

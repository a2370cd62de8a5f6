"""Convolutions at the sizes of the 19B decoders: video (3-D), audio (2-D) and vocoder (1-D)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ltx2rt.bench.case import (
    ARITHMETIC,
    DTYPES,
    MLX,
    OURS,
    REFERENCE,
    Call,
    Prepared,
    Way,
    Work,
    evaluated,
    halves,
    normal,
)
from ltx2rt.kernels import causal_conv3d, reference

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ConvolutionCase:
    """A convolution that keeps its size, pixel norm and SiLU before it, bias and residual after it on our side."""

    label: str
    dtype: str
    size: Triple
    channels: int
    out_channels: int
    kernel: Triple = (3, 3, 3)
    dilation: int = 1
    pixel_norm: bool = True

    @property
    def name(self) -> str:
        size = "x".join(str(n) for n in self.size if n > 1)
        return f"conv/{self.label}/{self.dtype}/{self.channels}-{self.out_channels}/{size}"

    @property
    def work(self) -> Work:
        cells, taps = math.prod(self.size), math.prod(self.kernel)
        item = DTYPES[self.dtype].size
        values = cells * (self.channels + 2 * self.out_channels) + taps * self.channels * self.out_channels
        operations = 2.0 * cells * taps * self.channels * self.out_channels
        return Work(operations, float(item * values), ARITHMETIC[self.dtype])

    def reduced(self) -> ConvolutionCase:
        frames, height, width = (min(n, limit) for n, limit in zip(self.size, (3, 6, 200), strict=True))
        width = min(width, 12) if height > 1 else width
        return replace(
            self,
            size=(frames, height, width),
            channels=min(self.channels, 40),
            out_channels=min(self.out_channels, 24),
        )

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Before and after along each axis."""
        return tuple((d * (k - 1) // 2,) * 2 for k, d in zip(self.kernel, (1, 1, self.dilation), strict=True))

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        dtype = DTYPES[self.dtype]
        x = normal((1, *self.size, self.channels), 0, dtype)
        fan_in = math.prod(self.kernel) * self.channels
        weight = normal((self.out_channels, *self.kernel, self.channels), 1, dtype, fan_in**-0.5)
        bias = normal((self.out_channels,), 2, dtype)
        residual = normal((1, *self.size, self.out_channels), 3, dtype)

        def make(share: float, formula: bool) -> Call:
            """Some of the output channels."""
            count = max(1, round(self.out_channels * share))
            w, b, r = mx.contiguous(weight[:count]), bias[:count], mx.contiguous(residual[..., :count])
            mx.eval(w, b, r)
            arguments: dict[str, Any] = {
                "padding": self.padding,
                "dilation": (1, 1, self.dilation),
                "padding_mode": ("edge" if self.kernel[0] > 1 else "zeros", "zeros", "zeros"),
                "pixel_norm_eps": 1e-8 if self.pixel_norm else None,
                "activation": "silu" if self.pixel_norm else "leaky_relu",
                "residual": r,
            }
            if not formula:
                return evaluated(lambda: causal_conv3d(x, w, b, **arguments))
            arguments |= {"stride": (1, 1, 1), "scale": None, "shift": None, "negative_slope": 0.1, "halo": None}
            return evaluated(lambda: reference.causal_conv3d(x, w, b, **arguments))

        def plain(share: float) -> Call:
            w = mx.contiguous(weight[: max(1, round(self.out_channels * share))])
            mx.eval(w)
            padding = tuple(before for before, _ in self.padding)
            dilation = (1, 1, self.dilation)
            return evaluated(lambda: mx.conv_general(x, w, padding=padding, kernel_dilation=dilation))

        some = functools.partial(Way, shares=halves(max(1, self.out_channels // 8)), part="output channels")
        ways = {OURS: some(lambda share: make(share, False))}
        if REFERENCE in wanted:
            ways[REFERENCE] = some(lambda share: make(share, True))
        if MLX in wanted:
            ways[MLX] = some(plain)
        return Prepared(self.work, ways, (x, weight))


def convolution_cases() -> list[ConvolutionCase]:
    """The residual layers of the video decoder for 25 frames of 256 x 256, and what the audio decoders do most."""
    stages = (((4, 8, 8), 1024), ((7, 16, 16), 512), ((13, 32, 32), 256), ((25, 64, 64), 128))
    cases = [ConvolutionCase("video", "bf16", size, width, width) for size, width in stages]
    cases += [ConvolutionCase("video", "f32", size, width, width) for size, width in stages[1:3]]
    cases += [
        ConvolutionCase("upsample", "bf16", (7, 16, 16), 512, 2048, pixel_norm=False),
        ConvolutionCase("conv-out", "bf16", (25, 64, 64), 128, 48),
        ConvolutionCase("audio", "bf16", (1, 501, 64), 128, 128, (1, 3, 3)),
        ConvolutionCase("vocoder-k11", "f32", (1, 1, 15030), 256, 256, (1, 1, 11), 3, False),
        ConvolutionCase("vocoder-k3", "f32", (1, 1, 120240), 32, 32, (1, 1, 3), 1, False),
    ]
    return cases

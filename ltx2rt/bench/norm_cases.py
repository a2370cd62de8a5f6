"""modulated_norm at the width of the 19B transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import (
    ARITHMETIC,
    DTYPES,
    MLX,
    OURS,
    REFERENCE,
    Prepared,
    Way,
    Work,
    evaluated,
    normal,
)
from ltx2rt.kernels import modulated_norm, reference

EPS = 1e-6


@dataclass(frozen=True)
class NormCase:
    """RMSNorm of (T, D) with a table of two modulation rows."""

    dtype: str
    tokens: int
    width: int

    @property
    def name(self) -> str:
        return f"modulated_norm/{self.dtype}/{self.tokens}x{self.width}"

    @property
    def work(self) -> Work:
        values = self.tokens * self.width
        return Work(6.0 * values, 2.0 * DTYPES[self.dtype].size * values, ARITHMETIC[self.dtype])

    def reduced(self) -> NormCase:
        return replace(self, tokens=17, width=200)

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        x = normal((self.tokens, self.width), 0, DTYPES[self.dtype])
        scale, shift = (normal((2, self.width), seed, mx.float32) for seed in (1, 2))
        index = mx.array((np.arange(self.tokens) % 2).astype(np.int32))
        arguments: dict[str, Any] = {"scale": scale, "shift": shift, "index": index, "norm": "rms", "eps": EPS}

        def plain() -> mx.array:
            normed = mx.fast.rms_norm(x, None, EPS)
            return normed * (1 + scale.astype(x.dtype)[index]) + shift.astype(x.dtype)[index]

        ways = {OURS: Way(lambda share: evaluated(lambda: modulated_norm(x, **arguments)))}
        if REFERENCE in wanted:
            ways[REFERENCE] = Way(lambda share: evaluated(lambda: reference.modulated_norm(x, **arguments)))
        if MLX in wanted:
            ways[MLX] = Way(lambda share: evaluated(plain))
        return Prepared(self.work, ways, (x, scale, shift, index))


def norm_cases() -> list[NormCase]:
    return [NormCase("bf16", 1024, 4096), NormCase("bf16", 4096, 4096), NormCase("f32", 1024, 4096)]

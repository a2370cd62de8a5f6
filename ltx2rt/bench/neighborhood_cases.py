"""Neighborhood attention of the diffusion decoder of LTX-2.5, norms and rotation included on our side."""

from __future__ import annotations

import functools
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
    Call,
    Prepared,
    Way,
    Work,
    evaluated,
    halves,
    normal,
)
from ltx2rt.kernels import neighborhood_attention, neighborhood_rope, selection, shifted_frames

HEAD = 64


@dataclass(frozen=True)
class NeighborhoodCase:
    """A block's attention over a grid of (T, H, W) cells; every query sees as many keys as the window has.

    Inputs that the ways share: one array (1, T, H, W, 3 * heads * 64) of q, k and v, read in place.
    """

    label: str
    dtype: str
    heads: int
    grid: tuple[int, int, int]
    window: tuple[int, int, int]
    borders: tuple[str, str]

    @property
    def name(self) -> str:
        frames, height, width = self.grid
        return (
            f"neighborhood_attention/{self.label}/{self.dtype}/{self.heads}x{HEAD}/{frames}x{height}x{width}"
            f"-w{'x'.join(map(str, self.window))}"
        )

    @property
    def work(self) -> Work:
        """Products with the keys of the windows alone: what is multiplied besides is no work."""
        cells = float(np.prod(self.grid))
        width = self.heads * HEAD
        return Work(
            4.0 * width * cells * float(np.prod(self.window)),
            DTYPES[self.dtype].size * 4.0 * width * cells,
            ARITHMETIC[self.dtype],
            tiles=True,
        )

    def reduced(self) -> NeighborhoodCase:
        return replace(self, heads=1, grid=(2, 4, 5), window=(2, 3, 3))

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        qkv = normal((1, *self.grid, 3 * self.heads * HEAD), 0, DTYPES[self.dtype])

        def make(share: float, kind: selection.Implementation) -> Call:
            """Some of the heads."""
            heads = max(1, round(self.heads * share))
            first = [i * self.heads * HEAD for i in range(3)]
            q, k, v = (qkv[..., at : at + heads * HEAD] for at in first)
            times = np.arange(self.grid[0])
            arguments: dict[str, Any] = {
                "num_heads": heads,
                "window": self.window[1:],
                "borders": self.borders,
                "q_norm": mx.ones((HEAD,)),
                "k_norm": mx.ones((HEAD,)),
                "rope": neighborhood_rope(times, times, self.grid[1:], self.window[1:]),
            }
            seen = shifted_frames(self.grid[0], self.window[0])
            mx.eval(seen, *arguments["rope"])

            def build() -> mx.array:
                with selection.forced(kind):
                    return neighborhood_attention(q, k, v, seen, **arguments)

            return evaluated(build)

        some = functools.partial(Way, shares=halves(self.heads), part="heads")
        ways = {OURS: some(lambda share: make(share, "kernel"))}
        if REFERENCE in wanted:
            ways[REFERENCE] = some(lambda share: make(share, "reference"))
        if MLX in wanted:
            ways[MLX] = some(lambda share: make(share, "mlx"))
        return Prepared(self.work, ways, qkv)


def neighborhood_cases() -> list[NeighborhoodCase]:
    """Stages 5 and 1 of a decode of 25 frames of 256 x 256; stage 1 after padding to its window."""
    cases = [
        NeighborhoodCase("stage-5", dtype, 4, (25, 64, 64), (11, 11, 11), ("shift", "replicate"))
        for dtype in ("bf16", "f32")
    ]
    return [*cases, NeighborhoodCase("stage-1", "bf16", 32, (6, 8, 8), (3, 7, 7), ("shift", "shift"))]

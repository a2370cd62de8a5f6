"""Cases of neighborhood_attention: their operands, launching them, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from shaders_under_test import Launched, Operand, launched, rounded

from ltx2rt.kernels import neighborhood_attention, neighborhood_rope
from ltx2rt.kernels.reference import NeighborhoodRope

EPS = 1e-6
HEAD = 64


def window_of(query: int, cells: int, window: int, border: str) -> np.ndarray:
    """Positions that a query sees along an axis of height or width."""
    if border == "shift":
        return np.clip(query - window // 2, 0, cells - window) + np.arange(window)
    positions = query - window // 2 + np.arange(window)
    return positions if border == "replicate" else positions[(positions >= 0) & (positions < cells)]


@dataclass
class Case:
    """The operands of one call; q (B, T, H, W, N*64), k and v (B, S, H, W, N*64), key_frames (T, J)."""

    q: Operand
    k: Operand
    v: Operand
    key_frames: np.ndarray
    window: tuple[int, int]
    borders: tuple[str, str] = ("shift", "shift")
    q_norm: np.ndarray | None = None
    k_norm: np.ndarray | None = None
    times: tuple[np.ndarray, np.ndarray] | None = None  # of the frames of q and of k
    lanes: tuple[int, int, int] = (16, 24, 24)

    @staticmethod
    def random(
        size: tuple[int, int, int],
        key_frames: list[list[int]] | np.ndarray,
        window: tuple[int, int],
        borders: tuple[str, str] = ("shift", "shift"),
        dtype: str = "bfloat16",
        *,
        frames_of_keys: int | None = None,
        heads: int = 1,
        batch: int = 1,
        plain: bool = False,
    ) -> Case:
        """With norms and rotation by times that are not whole numbers, or ``plain``."""
        keys = (frames_of_keys or size[0], *size[1:])
        q, k, v = (
            Operand((batch, *grid, heads * HEAD), dtype, seed, scale)
            for seed, (grid, scale) in enumerate([(size, 1.5), (keys, 1.5), (keys, 1.0)])
        )
        case = Case(q, k, v, np.array(key_frames, np.int32), window, borders)
        if not plain:
            rng = np.random.default_rng(9)
            case.q_norm, case.k_norm = (rng.uniform(0.5, 1.5, HEAD).astype(np.float32) for _ in range(2))
            case.times = tuple(rng.uniform(0, 9, n).astype(np.float32) for n in (size[0], keys[0]))
        return case

    @property
    def dtype(self) -> str:
        return self.q.dtype

    @property
    def heads(self) -> int:
        return self.q.exact.shape[-1] // HEAD

    def rope(self) -> NeighborhoodRope | None:
        if self.times is None:
            return None
        height, width = self.q.exact.shape[2:4]
        return neighborhood_rope(*self.times, (height, width), self.window, lanes=self.lanes)

    def _turned(self, x: np.ndarray, time: np.ndarray, rows: np.ndarray, columns: np.ndarray, step: Any) -> np.ndarray:
        """x (B, F, rows, columns, N, 64) whose cells stand at these places."""
        angles = []
        for axis, (places, d) in enumerate(zip((time, rows, columns), self.lanes, strict=True)):
            frequencies = (10000.0 ** (-2.0 * np.arange(d // 2) / d)).astype(np.float32)
            of_axis = (places.astype(np.float32)[:, None] * frequencies).astype(np.float64)
            shape = [1, 1, 1, of_axis.shape[1]]
            shape[axis] = len(places)
            angles.append(np.broadcast_to(of_axis.reshape(shape), (*x.shape[1:4], of_axis.shape[1])))
        angle = np.concatenate(angles, -1)[None, :, :, :, None]
        cos, sin = step(np.cos(angle)), step(np.sin(angle))
        a, b = x[..., 0::2], x[..., 1::2]
        turned = step(step(a * cos) - step(b * sin)), step(step(b * cos) + step(a * sin))
        return np.stack(turned, -1).reshape(x.shape)

    def formula(self, dtype: str | None = None) -> np.ndarray:
        """In float64, or as plain code that rounds every array to ``dtype``."""

        def step(values: np.ndarray) -> np.ndarray:
            return values if dtype is None else rounded(values, dtype)

        def prepared(x: np.ndarray, norm: np.ndarray | None, *places: np.ndarray | None) -> np.ndarray:
            if norm is not None:
                scale = step(1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPS))
                x = step(step(x * scale) * norm.astype(np.float64))
            return x if self.times is None else self._turned(x, *places, step)

        def split(x: np.ndarray) -> np.ndarray:
            return x.reshape(*x.shape[:-1], self.heads, HEAD)

        batch, frames, height, width, _ = self.q.exact.shape
        q_times, k_times = self.times or (None, None)
        places = [
            np.arange(-(window // 2), n + window - 1 - window // 2)
            for n, window in zip((height, width), self.window, strict=True)
        ]
        cells = [np.clip(p, 0, n - 1) for p, n in zip(places, (height, width), strict=True)]
        k, v = (split(x.exact)[:, :, cells[0]][:, :, :, cells[1]] for x in (self.k, self.v))
        q = prepared(split(self.q.exact), self.q_norm, q_times, np.arange(height), np.arange(width))
        k = prepared(k, self.k_norm, k_times, *places)
        out = np.zeros((batch, frames, height, width, self.heads, HEAD))
        for t in range(frames):
            seen = self.key_frames[t][self.key_frames[t] >= 0]
            if not len(seen):
                continue
            for h in range(height):
                rows = window_of(h, height, self.window[0], self.borders[0]) + self.window[0] // 2
                for w in range(width):
                    columns = window_of(w, width, self.window[1], self.borders[1]) + self.window[1] // 2
                    where = np.ix_(range(batch), seen, rows, columns)
                    keys, values = (x[where].reshape(batch, -1, self.heads, HEAD).swapaxes(1, 2) for x in (k, v))
                    scores = step(step(q[:, t, h, w, :, None] * HEAD**-0.5) @ keys.swapaxes(-1, -2))
                    powers = step(np.exp(scores - scores.max(-1, keepdims=True)))
                    weights = step(powers / powers.sum(-1, keepdims=True))
                    out[:, t, h, w] = step(weights @ values)[:, :, 0]
        return out.reshape(self.q.exact.shape)


def shifted(frames: int, window: int) -> np.ndarray:
    """The frames that queries see in time, windows shifted inward."""
    return np.clip(np.arange(frames) - window // 2, 0, frames - window)[:, None] + np.arange(window)


def attention(case: Case, **options: Any) -> Launched:
    """neighborhood_attention of the case on the simulated device."""
    return launched(
        lambda: neighborhood_attention(
            case.q.mlx,
            case.k.mlx,
            case.v.mlx,
            mx.array(case.key_frames),
            num_heads=case.heads,
            window=case.window,
            borders=case.borders,
            q_norm=None if case.q_norm is None else mx.array(case.q_norm),
            k_norm=None if case.k_norm is None else mx.array(case.k_norm),
            norm_eps=EPS,
            rope=case.rope(),
        ),
        **options,
    )

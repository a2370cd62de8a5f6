"""Cases of rope_attention: their operands, launching them, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from shaders_under_test import Launched, Operand, given, launched, rounded

from ltx2rt.kernels import RopeTable, rope_attention

EPS = 1e-6


@dataclass
class Rope:
    """Separable angles: pair ``l`` turns by ``angles[index[t, p], j]``, l - pad = j * P + p."""

    angles: np.ndarray  # (R, M)
    index: np.ndarray  # (T, P) or (B, T, P)
    interleaved: bool = False

    @staticmethod
    def random(tokens: int, pairs: int, axes: int, seed: int, *, batch: int = 0, interleaved: bool = False) -> Rope:
        rng = np.random.default_rng(seed)
        shape = (batch, tokens, axes) if batch else (tokens, axes)
        angles = rng.uniform(-4, 4, (7, pairs // axes)).astype(np.float32)
        return Rope(angles, rng.integers(0, 7, shape).astype(np.int32), interleaved)

    def turn(self, x: np.ndarray, heads: int, step: Any) -> np.ndarray:
        """x (B, T, N*K) rotated, every intermediate array passed through ``step``."""
        batch, tokens, width = x.shape
        half = width // heads // 2
        index = self.index if self.index.ndim == 3 else self.index[None]
        columns = self.angles.shape[1] * index.shape[-1]
        shared = columns <= half
        pad = (half if shared else heads * half) - columns
        angles = np.swapaxes(self.angles[index].astype(np.float64), 2, 3).reshape(index.shape[0], tokens, columns)
        angles = np.concatenate([np.zeros((index.shape[0], tokens, pad)), angles], -1)
        angles = angles.reshape(index.shape[0], tokens, 1 if shared else heads, half)
        cos, sin = step(np.cos(angles)), step(np.sin(angles))
        x = x.reshape(batch, tokens, heads, 2 * half)
        a, b = (x[..., 0::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])
        first, second = step(step(a * cos) - step(b * sin)), step(step(b * cos) + step(a * sin))
        if self.interleaved:
            return np.stack([first, second], -1).reshape(batch, tokens, width)
        return np.concatenate([first, second], -1).reshape(batch, tokens, width)

    @property
    def table(self) -> RopeTable:
        angles = self.angles.astype(np.float64)
        cos, sin = (mx.array(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
        return RopeTable(cos, sin, mx.array(self.index))


@dataclass
class Case:
    """The operands of one call; q (B, Tq, N*K), k and v (B, Tk, Nkv*K)."""

    q: Operand
    k: Operand
    v: Operand
    heads: int
    kv_heads: int
    q_norm: np.ndarray | None = None
    k_norm: np.ndarray | None = None
    rope_q: Rope | None = None
    rope_k: Rope | None = None
    bias: Operand | None = None
    gate: Operand | None = None
    causal: bool = False

    @property
    def dtype(self) -> str:
        return self.q.dtype

    @property
    def head_size(self) -> int:
        return self.q.exact.shape[2] // self.heads

    def formula(self, dtype: str | None = None) -> np.ndarray:
        """In float64, or as plain code that rounds every array to ``dtype``."""

        def step(values: np.ndarray) -> np.ndarray:
            return values if dtype is None else rounded(values, dtype)

        def prepared(x: np.ndarray, norm: np.ndarray | None, rope: Rope | None, heads: int) -> np.ndarray:
            batch, tokens, width = x.shape
            if norm is not None:
                rows = x if norm.shape[0] == width else x.reshape(batch, tokens, heads, -1)
                scale = step(1 / np.sqrt((rows * rows).mean(-1, keepdims=True) + EPS))
                x = step(step(rows * scale) * norm.astype(np.float64)).reshape(batch, tokens, width)
            return x if rope is None else rope.turn(x, heads, step)

        def split(x: np.ndarray, heads: int) -> np.ndarray:
            x = x.reshape(*x.shape[:2], heads, self.head_size).transpose(0, 2, 1, 3)
            return np.repeat(x, self.heads // heads, axis=1)

        q = split(prepared(self.q.exact, self.q_norm, self.rope_q, self.heads), self.heads)
        k = split(prepared(self.k.exact, self.k_norm, self.rope_k, self.kv_heads), self.kv_heads)
        v = split(self.v.exact, self.kv_heads)
        scores = step(step(q * self.head_size**-0.5) @ k.swapaxes(-1, -2))
        if self.bias is not None:
            scores = scores + self.bias.exact
        queries, keys = scores.shape[-2:]
        if self.causal:
            hidden = np.arange(keys)[None] > np.arange(queries)[:, None] + keys - queries
            scores = np.where(hidden, -np.inf, scores)
        most = scores.max(-1, keepdims=True)
        powers = step(np.exp(scores - np.where(np.isinf(most), 0.0, most)))
        total = powers.sum(-1, keepdims=True)
        out = step(step(powers / np.where(total == 0, 1.0, total)) @ v).transpose(0, 2, 1, 3)
        if self.gate is not None:
            out = step(out * step(2 / (1 + np.exp(-self.gate.exact)))[..., None])
        return out.reshape(self.q.exact.shape)


def attention(case: Case, **options: Any) -> Launched:
    """rope_attention of the case on the simulated device."""
    interleaved = any(rope.interleaved for rope in (case.rope_q, case.rope_k) if rope is not None)
    return launched(
        lambda: rope_attention(
            case.q.mlx,
            case.k.mlx,
            case.v.mlx,
            num_heads=case.heads,
            num_kv_heads=case.kv_heads,
            q_norm=None if case.q_norm is None else mx.array(case.q_norm),
            k_norm=None if case.k_norm is None else mx.array(case.k_norm),
            norm_eps=EPS,
            rope_q=None if case.rope_q is None else case.rope_q.table,
            rope_k=None if case.rope_k is None else case.rope_k.table,
            rope_layout="interleaved" if interleaved else "split",
            bias=given(case.bias),
            gate_logits=given(case.gate),
            causal=case.causal,
        ),
        **options,
    )

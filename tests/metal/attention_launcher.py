"""Launches the shaders of rope_attention as their host does, and computes what they should give."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from launch_plans import attention_keys_threads, attention_tile
from shaders_under_test import ELEMENT_TYPE, Operand, launch, rounded

from tools.metal_sim import Counters, In, Inline, Out, Result

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

    def buffers(self, first: int) -> dict[int, In]:
        angles = self.angles.astype(np.float64)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        return {first: In(cos), first + 1: In(sin), first + 2: In(self.index)}

    def pack(self, heads: int, head_size: int) -> bytes:
        axes, columns = self.index.shape[-1], self.angles.shape[1]
        half = head_size // 2
        used = columns * axes
        stride = self.index.shape[-2] * axes if self.index.ndim == 3 and self.index.shape[0] > 1 else 0
        return struct.pack("<q2i", stride, columns, (half if used <= half else heads * half) - used)

    def constants(self, head_size: int) -> dict[str, Any]:
        axes = self.index.shape[-1]
        shared = self.angles.shape[1] * axes <= head_size // 2
        return {"rope_axes": axes, "interleaved": self.interleaved, "rope_shared": shared}


NO_ROPE = {"rope_axes": 0, "interleaved": False, "rope_shared": False}


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
    extra: dict[str, Any] = field(default_factory=dict)

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


def _norm_kind(norm: np.ndarray | None, width: int) -> int:
    return 0 if norm is None else 1 if norm.shape[0] == width else 2


def prepare_keys(case: Case, **options: Any) -> Result:
    """rope_attention_keys; output 5."""
    batch, tokens, width = case.k.exact.shape
    size = case.head_size
    rope = case.rope_k
    parameters = struct.pack("<2q", tokens * width, width)
    parameters += rope.pack(case.kv_heads, size) if rope else bytes(16)
    parameters += struct.pack("<2ifi", tokens, case.kv_heads, EPS, 0)
    buffers: dict[int, Any] = {0: In(case.k.bits), 5: Out((batch, case.kv_heads, tokens, size), case.dtype)}
    buffers |= {1: None if case.k_norm is None else In(case.k_norm), 6: Inline(parameters)}
    buffers |= rope.buffers(2) if rope else {}
    constants = {"norm_kind": _norm_kind(case.k_norm, width), **(rope.constants(size) if rope else NO_ROPE)}
    threads = attention_keys_threads(width)
    kernel = f"rope_attention_keys_{case.dtype}_{size}"
    return launch("rope_attention", kernel, buffers, (tokens, batch, 1), (threads, 1, 1), constants, **options)


def row_scales(case: Case, **options: Any) -> Result:
    """rope_attention_row_scale of q; output 1."""
    batch, tokens, width = case.q.exact.shape
    parameters = struct.pack("<2q2ifi", tokens * width, width, tokens, width, EPS, batch * tokens)
    buffers: dict[int, Any] = {0: In(case.q.bits), 1: Out((batch * tokens,), "float32"), 2: Inline(parameters)}
    kernel = f"rope_attention_row_scale_{case.dtype}"
    return launch("rope_attention", kernel, buffers, (-(-batch * tokens // 8), 1, 1), (256, 1, 1), {}, **options)


def attention(case: Case, first: tuple[int, int, int] = (0, 0, 0), **options: Any) -> tuple[Result, list[Counters]]:
    """The result of rope_attention, output 3, and the counters of every kernel that was needed.

    ``first``: the query block, head and batch item from which on the outputs are made.
    """
    batch, queries, width = case.q.exact.shape
    keys, kv_width = case.k.exact.shape[1:]
    size = case.head_size
    counters = []
    norm_kind = _norm_kind(case.q_norm, width)
    scales = None
    if norm_kind == 1:
        scaled = row_scales(case, **options).check()
        scales = In(scaled.outputs[1])
        counters.append(scaled.counters)
    k, k_strides = In(case.k.bits), (keys * kv_width, size, kv_width)
    if case.k_norm is not None or case.rope_k is not None:
        prepared = prepare_keys(case, **options).check()
        k, k_strides = In(prepared.outputs[5]), (keys * kv_width, keys * size, size)
        counters.append(prepared.counters)
    bias_strides = [0, 0, 0, 0]
    if case.bias is not None:
        shape = case.bias.exact.shape
        bias_strides = [0 if n == 1 else int(np.prod(shape[i + 1 :])) for i, n in enumerate(shape)]
    parameters = struct.pack("<2q", queries * width, width)
    parameters += struct.pack("<3q", *k_strides) + struct.pack("<3q", keys * kv_width, size, kv_width)
    parameters += struct.pack("<4q", *bias_strides) + struct.pack("<3q", queries * case.heads, case.heads, 1)
    parameters += case.rope_q.pack(case.heads, size) if case.rope_q else bytes(16)
    parameters += struct.pack("<4i2f", case.heads, case.heads // case.kv_heads, queries, keys, size**-0.5, EPS)
    parameters += struct.pack("<4i", *first, 0)
    buffers: dict[int, Any] = {
        0: In(case.q.bits),
        1: k,
        2: In(case.v.bits),
        3: Out(case.q.exact.shape, case.dtype, partial=first != (0, 0, 0)),
        4: Inline(parameters),
        5: None if case.q_norm is None else In(case.q_norm),
        6: scales,
        10: None if case.bias is None else In(case.bias.bits),
        11: None if case.gate is None else In(case.gate.bits),
    }
    buffers |= case.rope_q.buffers(7) if case.rope_q else {}
    constants = {
        "norm_kind": norm_kind,
        "bias_type": ELEMENT_TYPE[case.bias.dtype if case.bias else None],
        "gate_type": ELEMENT_TYPE[case.gate.dtype if case.gate else None],
        "causal": case.causal,
        **(case.rope_q.constants(size) if case.rope_q else NO_ROPE),
    }
    block, threads = attention_tile(size)
    whole = (-(-queries // block), case.heads, batch)
    grid = tuple(w - f for w, f in zip(whole, first, strict=True))
    kernel = f"rope_attention_{case.dtype}_{size}"
    result = launch("rope_attention", kernel, buffers, grid, (threads, 1, 1), constants, **options)
    return result, [*counters, result.counters]

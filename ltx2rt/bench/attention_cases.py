"""The six attentions of a 19B transformer block, norm weights and rotation included on our side."""

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
from ltx2rt.graph.models.layers.rope import rope_table
from ltx2rt.kernels import RopeTable, reference, rope_attention

VIDEO_HEAD, AUDIO_HEAD = 128, 64
AUDIO_TOKENS = 126  # five seconds
TEXT_TOKENS = 1024


def token_rope(tokens: int, axes: int, width: int) -> RopeTable:
    """The table of a clip of about ``tokens`` tokens: distinct positions along each axis as in a real grid."""
    positions = np.arange(tokens, dtype=np.float32)
    if axes == 3:
        side = max(1, round((tokens / 4) ** 0.5))
        positions = np.stack([positions // (side * side), positions // side % side, positions % side])
    else:
        positions = positions[None]
    return rope_table(positions[None], dim=width, max_positions=(2048.0,) * axes, theta=10000.0, float64=True)


@dataclass(frozen=True)
class AttentionCase:
    """Queries against keys, heads * head values each; ``q_axes`` 0: no rotation (text)."""

    label: str
    dtype: str
    heads: int
    head: int
    queries: int
    keys: int
    q_axes: int
    k_axes: int

    @property
    def name(self) -> str:
        return f"attention/{self.label}/{self.dtype}/{self.heads}x{self.head}/q{self.queries}-k{self.keys}"

    @property
    def work(self) -> Work:
        width = self.heads * self.head
        return Work(
            4.0 * width * self.queries * self.keys,
            DTYPES[self.dtype].size * 2.0 * width * (self.queries + self.keys),
            ARITHMETIC[self.dtype],
            tiles=self.head % 32 == 0,
        )

    def reduced(self) -> AttentionCase:
        return replace(self, heads=2, queries=min(self.queries, 40), keys=min(self.keys, 72))

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        width, dtype = self.heads * self.head, DTYPES[self.dtype]
        q = normal((1, self.queries, width), 0, dtype)
        k = normal((1, self.keys, width), 1, dtype)
        v = normal((1, self.keys, width), 2, dtype)

        def make(share: float, formula: bool) -> Call:
            """Some of the heads."""
            heads = max(1, round(self.heads * share))
            part = heads * self.head
            few = [mx.contiguous(a[..., :part]) for a in (q, k, v)]
            arguments: dict[str, Any] = {
                "num_heads": heads,
                "q_norm": mx.ones((part,), dtype=dtype),
                "k_norm": mx.ones((part,), dtype=dtype),
                "norm_eps": 1e-6,
                "rope_q": token_rope(self.queries, self.q_axes, part) if self.q_axes else None,
                "rope_k": token_rope(self.keys, self.k_axes, part) if self.k_axes else None,
                "rope_layout": "split",
            }
            mx.eval(few)
            if not formula:
                return evaluated(lambda: rope_attention(*few, **arguments))
            arguments |= {"num_kv_heads": heads, "bias": None, "gate_logits": None, "causal": False}
            return evaluated(lambda: reference.rope_attention(*few, **arguments, scale=self.head**-0.5))

        def plain(share: float) -> Call:
            heads = max(1, round(self.heads * share))
            split = [
                mx.contiguous(a.reshape(1, -1, self.heads, self.head)[:, :, :heads].transpose(0, 2, 1, 3))
                for a in (q, k, v)
            ]
            mx.eval(split)
            return evaluated(lambda: mx.fast.scaled_dot_product_attention(*split, scale=self.head**-0.5))

        some = functools.partial(Way, shares=halves(self.heads), part="heads")
        ways = {OURS: some(lambda share: make(share, False))}
        if REFERENCE in wanted:
            ways[REFERENCE] = some(lambda share: make(share, True))
        if MLX in wanted:
            ways[MLX] = some(plain)
        return Prepared(self.work, ways, (q, k, v))


def attention_cases() -> list[AttentionCase]:
    """The six attentions at 1024 video tokens, video attention also at 256 and 4096."""
    cases = [
        AttentionCase("video", dtype, 32, VIDEO_HEAD, tokens, tokens, 3, 3)
        for dtype, tokens in (("bf16", 256), ("bf16", 1024), ("bf16", 4096), ("f32", 1024))
    ]
    audio = AUDIO_TOKENS
    return [
        *cases,
        AttentionCase("video-text", "bf16", 32, VIDEO_HEAD, 1024, TEXT_TOKENS, 0, 0),
        AttentionCase("audio", "bf16", 32, AUDIO_HEAD, audio, audio, 1, 1),
        AttentionCase("audio-text", "bf16", 32, AUDIO_HEAD, audio, TEXT_TOKENS, 0, 0),
        AttentionCase("audio-to-video", "bf16", 32, AUDIO_HEAD, 1024, audio, 1, 1),
        AttentionCase("video-to-audio", "bf16", 32, AUDIO_HEAD, audio, 1024, 1, 1),
        AttentionCase("video-to-audio", "bf16", 32, AUDIO_HEAD, audio, 4096, 1, 1),
    ]

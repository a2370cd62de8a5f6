"""rope_attention beside its reference, at the shapes of a 19B block and of the text encoder."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.kernels import RopeTable, reference, rope_attention

# name: q tokens, k tokens, heads, kv heads, head size, rotary axes
CASES = {
    "video self 256": (256, 256, 32, 32, 128, 3),
    "video self 1024": (1024, 1024, 32, 32, 128, 3),
    "video text": (256, 1024, 32, 32, 128, 0),
    "audio self": (126, 126, 32, 32, 64, 1),
    "video reads audio": (1024, 126, 32, 32, 64, 1),
    "audio reads video": (126, 1024, 32, 32, 64, 1),
    "gemma causal": (256, 256, 16, 8, 256, 1),
}
REFERENCE_CASES = ("audio self", "video self 256")  # the reference takes seconds for the others


def normal(shape: tuple[int, ...], seed: int, dtype: mx.Dtype) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def table(tokens: int, axes: int, lanes: int) -> RopeTable | None:
    if axes == 0:
        return None
    angles = mx.random.normal((64, lanes // axes), key=mx.random.key(9))
    index = mx.arange(tokens * axes, dtype=mx.int32).reshape(tokens, axes) % 64
    return RopeTable(mx.cos(angles), mx.sin(angles), index)


def run_reference(q: mx.array, k: mx.array, v: mx.array, **arguments: object) -> mx.array:
    absent = {"bias": None, "gate_logits": None, "rope_layout": "split", "norm_eps": 1e-6}
    return reference.rope_attention(q, k, v, **absent, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(
    ("name", "impl"),
    [(name, rope_attention) for name in CASES] + [(name, run_reference) for name in REFERENCE_CASES],
    ids=[f"{name} kernel" for name in CASES] + [f"{name} reference" for name in REFERENCE_CASES],
)
def bench_rope_attention(benchmark, name, impl, dtype):
    q_tokens, k_tokens, heads, kv_heads, size, axes = CASES[name]
    q = normal((1, q_tokens, heads * size), 0, dtype)
    k, v = (normal((1, k_tokens, kv_heads * size), seed, dtype) for seed in (1, 2))
    causal = name == "gemma causal"
    norms = [normal((size,) if causal else (n * size,), 3, dtype) for n in (heads, kv_heads)]
    lanes = size // 2 if causal else heads * size // 2
    arguments = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "q_norm": norms[0],
        "k_norm": norms[1],
        "rope_q": table(q_tokens, axes, lanes),
        "rope_k": table(k_tokens, axes, lanes),
        "causal": causal,
        "scale": size**-0.5,
    }
    mx.eval(q, k, v, norms, [r for r in (arguments["rope_q"], arguments["rope_k"]) if r is not None])
    benchmark.group = f"rope_attention {name} {dtype}"
    benchmark.extra_info["flop"] = 4 * q_tokens * k_tokens * heads * size // (2 if causal else 1)

    def run():
        y = impl(q, k, v, **arguments)
        mx.eval(y)
        return y

    result = benchmark.pedantic(run, rounds=5, warmup_rounds=1).astype(mx.float32)
    assert result.shape == q.shape
    assert mx.isfinite(result).all()
    if name in REFERENCE_CASES:
        exact = run_reference(*(a.astype(mx.float32) for a in (q, k, v)), **arguments)
        tolerance = 2**-6 if dtype == mx.bfloat16 else 1e-4
        assert mx.abs(result - exact).max() <= tolerance * mx.abs(exact).max()

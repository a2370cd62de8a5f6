"""rope_attention against a float64 formula: sizes, rotation, norms, masks, strides, transforms and threads."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from bits_of_programs import in_new_process, in_this_process
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2rt.kernels import RopeTable, reference, rope_attention

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
EPS = 1e-6


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def table(tokens, rows, columns, axes, seed, batch=None):
    angles = 3 * normal((rows, columns), seed)
    shape = (tokens, axes) if batch is None else (batch, tokens, axes)
    index = mx.random.randint(0, rows, shape, key=mx.random.key(seed + 1)).astype(mx.int32)
    return RopeTable(mx.cos(angles), mx.sin(angles), index)


def as_double(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def rotated(x, rope, layout):
    """x (B, T, N, K): lane l of all heads' half-widths has the angle table[index[t, p], j] with l - pad = j*P + p."""
    batch, _, heads, size = x.shape
    cos, sin, index = as_double(rope.cos), as_double(rope.sin), np.array(rope.index)
    index = np.broadcast_to(index, (batch, *index.shape[-2:]))
    axes, half = index.shape[2], size // 2
    used = cos.shape[1] * axes
    shared = used <= half
    pad = (half if shared else heads * half) - used
    out = x.copy()
    for head in range(heads):
        for i in range(half):
            lane = (i if shared else head * half + i) - pad
            if lane < 0:
                continue
            rows = index[:, :, lane % axes]
            c, s = cos[rows, lane // axes], sin[rows, lane // axes]
            first, second = (i, i + half) if layout == "split" else (2 * i, 2 * i + 1)
            a, b = x[:, :, head, first], x[:, :, head, second]
            out[:, :, head, first] = a * c - b * s
            out[:, :, head, second] = b * c + a * s
    return out


def expected(q, k, v, *, num_heads, num_kv_heads=None, q_norm=None, k_norm=None, rope_q=None, rope_k=None,
             rope_layout="split", bias=None, gate_logits=None, causal=False, scale=None):  # fmt: skip
    """The contract in float64 numpy, head by head."""
    kv_heads = num_kv_heads or num_heads
    batch, q_tokens, width = q.shape
    k_tokens, size = k.shape[1], width // num_heads

    def prepared(x, heads, norm, rope):
        x = as_double(x)
        if norm is not None:
            x = x.reshape(batch, x.shape[1], -1, norm.shape[0])
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * as_double(norm)
        x = x.reshape(batch, x.shape[1], heads, size)
        return x if rope is None else rotated(x, rope, rope_layout)

    queries, keys = prepared(q, num_heads, q_norm, rope_q), prepared(k, kv_heads, k_norm, rope_k)
    values = as_double(v).reshape(batch, k_tokens, kv_heads, size)
    out = np.zeros((batch, q_tokens, num_heads, size))
    full = None if bias is None else np.broadcast_to(as_double(bias), (batch, num_heads, q_tokens, k_tokens))
    for b in range(batch):
        for h in range(num_heads):
            g = h // (num_heads // kv_heads)
            scores = queries[b, :, h] @ keys[b, :, g].T * (size**-0.5 if scale is None else scale)
            if full is not None:
                scores = (scores.astype(np.float32) + full[b, h].astype(np.float32)).astype(np.float64)
            if causal:
                ahead = np.arange(k_tokens)[None] > np.arange(q_tokens)[:, None] + k_tokens - q_tokens
                scores = np.where(ahead, -np.inf, scores)
            for t in range(q_tokens):
                allowed = scores[t] > -np.inf
                if allowed.any():
                    weights = np.exp(scores[t] - scores[t].max())
                    out[b, t, h] = weights @ values[b, :, g] / weights.sum()
    if gate_logits is not None:
        out *= 2 / (1 + np.exp(-as_double(gate_logits)))[..., None]
    return out.reshape(batch, q_tokens, width)


def error(ours, exact):
    return np.abs(as_double(ours) - exact).max(initial=0.0)


def inputs(batch, q_tokens, k_tokens, heads, size, kv_heads=None, dtype=mx.float32):
    kv_width = (kv_heads or heads) * size
    return (
        normal((batch, q_tokens, heads * size), 1, dtype),
        normal((batch, k_tokens, kv_width), 2, dtype),
        normal((batch, k_tokens, kv_width), 3, dtype),
    )


def plain(q, k, v, heads, q_norm, k_norm, rope):
    """The usual code in the dtype of q: every step rounds."""
    batch, _, width = q.shape
    half = width // heads // 2
    cos, sin = (part[rope.index[:, 0]].astype(q.dtype)[None, None] for part in (rope.cos, rope.sin))

    def prepared(x, norm):
        x = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + EPS) * norm
        x = x.reshape(batch, -1, heads, 2 * half).transpose(0, 2, 1, 3)
        a, b = x[..., :half], x[..., half:]
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    scores = prepared(q, q_norm) @ prepared(k, k_norm).swapaxes(-1, -2) * (2 * half) ** -0.5
    out = mx.softmax(scores, axis=-1) @ v.reshape(batch, -1, heads, 2 * half).transpose(0, 2, 1, 3)
    return out.transpose(0, 2, 1, 3).reshape(q.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "size"), [(5, 8), (70, 64), (150, 128)])
def test_is_as_accurate_as_plain_code(tokens, size, dtype):
    heads = 2
    q, k, v = inputs(1, tokens, tokens, heads, size, dtype=dtype)
    norms = [normal((heads * size,), seed, dtype) for seed in (4, 5)]
    rope = table(tokens, 7, size // 2, 1, 6)
    arguments = {"num_heads": heads, "q_norm": norms[0], "k_norm": norms[1], "rope_q": rope, "rope_k": rope}
    exact = expected(q, k, v, **arguments)
    ours = rope_attention(q, k, v, **arguments)
    assert ours.dtype == dtype
    budget = 2 * error(plain(q, k, v, heads, *norms, rope), exact) + 1e-6
    assert error(ours, exact) <= budget


BF16 = 2.0**-8  # largest rounding of a value below 2


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("loud", [1, 8, 40], ids=lambda loud: f"times-{loud}")
def test_large_scores_are_as_accurate_as_plain_bfloat16(loud, size):
    """From flat weights to one key that takes all, with a query that no key resembles."""
    heads, tokens = 2, 140
    q, k, v = inputs(1, tokens, tokens, heads, size, dtype=mx.bfloat16)
    q[:, 7] = 0
    k[:, 130] = 100  # far above the others for half of the queries, far below for the rest
    norms = [mx.full((heads * size,), scale, dtype=mx.bfloat16) for scale in (loud, 1)]
    rope = table(tokens, 7, size // 2, 1, 6)
    arguments = {"num_heads": heads, "q_norm": norms[0], "k_norm": norms[1], "rope_q": rope, "rope_k": rope}
    exact = expected(q, k, v, **arguments)
    ours = rope_attention(q, k, v, **arguments)
    low = as_double(plain(q, k, v, heads, *norms, rope))
    assert error(ours, exact) <= 2 * np.abs(low - exact).max()
    rms = [np.sqrt(np.mean((a - exact) ** 2)) for a in (as_double(ours), low)]
    assert rms[0] <= 1.2 * rms[1]


def test_one_key_gives_its_value_in_bfloat16():
    q, k, v = inputs(2, 50, 1, 3, 40, dtype=mx.bfloat16)
    assert mx.array_equal(rope_attention(30 * q, k, v, num_heads=3), mx.broadcast_to(v, q.shape))


def test_equal_scores_give_the_mean_in_bfloat16():
    q, k, v = inputs(1, 20, 301, 2, 64, dtype=mx.bfloat16)
    mean = np.broadcast_to(as_double(v).mean(1, keepdims=True), q.shape)
    assert error(rope_attention(mx.zeros_like(q), k, v, num_heads=2), mean) <= BF16 * np.abs(mean).max()


@pytest.mark.parametrize(
    ("q_tokens", "k_tokens"), [(1, 1), (15, 2), (31, 33), (33, 31), (144, 127), (145, 129), (161, 300)]
)
@pytest.mark.parametrize("size", [32, 64])
def test_any_length_in_bfloat16(q_tokens, k_tokens, size):
    q, k, v = inputs(2, q_tokens, k_tokens, 2, size, dtype=mx.bfloat16)
    gate = normal((2, q_tokens, 2), 5)
    arguments = {"num_heads": 2, "causal": q_tokens < k_tokens, "gate_logits": gate}
    ours = rope_attention(q, k, v, **arguments)
    exact = expected(q, k, v, **arguments)
    assert error(ours, exact) < 4 * BF16 * max(1.0, np.abs(exact).max())


def test_bits_of_a_query_do_not_depend_on_the_others_in_bfloat16():
    q, k, v = inputs(1, 301, 200, 2, 64, dtype=mx.bfloat16)
    whole = rope_attention(q, k, v, num_heads=2)
    for first, end in ((0, 1), (5, 22), (100, 133), (140, 290)):
        assert mx.array_equal(rope_attention(q[:, first:end], k, v, num_heads=2), whole[:, first:end])


@pytest.mark.parametrize("size", [32, 40, 128])
def test_accepts_any_strides_in_bfloat16(size):
    """Lanes that do not follow one another, tokens in reverse, and views at odd offsets."""
    q, k, v = inputs(2, 50, 140, 2, size, dtype=mx.bfloat16)
    right = rope_attention(q, k, v, num_heads=2)
    apart = [mx.repeat(a, 2, axis=-1)[..., ::2] for a in (q, k, v)]
    turned = [mx.contiguous(a[:, ::-1])[:, ::-1] for a in (q, k, v)]
    odd = [mx.concatenate([mx.zeros((1,), a.dtype), a.reshape(-1)])[1:].reshape(a.shape) for a in (q, k, v)]
    mx.eval(apart, turned, odd)
    for views in (apart, turned, odd):
        assert mx.array_equal(rope_attention(*views, num_heads=2), right)


@pytest.mark.parametrize("size", [1, 2, 3, 15, 17, 20, 31, 33, 40, 72, 96, 256])
def test_any_head_size_in_bfloat16(size):
    q, k, v = inputs(1, 20, 131, 3, size, dtype=mx.bfloat16)
    norm = 1 + normal((size,), 4) / 10
    arguments = {"num_heads": 3, "q_norm": norm, "k_norm": norm}
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 4 * BF16


@pytest.mark.parametrize("shape", [(330,), (49, 330), (2, 1, 49, 330)], ids=str)
def test_blocks_without_an_allowed_key_in_bfloat16(shape):
    """Masked by -inf at the start, in the middle and at the end of the keys; one query sees none."""
    q, k, v = inputs(2, 49, 330, 2, 32, dtype=mx.bfloat16)
    bias = normal(shape, 9, mx.bfloat16)
    bias[..., :260] = -mx.inf
    bias[..., 300:] = -mx.inf
    if len(shape) > 1:
        bias[..., 5, :] = -mx.inf
        bias[..., 6, :] = -mx.inf
        bias[..., 6, 3] = 0.5  # its only key comes first
    for causal in (False, True):
        ours = rope_attention(q, k, v, num_heads=2, bias=bias, causal=causal)
        assert error(ours, expected(q, k, v, num_heads=2, bias=bias, causal=causal)) < 6 * BF16
        if len(shape) > 1:
            assert mx.all(ours[:, 5] == 0).item()
            assert mx.array_equal(ours[:, 6], v[:, 3])


def test_nan_stays_with_its_query_in_bfloat16():
    q, k, v = inputs(1, 50, 140, 1, 32, dtype=mx.bfloat16)
    q[0, 1, 0] = mx.nan
    ours = mx.isnan(rope_attention(q, k, v, num_heads=1))
    assert mx.all(ours[:, 1]).item()
    assert mx.sum(ours).item() == 32


@pytest.mark.parametrize("q_tokens", [1, 5, 6, 7, 143, 144, 145, 301])
@pytest.mark.parametrize("k_tokens", [1, 15, 17, 127, 128, 129, 300])
def test_any_length(q_tokens, k_tokens):
    q, k, v = inputs(1, q_tokens, k_tokens, 2, 16)
    assert error(rope_attention(q, k, v, num_heads=2), expected(q, k, v, num_heads=2)) < 2e-6


@pytest.mark.parametrize("size", [1, 2, 3, 8, 15, 16, 17, 20, 31, 33, 64, 72, 128, 256])
def test_any_head_size(size):
    q, k, v = inputs(2, 9, 20, 3, size)
    norm = normal((3 * size,), 4)
    arguments = {"num_heads": 3, "q_norm": norm, "scale": 0.1}
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 5e-6


@pytest.mark.parametrize("dtype", [pytest.param(mx.float32, marks=pytest.mark.slow), mx.bfloat16], ids=str)
def test_keys_beyond_the_packing_budget(dtype):
    q, k, v = inputs(1, 160, 16700, 1, 256, dtype=dtype)
    tolerance = 2e-6 if dtype == mx.float32 else 2e-3
    assert error(rope_attention(q, k, v, num_heads=1), expected(q, k, v, num_heads=1)) < tolerance


@pytest.mark.parametrize("layout", ["split", "interleaved"])
@pytest.mark.parametrize(
    ("columns", "axes"),
    [(4, 2), (2, 3), (8, 3), (16, 2), (32, 1), (7, 3), (8, 1)],
    ids=["shared", "shared-pad", "full-pad", "full", "full-1", "full-pad-crosses-head", "shared-1"],
)
def test_rotation(columns, axes, layout):
    heads, size = 4, 16  # 8 lanes per head, 32 in all
    q, k, v = inputs(2, 11, 13, heads, size)
    arguments = {"num_heads": heads, "rope_layout": layout, "rope_q": table(11, 5, columns, axes, 6)}
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 2e-6
    arguments["rope_k"] = table(13, 9, columns, axes, 8, batch=2)
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 2e-6


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["split", "interleaved"])
@pytest.mark.parametrize(("columns", "axes"), [(10, 3), (21, 3), (31, 3), (32, 3), (32, 2), (47, 2), (96, 1), (12, 5)])
def test_rotation_of_wide_heads(columns, axes, layout, dtype):
    """Whole vectors of lanes: 32 lanes per head, 96 in all, of which the first ones may be left alone."""
    heads, size = 3, 64
    q, k, v = inputs(2, 18, 14, heads, size, dtype=dtype)
    arguments = {"num_heads": heads, "rope_layout": layout, "rope_q": table(18, 5, columns, axes, 6)}
    tolerance = 2e-6 if dtype == mx.float32 else 5 * BF16
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < tolerance
    arguments["rope_k"] = table(14, 9, columns, axes, 8, batch=2)
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < tolerance


def test_rotation_index_may_count_from_the_end_and_serve_the_batch():
    q, k, v = inputs(2, 5, 5, 2, 8)
    rope = table(5, 6, 4, 1, 6)
    same = RopeTable(rope.cos, rope.sin, (rope.index - 6)[None])
    ours = [rope_attention(q, k, v, num_heads=2, rope_q=r) for r in (rope, same)]
    assert mx.array_equal(*ours)


@pytest.mark.parametrize("bad", [6, -7])
def test_rotation_index_outside_the_table(bad):
    q, k, v = inputs(1, 5, 5, 2, 8)
    rope = table(5, 6, 4, 1, 6)
    rope.index[3] = bad
    with pytest.raises(RuntimeError, match=rf"rope_k.index holds {bad} but the table has 6 rows"):
        mx.eval(rope_attention(q, k, v, num_heads=2, rope_k=rope))
    good = RopeTable(rope.cos, rope.sin, mx.zeros_like(rope.index))
    arguments = {"num_heads": 2, "rope_k": good}
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 2e-6


def test_a_head_owns_its_part_of_a_wide_table():
    heads, size, tokens = 2, 8, 6
    q, k, v = inputs(1, tokens, tokens, heads, size)
    wide = table(tokens, 5, heads * size // 2, 1, 6)
    ours = rope_attention(q, k, v, num_heads=heads, rope_q=wide, rope_k=wide)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        lanes = slice(head * size // 2, (head + 1) * size // 2)
        part = RopeTable(wide.cos[:, lanes], wide.sin[:, lanes], wide.index)
        alone = rope_attention(q[..., own], k[..., own], v[..., own], num_heads=1, rope_q=part, rope_k=part)
        assert mx.array_equal(alone, ours[..., own])


@pytest.mark.parametrize("per_head", [False, True], ids=["wide", "per-head"])
@pytest.mark.parametrize("norm_dtype", DTYPES, ids=str)
def test_norm_weights(per_head, norm_dtype):
    q, k, v = inputs(2, 10, 12, 4, 24, kv_heads=2)
    arguments = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "q_norm": normal((24 if per_head else 96,), 4, norm_dtype),
        "k_norm": normal((24 if per_head else 48,), 5, norm_dtype),
    }
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 5e-6


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("tokens", [3, 110])
def test_grouped_queries(kv_heads, tokens):
    q, k, v = inputs(2, tokens, tokens, 6, 8, kv_heads=kv_heads)
    arguments = {"num_heads": 6, "num_kv_heads": kv_heads, "causal": True}
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 2e-6


@pytest.mark.parametrize(("q_tokens", "k_tokens"), [(1, 1), (4, 9), (9, 4), (200, 300), (300, 200), (130, 130)])
def test_causal(q_tokens, k_tokens):
    q, k, v = inputs(1, q_tokens, k_tokens, 2, 16)
    ours = rope_attention(q, k, v, num_heads=2, causal=True)
    assert error(ours, expected(q, k, v, num_heads=2, causal=True)) < 2e-6
    blind = max(0, q_tokens - k_tokens)
    assert mx.all(ours[:, :blind] == 0).item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (100, 1), (100, 7), (3, 1, 7), (2, 1, 100, 7), (2, 3, 1, 1), (2, 3, 100, 7)], ids=str
)
def test_bias_broadcasts(shape, dtype):
    q, k, v = inputs(2, 100, 7, 3, 8)
    bias = normal(shape, 9, dtype)
    ours = rope_attention(q, k, v, num_heads=3, bias=bias)
    assert error(ours, expected(q, k, v, num_heads=3, bias=bias)) < 2e-6


def test_bias_is_read_in_place_whatever_its_strides():
    q, k, v = inputs(2, 20, 33, 3, 8)
    for bias in (normal((2, 3, 33, 20), 9).swapaxes(2, 3), normal((2, 3, 40, 66), 9)[:, :, ::2, ::-2]):
        assert error(rope_attention(q, k, v, num_heads=3, bias=bias), expected(q, k, v, num_heads=3, bias=bias)) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lowest_finite_bias_masks(dtype):
    q, k, v = inputs(1, 4, 140, 1, 8, dtype=dtype)
    lowest = mx.finfo(dtype).min
    bias = mx.zeros((4, 140), dtype=dtype)
    bias[0, 3:] = lowest  # sees three keys
    bias[1] = lowest  # sees none: the mean of v
    bias[2, :137] = lowest  # sees the last three, after a whole block of masked ones
    ours = as_double(rope_attention(q, k, v, num_heads=1, bias=bias))[0]
    exact = expected(q, k, v, num_heads=1, bias=bias)[0]
    tolerance = {mx.float32: 1e-6, mx.float16: 2e-3, mx.bfloat16: 1e-2}[dtype]
    np.testing.assert_allclose(ours, exact, atol=tolerance)
    if dtype != mx.float16:  # its lowest value does not swallow the scores
        np.testing.assert_allclose(ours[1], as_double(v)[0].mean(0), atol=tolerance)


def test_infinite_bias_masks_and_a_query_without_keys_gives_zeros():
    q, k, v = inputs(1, 3, 140, 2, 8)
    bias = mx.zeros((3, 140))
    bias[0] = -mx.inf
    bias[1, :135] = -mx.inf
    for gate in (None, normal((1, 3, 2), 10)):
        ours = rope_attention(q, k, v, num_heads=2, bias=bias, gate_logits=gate)
        assert error(ours, expected(q, k, v, num_heads=2, bias=bias, gate_logits=gate)) < 2e-6
        assert mx.all(ours[:, 0] == 0).item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_of_a_key_reaches_the_queries_that_see_it(dtype):
    q, k, v = inputs(1, 150, 150, 2, 32, dtype=dtype)
    k[0, 140, 3] = mx.nan  # of the first head
    ours = np.array(mx.isnan(rope_attention(q, k, v, num_heads=2, causal=True)))
    assert ours[0, 140:, :32].all()
    assert ours.sum() == 10 * 32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_of_a_value_stays_in_its_lane(dtype):
    q, k, v = inputs(1, 150, 150, 2, 32, dtype=dtype)
    v[0, 140, 3] = mx.nan
    ours = np.array(mx.isnan(rope_attention(q, k, v, num_heads=2)))
    assert ours[0, :, 3].all()
    assert ours.sum() == 150


@pytest.mark.parametrize("masked", ["bias", "infinite score"])
def test_nan_and_infinities_agree_with_the_reference(masked):
    """Softmax weights of exactly 0 times NaN are NaN, as in the formula; an infinite score is NaN."""
    q, k, v = mx.zeros((1, 2, 32)), mx.zeros((1, 4, 32)), mx.ones((1, 4, 32))
    v[0, 3] = mx.nan
    bias = mx.array([0, 0, 0, -mx.inf]) if masked == "bias" else mx.array([0, 0, mx.inf, 0])
    options = {"q_norm": None, "k_norm": None, "norm_eps": EPS, "rope_q": None, "rope_k": None, "rope_layout": "split",
               "gate_logits": None, "causal": False, "scale": 1.0}  # fmt: skip
    exact = reference.rope_attention(q, k, v, num_heads=1, num_kv_heads=1, bias=bias, **options)
    ours = rope_attention(q, k, v, num_heads=1, bias=bias)
    assert mx.array_equal(ours, exact, equal_nan=True)
    assert mx.isnan(ours).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_zeros_are_zeros(dtype):
    q, k, v = inputs(1, 20, 130, 2, 16, dtype=dtype)
    assert mx.array_equal(
        rope_attention(mx.where(q > 0, q, -0.0), k, v, num_heads=2),
        rope_attention(mx.where(q > 0, q, 0.0), k, v, num_heads=2),
    )
    out = rope_attention(q, k, mx.full(v.shape, -0.0, dtype), num_heads=2)
    assert mx.array_equal(out, mx.zeros_like(out))


def test_nan_stays_with_its_query():
    q, k, v = inputs(1, 3, 140, 1, 8)
    q[0, 1, 0] = mx.nan
    ours = mx.isnan(rope_attention(q, k, v, num_heads=1))
    assert mx.all(ours[:, 1]).item()
    assert not mx.any(ours[:, ::2]).item()


def test_gate():
    q, k, v = inputs(2, 9, 11, 3, 8)
    for logits in (normal((2, 9, 3), 10), normal((2, 3, 9), 10, mx.bfloat16).swapaxes(1, 2)):
        ours = rope_attention(q, k, v, num_heads=3, gate_logits=logits)
        assert error(ours, expected(q, k, v, num_heads=3, gate_logits=logits)) < 2e-6
    extreme = mx.broadcast_to(mx.array([-200.0, 0.0, 200.0]), (2, 9, 3))
    ours = rope_attention(q, k, v, num_heads=3, gate_logits=extreme)
    open_gate = rope_attention(q, k, v, num_heads=3)
    factors = mx.repeat(mx.array([0.0, 1.0, 2.0]), 8)
    assert mx.allclose(ours, open_gate * factors, atol=1e-6)


def test_empty_sides():
    q, k, v = inputs(2, 4, 5, 2, 8)
    assert rope_attention(q[:, :0], k, v, num_heads=2).shape == (2, 0, 16)
    assert rope_attention(q[:0], k[:0], v[:0], num_heads=2).shape == (0, 4, 16)
    assert mx.array_equal(rope_attention(q, k[:, :0], v[:, :0], num_heads=2), mx.zeros_like(q))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accepts_any_strides(dtype):
    fused = normal((2, 30, 3 * 32), 0, dtype)
    norm = normal((32,), 4)
    views = [
        tuple(fused[..., i * 32 : (i + 1) * 32] for i in range(3)),
        tuple(fused.reshape(2, 30, 32, 3)[..., i] for i in range(3)),
        tuple(fused[..., i * 32 : (i + 1) * 32][:, ::-2] for i in range(3)),
        tuple(mx.broadcast_to(fused[:1, :, i * 32 : (i + 1) * 32], (2, 30, 32)) for i in range(3)),
        tuple(normal((32, 2, 30), i, dtype).transpose(1, 2, 0) for i in range(3)),
    ]
    for view in views:
        packed = tuple(mx.contiguous(a) for a in view)
        for heads in (4, 1):
            few = {"num_heads": heads, "q_norm": norm, "k_norm": norm[: 32 // heads]}
            assert mx.array_equal(*(rope_attention(*x, **few) for x in (view, packed)))


def test_gradients_go_through_the_reference():
    q, k, v = inputs(1, 5, 6, 2, 8)
    rope = table(5, 4, 4, 1, 6)
    direction = normal(q.shape, 11)

    def loss(q, k, v, norm):
        out = rope_attention(q, k, v, num_heads=2, q_norm=norm, rope_q=rope, gate_logits=mx.zeros((1, 5, 2)))
        return (out * direction).sum()

    norm = normal((16,), 4)
    for argument, gradient in enumerate(mx.grad(loss, argnums=(0, 1, 2, 3))(q, k, v, norm)):
        at = [q, k, v, norm]
        step = normal(at[argument].shape, 12)
        low, high = list(at), list(at)
        low[argument], high[argument] = at[argument] - 1e-2 * step, at[argument] + 1e-2 * step
        slope = (loss(*high) - loss(*low)).item() / 2e-2
        assert (gradient * step).sum().item() == pytest.approx(slope, rel=2e-2, abs=2e-3)
    tangent = normal(q.shape, 13)
    _, (forward,) = mx.jvp(lambda q: loss(q, k, v, norm), (q,), (tangent,))
    assert forward.item() == pytest.approx((mx.grad(loss)(q, k, v, norm) * tangent).sum().item(), rel=1e-4)


def test_vmap_and_compile():
    q, k, v = (normal((3, 2, 5, 16), i) for i in range(3))
    bias = normal((5, 5), 4)

    def run(q, k, v):
        return rope_attention(q, k, v, num_heads=2, bias=bias)

    mapped = mx.vmap(run)(q, k, v)
    for i in range(3):
        assert mx.allclose(mapped[i], run(q[i], k[i], v[i]), atol=1e-6)
    compiled = mx.compile(run)
    assert mx.array_equal(compiled(q[0], k[0], v[0]), run(q[0], k[0], v[0]))


BITS = """
import hashlib, mlx.core as mx, numpy as np
from ltx2rt.kernels import RopeTable, rope_attention
n = lambda s, i, d=mx.float32: mx.random.normal(s, key=mx.random.key(i)).astype(d)
out = []
for batch, q, k, heads, size in [(1, 200, 300, 4, 32), (2, 3, 700, 2, 64), (1, 1, 1, 1, 8)]:
    for dtype in (mx.float32, mx.bfloat16):
        a = [n((batch, tokens, heads * size), i, dtype) for i, tokens in enumerate((q, k, k))]
        angle = n((9, heads * size // 6), 3)
        index = mx.random.randint(0, 9, (q, 3), key=mx.random.key(4)).astype(mx.int32)
        rope = RopeTable(mx.cos(angle), mx.sin(angle), index)
        y = rope_attention(*a, num_heads=heads, q_norm=n((heads * size,), 5), k_norm=n((size,), 6), rope_q=rope,
                           causal=True, bias=n((q, k), 7), gate_logits=n((batch, q, heads), 8))
        out.append(np.array(y.astype(mx.float32)))
print(hashlib.sha256(b"".join(a.tobytes() for a in out)).hexdigest(), *(repr(float(np.abs(a).sum())) for a in out))
"""


def test_same_bits_for_any_number_of_threads_and_close_without_simd():
    one = in_this_process(BITS, threads=1)
    for threads in (2, 3):
        assert in_this_process(BITS, threads)[0] == one[0]
    plain = in_new_process(BITS, LTX2RT_ISA="portable")[1]
    assert plain[::2] == pytest.approx(one[1][::2], rel=1e-5)  # float32
    assert plain[1::2] == pytest.approx(one[1][1::2], rel=2e-3)  # bfloat16


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_cases(data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    heads, group, batch = draw(1, 2, 3), draw(1, 2), draw(1, 2)
    size, q_tokens, k_tokens = 2 * draw(1, 4, 5, 8, 16, 24), draw(1, 2, 6, 30, 97, 150), draw(1, 7, 33, 128, 140)
    q, k, v = inputs(batch, q_tokens, k_tokens, heads * group, size, kv_heads=heads)
    axes = draw(1, 2, 3)
    arguments = {
        "num_heads": heads * group,
        "num_kv_heads": heads,
        "q_norm": draw(None, normal((size,), 4), normal((heads * group * size,), 4)),
        "k_norm": draw(None, normal((size,), 5), normal((heads * size,), 5)),
        "rope_layout": draw("split", "interleaved"),
        "bias": draw(None, normal((q_tokens, k_tokens), 6), normal((batch, 1, 1, k_tokens), 6)),
        "gate_logits": draw(None, normal((batch, q_tokens, heads * group), 7)),
        "causal": draw(False, True),
    }
    if size // 2 >= axes:
        wide = draw(False, True)
        arguments["rope_q"] = table(q_tokens, 6, size // 2 * (heads * group if wide else 1) // axes, axes, 8)
        arguments["rope_k"] = table(k_tokens, 6, size // 2 * (heads if wide else 1) // axes, axes, 9, draw(None, batch))
    assert error(rope_attention(q, k, v, **arguments), expected(q, k, v, **arguments)) < 1e-5


def zero_table(cos, sin, index, index_dtype=mx.int32):
    return RopeTable(mx.zeros(cos), mx.zeros(sin), mx.zeros(index, index_dtype))


GOOD = {"q": (1, 4, 16), "k": (1, 5, 8), "v": (1, 5, 8), "num_heads": 4, "num_kv_heads": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": mx.zeros((1, 4, 16), mx.int32)}, "q must be float32, float16 or bfloat16 but is int32"),
        ({"q": (4, 16)}, r"q must have shape \(B,Tq,N\*K\) with N = 4 but has \(4,16\)"),
        ({"q": (1, 4, 18)}, r"q must have shape \(B,Tq,N\*K\) with N = 4 but has \(1,4,18\)"),
        ({"num_heads": 0}, "num_heads must be positive but is 0"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads 4 but is 3"),
        ({"k": (2, 5, 8)}, r"k must have shape \(1,Tk,8\) but has \(2,5,8\)"),
        ({"v": (1, 6, 8)}, r"v must have shape \(1,5,8\) but has \(1,6,8\)"),
        ({"k": mx.zeros((1, 5, 8), mx.float16)}, "k must have q's dtype float32 but has float16"),
        ({"v": mx.zeros((1, 5, 8), mx.float16)}, "v must have q's dtype float32 but has float16"),
        ({"norm_eps": -1.0}, "norm_eps must not be negative but is -1"),
        ({"q_norm": mx.zeros((8,))}, r"q_norm must have shape \(16\) or \(4\) but has \(8\)"),
        ({"k_norm": mx.zeros((8,), mx.int32)}, "k_norm must be float32, float16 or bfloat16 but is int32"),
        ({"rope_layout": "half"}, 'rope_layout must be "split" or "interleaved" but is "half"'),
        ({"rope_q": zero_table((3,), (3,), (4, 1))}, r"rope_q.cos must have shape \(R,M\) with R >= 1 but has \(3\)"),
        ({"rope_q": zero_table((3, 2), (3, 1), (4, 1))}, r"rope_q.sin must have shape \(3,2\) but has \(3,1\)"),
        ({"rope_q": zero_table((3, 2), (3, 2), (4, 1), mx.float32)}, "rope_q.index must be int32 but is float32"),
        (
            {"rope_k": zero_table((3, 2), (3, 2), (4, 1))},
            r"rope_k.index must have shape \(5,P\) or \(1,5,P\) but has \(4,1\)",
        ),
        ({"rope_k": zero_table((3, 5), (3, 5), (5, 1))}, r"rope_k turns M\*P = 5 lanes but there are only 4"),
        ({"bias": mx.zeros((4, 4))}, r"bias must broadcast to \(B,N,Tq,Tk\) = \(1,4,4,5\) but has shape \(4,4\)"),
        ({"bias": mx.zeros((5,), mx.bool_)}, "bias must be float32, float16 or bfloat16 but is bool"),
        ({"gate_logits": mx.zeros((1, 4, 2))}, r"gate_logits must have shape \(1,4,4\) but has \(1,4,2\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_rejects(change, message):
    arguments = {**GOOD, **change}
    q, k, v = (mx.zeros(a) if isinstance(a, tuple) else a for a in (arguments.pop(name) for name in "qkv"))
    with pytest.raises(ValueError, match=r"\[rope_attention\] " + message):
        rope_attention(q, k, v, **arguments)


def test_rotation_needs_an_even_head_size():
    q, k, v = inputs(1, 2, 2, 1, 3)
    with pytest.raises(ValueError, match="rope_q needs an even head size but it is 3"):
        rope_attention(q, k, v, num_heads=1, rope_q=table(2, 2, 1, 1, 6))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_causal_queries_share_one_row_of_bias(dtype):
    """Later queries see keys that earlier ones do not; their part of the row must not be left from another call."""
    q, k, v = inputs(2, 150, 140, 2, 32, dtype=dtype)
    for seed in (6, 7):  # the second call finds the first one's row in the scratch memory
        bias = 3 * normal((2, 1, 1, 140), seed)
        exact = expected(q, k, v, num_heads=2, bias=bias, causal=True)
        assert error(rope_attention(q, k, v, num_heads=2, bias=bias, causal=True), exact) < (
            1e-5 if dtype == mx.float32 else 0.03
        )

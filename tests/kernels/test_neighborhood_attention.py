"""neighborhood_attention against a float64 formula: windows, borders, frames, norms, rotation, strides, threads."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from bits_of_programs import in_new_process, in_this_process

from ltx2rt.kernels import NeighborhoodRope, neighborhood_attention, neighborhood_rope, shifted_frames
from ltx2rt.kernels.selection import ext, forced

EPS = 1e-6
BORDERS = ("shift", "mask", "replicate")
LANES = {16: (4, 6, 6), 48: (16, 16, 16), 64: (16, 24, 24)}


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def as_double(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def window(cell, cells, count, border):
    """(cell, position) of every key that a query sees along an axis."""
    if border == "shift":
        first = min(max(cell - count // 2, 0), cells - count)
        return [(i, i) for i in range(first, first + count)]
    around = range(cell - count // 2, cell - count // 2 + count)
    if border == "mask":
        return [(i, i) for i in around if 0 <= i < cells]
    return [(min(max(i, 0), cells - 1), i) for i in around]


def turned(x, time, height, width):
    """x (..., K) at one position, by the formula alone."""
    out, first = x.copy(), 0
    for position, lanes in zip((time, height, width), LANES[x.shape[-1]], strict=True):
        for j in range(lanes // 2):
            angle = position * 10000.0 ** (-2 * j / lanes)
            at = first + 2 * j
            a, b = x[..., at], x[..., at + 1]
            out[..., at] = a * np.cos(angle) - b * np.sin(angle)
            out[..., at + 1] = a * np.sin(angle) + b * np.cos(angle)
        first += lanes
    return out


def expected(q, k, v, key_frames, *, num_heads, window_size, borders, q_norm=None, k_norm=None, times=None):
    """The contract in float64 numpy, query by query."""
    _, frames, height, width, channels = q.shape
    size = channels // num_heads

    def prepared(x, norm):
        x = as_double(x).reshape(*x.shape[:4], num_heads, size)
        return x if norm is None else x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * as_double(norm)

    queries, keys, values = prepared(q, q_norm), prepared(k, k_norm), prepared(v, None)
    made = {}

    def key(frame, row, column, row_position, column_position):
        at = (frame, row_position, column_position)
        if at not in made:
            x = keys[:, frame, row, column]
            made[at] = x if times is None else turned(x, times[1][frame], row_position, column_position)
        return made[at]

    out = np.zeros_like(queries)
    for t in range(frames):
        for h in range(height):
            for w in range(width):
                cells = [
                    (s, i, j, ip, jp)
                    for s in np.array(key_frames)[t]
                    if s >= 0
                    for i, ip in window(h, height, window_size[0], borders[0])
                    for j, jp in window(w, width, window_size[1], borders[1])
                ]
                if not cells:
                    continue
                x = queries[:, t, h, w] if times is None else turned(queries[:, t, h, w], times[0][t], h, w)
                seen = np.stack([key(*cell) for cell in cells])  # (keys, B, N, K)
                scores = np.einsum("bnd,sbnd->sbn", x, seen) * size**-0.5
                weights = np.exp(scores - scores.max(0))
                their = np.stack([values[:, s, i, j] for s, i, j, _, _ in cells])
                out[:, t, h, w] = np.einsum("sbn,sbnd->bnd", weights / weights.sum(0), their)
    return out.reshape(q.shape)


def problem(shape, key_count, heads, size, window_size, borders, frames_seen, dtype=mx.float32, *, plain=False):
    """Arrays and arguments of one call, and its exact result. frames_seen: (T, J)."""
    batch, frames, height, width = shape
    q = normal((batch, frames, height, width, heads * size), 1, dtype)
    k, v = (normal((batch, key_count, height, width, heads * size), seed, dtype) for seed in (2, 3))
    key_frames = mx.array(np.array(frames_seen, np.int32))
    arguments = {"num_heads": heads, "window": window_size, "borders": borders}
    exact = {"num_heads": heads, "window_size": window_size, "borders": borders}
    if not plain:
        rng = np.random.default_rng(4)
        times = rng.uniform(-3, 9, frames), rng.uniform(-3, 9, key_count)
        norms = {name: 1 + normal((size,), seed) / 4 for name, seed in (("q_norm", 5), ("k_norm", 6))}
        rope = neighborhood_rope(*times, (height, width), window_size, lanes=LANES[size])
        arguments |= {**norms, "rope": rope}
        exact |= {**norms, "times": times}
    return (q, k, v, key_frames), arguments, expected(q, k, v, key_frames, **exact)


def error(ours, exact):
    return np.abs(as_double(ours) - exact).max(initial=0.0)


# Queries of (T, H, W), frames of k, window, frames that each query sees: aligned with the boxes of queries, ragged,
# smaller than a box, planes beyond the frames of the queries, and frames far apart or none at all.
SIZES = {
    "aligned": ((1, 2, 4, 8), 2, (3, 3), [[0, 1], [0, 1]]),
    "ragged": ((2, 3, 5, 7), 3, (3, 5), [[0, 1], [1, 2], [2, 1]]),
    "even windows": ((1, 3, 6, 9), 3, (4, 2), [[0, 1], [1, 2], [2, 1]]),
    "several blocks": ((1, 1, 18, 35), 1, (3, 3), [[0]]),
    "one cell": ((1, 1, 1, 1), 1, (1, 1), [[0]]),
    "planes": ((1, 4, 4, 5), 7, (3, 3), [[0, 1, -1, 4, 5], [0, 1, 2, 4, 6], [-1, 6, 2, 3, 5], [6, 3, -1, -1, -1]]),
    "far apart": ((1, 4, 3, 4), 9, (3, 3), [[0, 1], [7, 8], [-1, -1], [3, 3]]),
}


EVERY_BORDERS = [(a, b) for a in BORDERS for b in BORDERS]


@pytest.mark.parametrize(
    ("name", "borders"),
    [
        pytest.param(name, both, marks=() if (place - index) % 3 == 0 else pytest.mark.slow)
        for index, name in enumerate(SIZES)
        for place, both in enumerate(EVERY_BORDERS)
    ],
)
def test_windows_and_borders(name, borders):
    shape, keys, size, seen = SIZES[name]
    arrays, arguments, exact = problem(shape, keys, 1, 16, size, borders, seen)
    assert error(neighborhood_attention(*arrays, **arguments), exact) < 3e-6


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("size", [16, 48, 64])
@pytest.mark.parametrize("borders", [("shift", "replicate"), ("mask", "mask")], ids="-".join)
def test_is_as_accurate_as_plain_code(size, borders, dtype):
    arrays, arguments, exact = problem(
        (1, 3, 6, 9), 4, 2, size, (5, 5), borders, [[0, 1, 3], [1, 2, 0], [2, 1, -1]], dtype
    )
    ours = neighborhood_attention(*arrays, **arguments)
    assert ours.dtype == dtype
    with forced("mlx"):
        low = error(neighborhood_attention(*arrays, **arguments), exact)
    assert error(ours, exact) <= 2 * low + 1e-6


# As SIZES, for the loops of the published head size in bfloat16: blocks of several frames, whole and not, columns that
# fill one tile or two, and frames that some boxes of a block do not see.
WIDE_SIZES = {
    "frames": ((1, 11, 5, 9), 11, (3, 5), [[t, t + 1, t + 2] for t in (0, *range(9), 8)]),
    "blocks": ((1, 3, 17, 18), 3, (3, 3), [[0, 1], [0, 1], [1, 2]]),
    "two tiles": ((2, 2, 3, 37), 2, (3, 19), [[0, 1], [1, -1]]),
    "far apart": ((1, 4, 3, 4), 9, (3, 3), [[0, 1], [7, 8], [-1, -1], [3, 3]]),
}


WIDE_BORDERS = [("shift", "replicate"), ("mask", "mask"), ("replicate", "shift")]


@pytest.mark.parametrize(
    ("name", "borders"),
    [
        pytest.param(name, WIDE_BORDERS[place], marks=() if place == index % 3 else pytest.mark.slow)
        for index, name in enumerate(WIDE_SIZES)
        for place in range(3)
    ],
)
def test_published_heads_in_bfloat16(name, borders):
    shape, keys, size, seen = WIDE_SIZES[name]
    arrays, arguments, exact = problem(shape, keys, 1, 64, size, borders, seen, mx.bfloat16)
    with forced("mlx"):
        low = error(neighborhood_attention(*arrays, **arguments), exact)
    assert error(neighborhood_attention(*arrays, **arguments), exact) <= 2 * low + 1e-6


def test_boxes_of_queries_below_one_another():
    """A window of 16 columns makes boxes of one column, whose rows of queries see rows of keys in many ways."""
    arrays, arguments, exact = problem((1, 1, 34, 1), 1, 1, 64, (29, 16), ("shift", "replicate"), [[0]], mx.bfloat16)
    with forced("mlx"):
        low = error(neighborhood_attention(*arrays, **arguments), exact)
    assert error(neighborhood_attention(*arrays, **arguments), exact) <= 2 * low + 1e-6


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("loud", [1, 10])
def test_same_bits_however_many_frames_of_queries(loud, dtype):
    """Some scores need a base and others none, in the same frames."""
    q, k, v = (normal((1, 11, 6, 9, 64), seed, dtype) for seed in range(3))
    q = q * (1 + (loud - 1) * mx.random.uniform(shape=(1, 11, 6, 9, 1), key=mx.random.key(3))).astype(dtype)
    k = k * mx.arange(1, 12).reshape(1, 11, 1, 1, 1).astype(dtype) * 0.4
    seen = shifted_frames(11, 3)
    arguments = {"num_heads": 1, "window": (3, 5), "borders": ("shift", "replicate")}
    whole = neighborhood_attention(q, k, v, seen, **arguments)
    for first, end in ((0, 1), (1, 4), (2, 11)):
        part = neighborhood_attention(q[:, first:end], k, v, seen[first:end], **arguments)
        assert mx.array_equal(part, whole[:, first:end])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_key_that_is_no_number_shows(value, dtype):
    """In the queries that see it, and not in those that are nowhere near it."""
    q, k, v = (normal((1, 2, 9, 40, 64), seed, dtype) for seed in range(3))
    k[0, 1, 4, 20, 3] = value
    ours = neighborhood_attention(q, k, v, shifted_frames(2, 2), num_heads=1, window=(3, 3))
    finite = np.isfinite(as_double(ours)).all(-1)[0]
    seeing = finite[:, 3:6, 19:22]
    assert not seeing.all() if value == np.inf else not seeing.any()  # minus infinity is a weight of zero
    assert finite[:, :, :8].all()
    assert finite[:, :, 32:].all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("loud", [1, 40])
def test_large_scores(loud, dtype):
    """One key that takes all, among frames that come later: the largest score so far changes from frame to frame."""
    (q, k, v, seen), arguments, _ = problem((1, 2, 4, 4), 4, 1, 64, (3, 3), ("mask", "mask"), [[0, 1, 2, 3]] * 2, dtype)
    arguments |= {"rope": None, "q_norm": loud * arguments["q_norm"]}
    k = k * mx.arange(1, 5).reshape(1, 4, 1, 1, 1).astype(dtype)
    norms = {name: arguments[name] for name in ("q_norm", "k_norm")}
    exact = expected(q, k, v, seen, num_heads=1, window_size=(3, 3), borders=("mask", "mask"), **norms)
    with forced("mlx"):
        low = error(neighborhood_attention(q, k, v, seen, **arguments), exact)
    assert error(neighborhood_attention(q, k, v, seen, **arguments), exact) <= 2 * low + 2e-5


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_the_widest_window_and_head(dtype):
    arrays, arguments, exact = problem((1, 1, 3, 70), 1, 1, 64, (3, 69), ("mask", "shift"), [[0]], dtype)
    tolerance = 3e-6 if dtype == mx.float32 else 0.02
    assert error(neighborhood_attention(*arrays, **arguments), exact) < tolerance
    arrays, arguments, exact = problem((1, 1, 2, 3), 1, 1, 256, (1, 3), ("shift", "mask"), [[0]], dtype, plain=True)
    assert error(neighborhood_attention(*arrays, **arguments), exact) < tolerance


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_one_key_gives_its_value(dtype):
    q, k, v = (normal((1, 1, 5, 6, 64), seed, dtype) for seed in range(3))
    ours = neighborhood_attention(30 * q, k, v, mx.array([[0]]), num_heads=1, window=(1, 1))
    assert mx.allclose(ours, v, rtol=1e-6, atol=0).item()


def test_a_query_without_keys_gives_zeros():
    (q, k, v, _), arguments, _ = problem((1, 2, 3, 4), 2, 1, 16, (3, 3), ("mask", "mask"), [[0], [1]])
    ours = neighborhood_attention(q, k, v, mx.array([[-1, -1], [1, -1]]), **arguments)
    assert mx.all(ours[:, 0] == 0).item()
    assert not mx.any(ours[:, 1] == 0).item()
    none = neighborhood_attention(q, k, v, mx.zeros((2, 0), mx.int32), **arguments)
    assert mx.array_equal(none, mx.zeros_like(q))


def test_whole_windows_are_plain_attention():
    """Where every query sees everything, the order of keys does not matter."""
    (q, k, v, _), arguments, _ = problem(
        (1, 3, 3, 4), 3, 2, 16, (3, 4), ("shift", "shift"), [[0, 1, 2]] * 3, plain=True
    )
    ours = neighborhood_attention(q, k, v, shifted_frames(3, 3), **arguments)
    heads = [a.reshape(1, 36, 2, 16).transpose(0, 2, 1, 3) for a in (q, k, v)]
    dense = mx.fast.scaled_dot_product_attention(*heads, scale=0.25).transpose(0, 2, 1, 3).reshape(q.shape)
    assert mx.allclose(ours, dense, atol=2e-6).item()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_accepts_any_strides(dtype):
    fused = normal((2, 3, 4, 5, 3 * 64), 0, dtype)
    seen = shifted_frames(3, 2)
    views = [
        tuple(fused[..., i * 64 : (i + 1) * 64] for i in range(3)),
        tuple(fused.reshape(2, 3, 4, 5, 64, 3)[..., i] for i in range(3)),
        tuple(fused[:, ::-1, :, ::-1, i * 64 : (i + 1) * 64] for i in range(3)),
        tuple(mx.broadcast_to(fused[:1, :1, ..., i * 64 : (i + 1) * 64], (2, 3, 4, 5, 64)) for i in range(3)),
    ]
    for view in views:
        packed = tuple(mx.contiguous(a) for a in view)
        ours = [neighborhood_attention(*x, seen, num_heads=1, window=(3, 3)) for x in (view, packed)]
        assert mx.array_equal(*ours)


def test_shifted_frames():
    assert shifted_frames(5, 3).tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    assert shifted_frames(4, 2).tolist() == [[0, 1], [0, 1], [1, 2], [2, 3]]
    with pytest.raises(ValueError, match="a window of 4 frames does not fit into 3 frames"):
        shifted_frames(3, 4)


def test_gradients_vmap_and_compile():
    (q, k, v, seen), arguments, _ = problem((1, 2, 3, 4), 3, 1, 64, (3, 3), ("shift", "mask"), [[0, 2], [1, -1]])

    def run(q, k, v):
        return neighborhood_attention(q, k, v, seen, **arguments)

    direction = normal(q.shape, 8)
    gradient = mx.grad(lambda q: (run(q, k, v) * direction).sum())(q)
    step = normal(q.shape, 9)
    slope = ((run(q + 1e-2 * step, k, v) - run(q - 1e-2 * step, k, v)) * direction).sum().item() / 2e-2
    assert (gradient * step).sum().item() == pytest.approx(slope, rel=2e-2, abs=2e-3)
    assert mx.array_equal(mx.compile(run)(q, k, v), run(q, k, v))
    mapped = mx.vmap(run)(*(mx.stack([a, 2 * a]) for a in (q, k, v)))
    assert mx.allclose(mapped[1], run(2 * q, 2 * k, 2 * v), atol=1e-5).item()


def test_new_shapes_are_checked_again():
    def run(q, k, seen):
        return neighborhood_attention(q, k, k, seen, num_heads=1, window=(3, 3))

    traced = mx.compile(run, shapeless=True)
    q, seen = normal((1, 2, 4, 4, 64), 0), mx.array([[0, 1], [1, 0]])
    assert mx.array_equal(traced(q, q, seen), run(q, q, seen))
    taller = normal((1, 2, 6, 4, 64), 0)
    assert mx.allclose(traced(taller, taller, seen), run(taller, taller, seen), atol=1e-6).item()
    low = normal((1, 2, 2, 4, 64), 0)
    with pytest.raises(ValueError, match="a window of 3 cells cannot be shifted inside along the height, which has 2"):
        mx.eval(traced(low, low, seen))


@pytest.mark.parametrize("bad", [3, -2])
def test_a_frame_that_k_does_not_have(bad):
    (q, k, v, _), arguments, _ = problem((1, 2, 3, 4), 3, 1, 16, (3, 3), ("mask", "mask"), [[0], [1]])
    message = rf"\[neighborhood_attention\] key_frames holds {bad} but k has 3 frames"
    with pytest.raises(RuntimeError, match=message):
        neighborhood_attention(q, k, v, mx.array([[0], [bad]]), **arguments)
    with pytest.raises(RuntimeError, match=message):  # not known yet
        mx.eval(neighborhood_attention(q, k, v, mx.array([[0], [bad - 1]]) + mx.array([[0], [1]]), **arguments))


BITS = """
import hashlib, mlx.core as mx, numpy as np
from ltx2rt.kernels import neighborhood_attention, neighborhood_rope, shifted_frames
n = lambda s, i, d=mx.float32: mx.random.normal(s, key=mx.random.key(i)).astype(d)
out = []
for dtype in (mx.float32, mx.bfloat16):
    q, k, v = (n((1, 5, 20, 21, 128), i, dtype) for i in range(3))
    rope = neighborhood_rope(range(5), range(5), (20, 21), (5, 7))
    y = neighborhood_attention(q, k, v, shifted_frames(5, 3), num_heads=2, window=(5, 7), q_norm=1 + n((64,), 5) / 4,
                               k_norm=1 + n((64,), 6) / 4, rope=rope, borders=("shift", "replicate"))
    out.append(np.array(y.astype(mx.float32)))
print(hashlib.sha256(b"".join(a.tobytes() for a in out)).hexdigest(), *(repr(float(np.abs(a).sum())) for a in out))
"""


def test_same_bits_for_any_number_of_threads_and_close_without_simd():
    one = in_this_process(BITS, threads=1)
    for threads in (2, 3):
        assert in_this_process(BITS, threads)[0] == one[0]
    plain = in_new_process(BITS, LTX2RT_ISA="portable")[1]
    assert plain == pytest.approx(one[1], rel=2e-3)


def test_scratch_does_not_grow_with_the_clip():
    def taken(frames, height=64):
        return ext.neighborhood_attention_scratch_bytes(
            (1, frames, height, 64, 256),
            key_frames=frames,
            slots=11,
            heads=4,
            window=(11, 11),
            borders=("shift", "replicate"),
            dtype=mx.bfloat16,
            threads=2,
        )

    assert taken(25) == taken(121)
    assert taken(25, 512) < 70 << 20


def zeros(*shape, dtype=mx.float32):
    return mx.zeros(shape, dtype)


ROPE = neighborhood_rope([0, 1], [0, 1, 2], (3, 4), (3, 3), lanes=LANES[16])
GOOD = {
    "q": zeros(1, 2, 3, 4, 32),
    "k": zeros(1, 3, 3, 4, 32),
    "v": zeros(1, 3, 3, 4, 32),
    "key_frames": mx.zeros((2, 2), mx.int32),
    "num_heads": 2,
    "window": (3, 3),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": zeros(1, 2, 3, 4, 32, dtype=mx.int32)}, "q must be float32, float16 or bfloat16 but is int32"),
        ({"q": zeros(2, 3, 4, 32)}, r"q must have shape \(B,T,H,W,N\*K\) with N = 2 but has \(2,3,4,32\)"),
        ({"q": zeros(1, 2, 3, 4, 33)}, r"q must have shape \(B,T,H,W,N\*K\) with N = 2 but has \(1,2,3,4,33\)"),
        ({"num_heads": 0}, "num_heads must be positive but is 0"),
        ({"num_heads": 4}, "heads must have a multiple of 16 values up to 256 but q has 8"),
        ({"k": zeros(1, 3, 3, 5, 32)}, r"k must have shape \(1,S,3,4,32\) but has \(1,3,3,5,32\)"),
        ({"v": zeros(1, 2, 3, 4, 32)}, r"v must have shape \(1,3,3,4,32\) but has \(1,2,3,4,32\)"),
        ({"k": zeros(1, 3, 3, 4, 32, dtype=mx.float16)}, "k must have q's dtype float32 but has float16"),
        ({"v": zeros(1, 3, 3, 4, 32, dtype=mx.float16)}, "v must have q's dtype float32 but has float16"),
        ({"key_frames": mx.zeros((2, 2))}, "key_frames must be int32 but is float32"),
        ({"key_frames": mx.zeros((3, 2), mx.int32)}, r"key_frames must have shape \(2,J\) but has \(3,2\)"),
        ({"window": (0, 3)}, "window must be positive but is 0 along the height"),
        ({"window": (3, 5)}, "a window of 5 cells cannot be shifted inside along the width, which has 4"),
        ({"borders": ("shift", "wrap")}, 'borders must be "shift", "mask" or "replicate" but one is "wrap"'),
        ({"norm_eps": -1.0}, "norm_eps must not be negative but is -1"),
        ({"q_norm": zeros(32)}, r"q_norm must have shape \(16\) but has \(32\)"),
        ({"k_norm": zeros(16, dtype=mx.int32)}, "k_norm must be float32, float16 or bfloat16 but is int32"),
        ({"rope": ROPE._replace(q_time=zeros(2, 3, 2))}, r"rope.q_time must have shape \(2,2,F\) but has \(2,3,2\)"),
        ({"rope": ROPE._replace(k_time=zeros(2, 3, 3))}, "rope.k_time must turn as many pairs of lanes"),
        ({"rope": ROPE._replace(width=zeros(2, 4, 3))}, r"rope.width must have shape \(2,6,F\) but has \(2,4,3\)"),
        ({"rope": ROPE._replace(height=zeros(2, 5, 4))}, "rope turns 18 lanes but a head has 16"),
        (
            {"rope": NeighborhoodRope(*(a.astype(mx.int32) for a in ROPE))},
            "rope.q_time must be float32, float16 or bfloat16 but is int32",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_rejects(change, message):
    arguments = {**GOOD, **change}
    arrays = [arguments.pop(name) for name in ("q", "k", "v", "key_frames")]
    with pytest.raises(ValueError, match=r"\[neighborhood_attention\] " + message):
        neighborhood_attention(*arrays, **arguments)

"""modulated_norm: accuracy, odd sizes, strides, transforms, threads and each rejected argument."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt import _ext
from ltx2rt.kernels import modulated_norm, reference

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
NORMS = ["rms", "layer", "none"]
WIDTHS = [1, 3, 7, 8, 9, 31, 33, 64, 129]  # around the vector widths and their fourfold


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def plain(x, scale, shift, norm):
    """The formula as written by hand in the dtype of x."""
    if norm == "layer":
        x = x - mx.mean(x, axis=-1, keepdims=True)
    if norm != "none":
        x = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return x * (1 + scale) + shift


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_is_as_accurate_as_plain_code(width, dtype, norm):
    x, scale, shift = normal((3, 5, width), 0, dtype), normal((1, width), 1, dtype), normal((1, width), 2, dtype)
    exact = reference.modulated_norm(x.astype(mx.float32), scale=scale, shift=shift, index=None, norm=norm, eps=1e-6)
    naive = plain(x, scale, shift, norm)
    ours = modulated_norm(x, scale=scale, shift=shift, norm=norm)
    assert ours.dtype == dtype
    budget = 2 * mx.abs(naive.astype(mx.float32) - exact).max().item() + 1e-6 * (1 + mx.abs(exact).max().item())
    assert mx.abs(ours.astype(mx.float32) - exact).max().item() <= budget


@pytest.mark.parametrize("table_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parts", [(), ("scale",), ("shift",), ("scale", "shift")], ids="+".join)
def test_gathers_the_row_of_each_token(parts, table_dtype):
    x = normal((2, 6, 40), 0)
    tables = {name: normal((4, 40), i, table_dtype) for i, name in enumerate(parts)}
    index = mx.array([[0, 0, 3, 1, -1, 2], [1, 1, 1, 0, 0, -4]]) if parts else None
    ours = modulated_norm(x, index=index, **tables)
    arguments = {"scale": None, "shift": None, **tables}
    exact = reference.modulated_norm(x, index=index, norm="rms", eps=1e-6, **arguments)
    assert mx.allclose(ours, exact, rtol=1e-6, atol=1e-6)


def test_accepts_any_strides():
    base = normal((5, 4, 6, 32), 0)
    table = normal((1, 64), 1)
    views = [
        base.transpose(2, 0, 1, 3),
        base[:, ::2, 1:, :],
        base.swapaxes(2, 3),
        base[..., ::-2],
        mx.broadcast_to(base[:1], base.shape),
        base[::-1],
    ]
    for view in views:
        scale = table[:, : view.shape[-1]]
        exact = reference.modulated_norm(view, scale=scale, shift=None, index=None, norm="layer", eps=1e-6)
        assert mx.allclose(modulated_norm(view, scale=scale, norm="layer"), exact, rtol=1e-6, atol=1e-5)
    assert mx.allclose(
        modulated_norm(base, scale=mx.broadcast_to(table[:, :1], (1, 32))),
        modulated_norm(base, scale=mx.contiguous(mx.broadcast_to(table[:, :1], (1, 32)))),
    )


def test_leaves_an_input_that_is_still_needed():
    x = normal((4, 64), 0)
    before = mx.array(x)
    mx.eval(x, before, modulated_norm(x))
    assert mx.array_equal(x, before)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)], ids=str)
def test_empty_input_gives_empty_output(shape):
    out = modulated_norm(mx.zeros(shape))
    mx.eval(out)
    assert out.shape == shape


def test_differentiates_through_the_reference():
    x, table, index = normal((2, 3, 16), 0), normal((4, 16), 1), mx.array([[0, 3, 3], [1, 2, 0]])

    def loss(op):
        return lambda x, s: (op(x, scale=s, shift=s, index=index, norm="rms", eps=1e-6) ** 2).sum()

    ours = mx.grad(loss(modulated_norm), argnums=(0, 1))(x, table)
    exact = mx.grad(loss(reference.modulated_norm), argnums=(0, 1))(x, table)
    for a, b in zip(ours, exact, strict=True):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)
    _, tangents = mx.jvp(lambda x: modulated_norm(x, scale=table, index=index), [x], [mx.ones_like(x)])
    _, expected = mx.jvp(
        lambda x: reference.modulated_norm(x, scale=table, shift=None, index=index, norm="rms", eps=1e-6),
        [x],
        [mx.ones_like(x)],
    )
    assert mx.allclose(tangents[0], expected[0], rtol=1e-5, atol=1e-5)


def test_vectorises_and_compiles():
    x, scale = normal((3, 4, 16), 0), normal((3, 16), 1)
    batched = mx.vmap(lambda x, s: modulated_norm(x, scale=s[None]), in_axes=(1, None))(mx.swapaxes(x, 0, 1), scale[0])
    assert mx.allclose(batched, modulated_norm(x, scale=scale[:1]), rtol=1e-6, atol=1e-6)
    compiled = mx.compile(lambda x: modulated_norm(x, scale=scale[:1]) + modulated_norm(x, norm="layer"))
    for _ in range(2):
        assert mx.array_equal(compiled(x), modulated_norm(x, scale=scale[:1]) + modulated_norm(x, norm="layer"))


def test_has_the_same_bits_for_any_number_of_threads(monkeypatch):
    x, table = normal((301, 513), 0, mx.bfloat16), normal((2, 513), 1)
    index = mx.arange(301) % 2
    threads = _ext.num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            _ext.set_num_threads(count)
            results.append(modulated_norm(x, scale=table, shift=table, index=index, norm="layer"))
            mx.eval(results[-1])
    finally:
        _ext.set_num_threads(threads)
    assert all(mx.array_equal(results[0], result) for result in results[1:])


def test_a_row_does_not_depend_on_the_others():
    x = normal((9, 77), 0)
    assert mx.array_equal(modulated_norm(x)[4:5], modulated_norm(x[4:5]))


X = mx.zeros((2, 3, 8))
T = mx.zeros((4, 8))
INDEX = mx.zeros((2, 3), mx.int32)
REJECTED = {
    "x must be float32, float16 or bfloat16 but is int32": ((X.astype(mx.int32),), {}),
    "x must have at least one axis": ((mx.array(1.0),), {}),
    'norm must be "rms", "layer" or "none" but is "batch"': ((X,), {"norm": "batch"}),
    "eps must not be negative but is -1": ((X,), {"eps": -1.0}),
    "scale must be float32, float16 or bfloat16 but is int32": ((X,), {"scale": T.astype(mx.int32), "index": INDEX}),
    r"scale must have shape \(R,8\) with R >= 1 but has \(8\)": ((X,), {"scale": T[0]}),
    r"shift must have shape \(R,8\) with R >= 1 but has \(4,7\)": ((X,), {"shift": T[:, 1:], "index": INDEX}),
    "index is needed because scale has 4 rows": ((X,), {"scale": T}),
    "scale and shift must have the same rows": ((X,), {"scale": T, "shift": T[:1], "index": INDEX}),
    "index must be int32 but is float32": ((X,), {"scale": T, "index": INDEX.astype(mx.float32)}),
    r"index must have shape \(2,3\) but has \(6\)": ((X,), {"scale": T, "index": INDEX.reshape(6)}),
    "index needs scale or shift": ((X,), {"index": INDEX}),
}


@pytest.mark.parametrize("mode", ["compiled", "reference"])
@pytest.mark.parametrize("message", REJECTED)
def test_names_the_bad_argument(message, mode, monkeypatch):
    monkeypatch.setenv("LTX2RT_KERNELS", mode)
    arguments, options = REJECTED[message]
    with pytest.raises(ValueError, match=r"^\[modulated_norm\] " + message):
        modulated_norm(*arguments, **options)


def test_an_index_out_of_range_is_an_error_not_a_crash():
    with pytest.raises(Exception, match="index holds 4 but scale and shift have 4 rows"):
        mx.eval(modulated_norm(X, scale=T, index=INDEX + 4))

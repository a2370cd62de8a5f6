"""antialiased_snake: accuracy, sine at any angle, borders, odd sizes, strides, threads and each rejected argument."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import _ext
from ltx2rt.kernels import antialiased_snake, reference

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
HALF = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]
LOWPASS = mx.array(HALF + HALF[::-1])
PASS_ON = mx.zeros(12).at[5].add(1.0)  # as both filters: each sample meets its own value alone


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def inputs(samples, channels, dtype=mx.float32, batch=2):
    """x, alpha, beta and two unsymmetric filters, so that a reversed or shifted tap shows."""
    rise, fall = LOWPASS + 0.1 * normal((12,), 4), LOWPASS + 0.1 * normal((12,), 5)
    return (
        normal((batch, samples, channels), 1, dtype),
        0.3 * normal((channels,), 2),
        0.3 * normal((channels,), 3),
        rise,
        fall,
    )


def exact(x, alpha, beta, rise, fall):
    """The definition with inserted zeros, in float64."""
    x, alpha, beta, rise, fall = (np.array(a.astype(mx.float32), np.float64) for a in (x, alpha, beta, rise, fall))
    length = x.shape[1]
    padded = np.pad(x, ((0, 0), (5, 5), (0, 0)), mode="edge")
    sparse = np.zeros((x.shape[0], 2 * length + 30, x.shape[2]))
    for i in range(length + 10):
        sparse[:, 2 * i : 2 * i + 12] += 2 * padded[:, i : i + 1] * rise[:, None]
    fine = sparse[:, 15 : 15 + 2 * length]
    fine = fine + np.sin(np.exp(alpha) * fine) ** 2 / (np.exp(beta) + 1e-9)
    padded = np.pad(fine, ((0, 0), (5, 6), (0, 0)), mode="edge")
    return sum(fall[t] * padded[:, t : t + 2 * length : 2] for t in range(12))


@pytest.mark.parametrize("op", [antialiased_snake, reference.antialiased_snake], ids=["kernel", "reference"])
@pytest.mark.parametrize(
    ("samples", "channels"), [(1, 1), (2, 3), (5, 8), (7, 9), (127, 16), (128, 17), (129, 24), (133, 31), (300, 2)]
)
def test_agrees_with_zero_insertion(samples, channels, op):
    arguments = inputs(samples, channels)
    np.testing.assert_allclose(np.array(op(*arguments)), exact(*arguments), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [5, 24])
def test_rounds_low_precision_once(channels, dtype):
    arguments = inputs(140, channels, dtype)
    ours = antialiased_snake(*arguments)
    assert ours.dtype == dtype
    rounded = mx.array(exact(*arguments).astype(np.float32)).astype(dtype).astype(mx.float32)
    ulp = 2.0**-10 if dtype == mx.float16 else 2.0**-7
    assert mx.all(mx.abs(ours.astype(mx.float32) - rounded) <= ulp * mx.maximum(mx.abs(rounded), 0.1))
    assert mx.mean(ours.astype(mx.float32) == rounded).item() > 0.97


@pytest.mark.parametrize("table_dtype", DTYPES, ids=str)
def test_parameters_may_have_any_float_dtype(table_dtype):
    x, *tables = inputs(40, 12)
    tables = [table.astype(table_dtype) for table in tables]
    np.testing.assert_allclose(np.array(antialiased_snake(x, *tables)), exact(x, *tables), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reach", [1.0, 100.0, 6000.0, 7000.0, 1e5, 1e7])
def test_the_sine_is_exact_to_float32_at_any_angle(reach):
    # The gain makes sin^2 the whole result; angles are the samples themselves.
    x = mx.random.uniform(-reach, reach, (1, 4000, 9), key=mx.random.key(6))
    log_gain = mx.full((9,), -18.0)
    out = np.array(antialiased_snake(x, mx.zeros(9), log_gain, PASS_ON / 2, PASS_ON), np.float64)
    values = np.array(x, np.float64)
    sine_squared = (out - values) * (np.exp(-18.0) + 1e-9)
    assert np.abs(sine_squared - np.sin(values) ** 2).max() < 5e-7


def test_infinities_and_nan_stay_with_their_lane():
    x = normal((1, 40, 12), 0)
    broken = np.array(x)
    broken[0, 20, 3], broken[0, 20, 7] = np.inf, np.nan
    arguments = (mx.zeros(12), mx.zeros(12), LOWPASS, LOWPASS)
    ours, whole = np.array(antialiased_snake(mx.array(broken), *arguments)), np.array(antialiased_snake(x, *arguments))
    assert np.isnan(ours[0, 20, [3, 7]]).all()
    others = [c for c in range(12) if c not in (3, 7)]
    assert np.array_equal(ours[..., others], whole[..., others])
    assert np.array_equal(ours[:, 27:], whole[:, 27:])


def test_accepts_any_strides():
    base = normal((3, 40, 4, 16), 0)
    _, alpha, beta, rise, fall = inputs(1, 16)
    for view in (
        base[:, :, 1],
        base[:, ::-2, 0],
        base[:, 0].swapaxes(0, 1),
        mx.broadcast_to(base[:1, :, 0], (3, 40, 16)),
    ):
        expected = reference.antialiased_snake(view, alpha, beta, rise, fall)
        assert mx.allclose(antialiased_snake(view, alpha, beta, rise, fall), expected, rtol=1e-5, atol=1e-5)
    x = base[:, :, 0]
    assert mx.array_equal(
        antialiased_snake(x, alpha[::-1], beta, rise[::-1], fall),
        antialiased_snake(x, mx.contiguous(alpha[::-1]), beta, mx.contiguous(rise[::-1]), fall),
    )


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=str)
def test_empty_input_gives_empty_output(shape):
    out = antialiased_snake(mx.zeros(shape), *(mx.zeros(shape[2]),) * 2, LOWPASS, LOWPASS)
    mx.eval(out)
    assert out.shape == shape


def test_differentiates_and_vectorises_through_the_reference():
    arguments = inputs(9, 4)

    def loss(op):
        return lambda *a: (op(*a) ** 2).sum()

    every = tuple(range(5))
    ours = mx.grad(loss(antialiased_snake), argnums=every)(*arguments)
    expected = mx.grad(loss(reference.antialiased_snake), argnums=every)(*arguments)
    for a, b in zip(ours, expected, strict=True):
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-4)
    x = mx.stack([arguments[0], 2 * arguments[0]])
    batched = mx.vmap(lambda x: antialiased_snake(x, *arguments[1:]))(x)
    assert mx.allclose(batched[1], antialiased_snake(x[1], *arguments[1:]), rtol=1e-5, atol=1e-5)


def test_has_the_same_bits_for_any_number_of_threads():
    arguments = inputs(1100, 37, mx.bfloat16)
    threads = _ext.num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            _ext.set_num_threads(count)
            results.append(antialiased_snake(*arguments))
            mx.eval(results[-1])
    finally:
        _ext.set_num_threads(threads)
    assert all(mx.array_equal(results[0], result) for result in results[1:])


def test_a_sample_depends_on_six_neighbours_alone():
    x, *tables = inputs(400, 10)
    whole, part = antialiased_snake(x, *tables), antialiased_snake(x[:, 100:200], *tables)
    assert mx.array_equal(whole[:, 106:194], part[:, 6:94])
    assert mx.array_equal(whole[1:], antialiased_snake(x[1:], *tables))


X, C, F = mx.zeros((2, 5, 8)), mx.zeros(8), mx.zeros(12)
REJECTED = {
    "x must be float32, float16 or bfloat16 but is int32": (X.astype(mx.int32), C, C, F, F),
    r"x must have shape \(B,S,C\) but has \(5,8\)": (X[0], C, C, F, F),
    "alpha must be float32, float16 or bfloat16 but is int32": (X, C.astype(mx.int32), C, F, F),
    r"alpha must have shape \(8\) but has \(7\)": (X, C[:7], C, F, F),
    r"beta must have shape \(8\) but has \(1,8\)": (X, C, C[None], F, F),
    r"rise must have shape \(12\) but has \(8\)": (X, C, C, C, F),
    r"fall must have shape \(12\) but has \(8\)": (X, C, C, F, C),
}


@pytest.mark.parametrize("mode", ["compiled", "reference"])
@pytest.mark.parametrize("message", REJECTED)
def test_names_the_bad_argument(message, mode, monkeypatch):
    monkeypatch.setenv("LTX2RT_KERNELS", mode)
    with pytest.raises(ValueError, match=r"^\[antialiased_snake\] " + message):
        antialiased_snake(*REJECTED[message])


def test_a_retraced_graph_computes_other_lengths_and_refuses_other_channels():
    x, alpha, beta, rise, fall = inputs(7, 5)
    mx.eval(alpha, beta, rise, fall)
    compiled = mx.compile(lambda x: antialiased_snake(2 * x, alpha, beta, rise, fall), shapeless=True)
    for samples in (7, 300):
        x = normal((3, samples, 5), 6)
        assert mx.allclose(compiled(x), antialiased_snake(2 * x, alpha, beta, rise, fall), atol=1e-6)
    assert compiled(mx.zeros((0, 7, 5))).shape == (0, 7, 5)
    with pytest.raises(ValueError, match=r"\[antialiased_snake\] alpha must have shape \(4000\) but has \(5\)"):
        mx.eval(compiled(mx.zeros((3, 7, 4000))))

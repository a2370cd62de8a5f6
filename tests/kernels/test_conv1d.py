"""conv1d and conv_transpose1d against float64 formulas, at the vocoder's kernel sizes, dilations and strides."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.kernels import conv1d, conv_transpose1d


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def as_double(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def error(ours, exact):
    assert ours.shape == exact.shape
    return np.abs(as_double(ours) - exact).max()


def activated(x, activation, slope=0.1):
    x = as_double(x)
    if activation == "leaky_relu":
        return np.where(x >= 0, x, slope * x)
    return x / (1 + np.exp(-x)) if activation == "silu" else x


def correlation(x, weight, stride, dilation):
    """x (B, S, C) float64, already padded; weight (O, k, C)."""
    w = as_double(weight)
    taps = w.shape[1]
    samples = (x.shape[1] - dilation * (taps - 1) - 1) // stride + 1
    return sum(x[:, i * dilation : i * dilation + (samples - 1) * stride + 1 : stride] @ w[:, i].T for i in range(taps))


@pytest.mark.parametrize("taps", [1, 3, 7, 11])
@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("channels", [2, 24, 32])
def test_same_padding_with_dilation(taps, dilation, channels):
    x, weight, bias = normal((2, 300, channels), 0), normal((24, taps, channels), 1) / 8, normal((24,), 2)
    width = (taps - 1) * dilation // 2
    residual = normal((2, 300, 24), 3)
    ours = conv1d(
        x, weight, bias, dilation=dilation, padding=(width, width), activation="leaky_relu", residual=residual
    )
    padded = np.pad(activated(x, "leaky_relu"), [(0, 0), (width, width), (0, 0)])
    exact = correlation(padded, weight, 1, dilation) + as_double(bias) + as_double(residual)
    assert error(ours, exact) < 1e-5


@pytest.mark.parametrize(("taps", "stride"), [(512, 80), (12, 2), (3, 5), (43, 3), (1, 4)])
def test_stride(taps, stride):
    x, weight = normal((2, 1200, 1), 0), normal((18, taps, 1), 1) / taps**0.5
    ours = conv1d(x, weight, stride=stride, padding=(7, 0), padding_mode="reflect")
    exact = correlation(np.pad(as_double(x), [(0, 0), (7, 0), (0, 0)], mode="reflect"), weight, stride, 1)
    assert error(ours, exact) < 5e-6


def test_a_long_signal_equals_its_pieces():
    x, weight = normal((1, 4000, 8), 0), normal((8, 5, 8), 1) / 6
    whole = conv1d(x, weight, dilation=2)
    for start, end in ((0, 700), (701, 3000), (1999, 4000)):
        assert mx.array_equal(conv1d(x[:, start:end], weight, dilation=2), whole[:, start : end - 8])


@pytest.mark.parametrize(
    ("taps", "stride", "padding"),
    [(16, 6, 5), (15, 5, 5), (8, 2, 3), (4, 2, 1), (11, 5, 3), (12, 6, 3), (3, 1, 1), (2, 5, 0), (4, 4, 0)],
)
@pytest.mark.parametrize("activation", [None, "leaky_relu", "silu"])
def test_transposed(taps, stride, padding, activation):
    x, weight, bias = normal((2, 13, 6), 0), normal((10, taps, 6), 1), normal((10,), 2)
    ours = conv_transpose1d(x, weight, bias, stride=stride, padding=padding, activation=activation)
    y, w = activated(x, activation), as_double(weight)
    full = np.zeros((2, 12 * stride + taps, 10))
    for sample in range(13):  # every input sample adds its scaled kernel
        full[:, sample * stride : sample * stride + taps] += np.einsum("bc,okc->bko", y[:, sample], w)
    exact = full[:, padding : full.shape[1] - padding] + as_double(bias)
    assert error(ours, exact) < 2e-5


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_transposed_in_low_precision_rounds_once(dtype):
    x, weight, bias = normal((1, 50, 16), 0, dtype), normal((8, 4, 16), 1, dtype) / 8, normal((8,), 2, dtype)
    ours = conv_transpose1d(x, weight, bias, stride=2, padding=1)
    exact = conv_transpose1d(*(a.astype(mx.float32) for a in (x, weight, bias)), stride=2, padding=1)
    assert ours.dtype == dtype
    assert mx.array_equal(ours, exact.astype(dtype))


@pytest.mark.parametrize("call", [conv1d, lambda x, w: conv_transpose1d(x, w, stride=2, padding=0)])
def test_rejects_weights_of_other_channels(call):
    with pytest.raises(ValueError, match=r"weight must have shape \(O,kt,kh,kw,3\)"):
        call(mx.zeros((1, 9, 3)), mx.zeros((2, 2, 4)))


@pytest.mark.parametrize(
    ("shapes", "stride", "padding", "message"),
    [
        (((9, 3), (2, 2, 3)), 2, 0, r"x must have shape \(B,S,C\) and weight \(O,k,C\) but they have \(9, 3\)"),
        (((1, 9, 3), (2, 2, 3)), 0, 0, "stride must be positive but is 0"),
        (((1, 2, 3), (2, 2, 3)), 2, 2, "padding must leave samples of the 4 of the full result but is 2"),
        (((1, 2, 3), (2, 2, 3)), 2, -1, "padding must leave samples of the 4 of the full result but is -1"),
    ],
)
def test_transposed_rejects(shapes, stride, padding, message):
    with pytest.raises(ValueError, match=r"\[conv_transpose1d\] " + message):
        conv_transpose1d(*map(mx.zeros, shapes), stride=stride, padding=padding)

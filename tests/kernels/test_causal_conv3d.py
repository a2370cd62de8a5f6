"""causal_conv3d against a float64 formula: sizes, padding, stride, dilation, prologue, halo, strides and threads."""

from __future__ import annotations

import itertools
import os

import mlx.core as mx
import numpy as np
import pytest
from bits_of_programs import in_new_process, in_this_process
from hypothesis import given, settings
from hypothesis import strategies as st
from refused_memory import NOT_SANITIZED

from ltx2rt import _ext
from ltx2rt.kernels import causal_conv3d, conv2d

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
SAME = ((2, 0), (1, 1), (1, 1))


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def kernel(out_channels, taps, channels, seed=1, dtype=mx.float32):
    """Weights that keep the result near 1."""
    return (normal((out_channels, *taps, channels), seed) / (np.prod(taps) * channels) ** 0.5).astype(dtype)


def as_double(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def expected(x, weight, bias=None, *, stride=(1, 1, 1), dilation=(1, 1, 1), padding=((0, 0),) * 3,
             padding_mode=("edge", "zeros", "zeros"), pixel_norm_eps=None, scale=None, shift=None, activation=None,
             negative_slope=0.1, residual=None, halo=None):  # fmt: skip
    """The contract in float64 numpy, one tap after the other."""
    y = as_double(x)
    if halo is not None:
        y = np.concatenate([as_double(halo), y], axis=1)
    if pixel_norm_eps is not None:
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + pixel_norm_eps)
    if scale is not None:
        y = y * (1 + as_double(scale)[:, None, None, None])
    if shift is not None:
        y = y + as_double(shift)[:, None, None, None]
    if activation == "silu":
        y = y / (1 + np.exp(-y))
    if activation == "leaky_relu":
        y = np.where(y >= 0, y, negative_slope * y)
    for axis, (widths, mode) in enumerate(zip(padding, padding_mode, strict=True)):
        full = [(0, 0)] * 5
        full[axis + 1] = widths
        y = np.pad(y, full, mode={"zeros": "constant"}.get(mode, mode))
    w = as_double(weight)
    taps = w.shape[1:4]
    sizes = [(y.shape[i + 1] - dilation[i] * (taps[i] - 1) - 1) // stride[i] + 1 for i in range(3)]
    out = np.zeros((y.shape[0], *sizes, w.shape[0]))
    for tap in itertools.product(*map(range, taps)):
        window = tuple(
            slice(tap[i] * dilation[i], tap[i] * dilation[i] + (sizes[i] - 1) * stride[i] + 1, stride[i])
            for i in range(3)
        )
        out += y[(slice(None), *window)] @ w[(slice(None), *tap)].T
    if bias is not None:
        out += as_double(bias)
    return out if residual is None else out + as_double(residual)


def error(ours, exact):
    assert ours.shape == exact.shape
    return np.abs(as_double(ours) - exact).max(initial=0.0)


# Of float32 sums over some thousand products of order 1; a GPU's matrix units add them one after the other.
CLOSE = 2e-5 if os.environ.get("LTX2RT_TEST_KERNELS") == "metal_sim" else 5e-6


def agrees(x, weight, bias=None, **arguments):
    return error(causal_conv3d(x, weight, bias, **arguments), expected(x, weight, bias, **arguments)) < CLOSE


def plain(x, weight, bias, scale, shift, residual):
    """The usual code in the dtype of x: every step rounds."""
    y = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    y = y * (1 + scale[:, None, None, None]) + shift[:, None, None, None]
    y = y * mx.sigmoid(y)
    y = mx.pad(mx.concatenate([y[:, :1], y[:, :1], y], axis=1), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    return mx.conv_general(y, weight) + bias + residual


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [5, 32, 130])
def test_is_as_accurate_as_plain_code(channels, dtype):
    x = normal((2, 3, 5, 6, channels), 0, dtype)
    weight, bias = kernel(24, (3, 3, 3), channels, dtype=dtype), normal((24,), 2, dtype)
    scale, shift = 0.2 * normal((2, channels), 3, dtype), normal((2, channels), 4, dtype)
    residual = normal((2, 3, 5, 6, 24), 5, dtype)
    arguments = {"padding": SAME, "pixel_norm_eps": 1e-6, "scale": scale, "shift": shift, "activation": "silu"}
    exact = expected(x, weight, bias, residual=residual, **arguments)
    ours = causal_conv3d(x, weight, bias, residual=residual, **arguments)
    assert ours.dtype == dtype
    assert error(ours, exact) <= 2 * error(plain(x, weight, bias, scale, shift, residual), exact) + 1e-6


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 17, 48, 129, 272])
@pytest.mark.parametrize("out_channels", [1, 2, 7, 8, 9, 15, 16, 17, 33])
def test_any_channels(channels, out_channels):
    x = normal((1, 2, 3, 4, channels), 0)
    residual = normal((1, 2, 3, 4, out_channels), 3)
    assert agrees(x, kernel(out_channels, (3, 3, 3), channels), normal((out_channels,), 2), padding=SAME,
                  pixel_norm_eps=1e-6, activation="silu", residual=residual)  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 5), (1, 1, 7), (2, 13, 1), (9, 5, 3), (3, 17, 33), (20, 2, 2)])
def test_any_size(size):
    assert agrees(normal((2, *size, 6), 0), kernel(18, (3, 3, 3), 6), padding=SAME)


@pytest.mark.parametrize("taps", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (2, 4, 5), (1, 1, 11), (4, 1, 2)])
@pytest.mark.parametrize("channels", [4, 260])
def test_any_kernel(taps, channels):
    assert agrees(normal((1, 5, 6, 12, channels), 0), kernel(8, taps, channels))


@pytest.mark.parametrize("modes", list(itertools.product(["zeros", "edge", "reflect"], repeat=3)), ids="-".join)
def test_padding_modes(modes):
    x = normal((1, 3, 4, 5, 3), 0)
    arguments = {"padding_mode": modes, "activation": "silu", "shift": normal((1, 3), 2)}
    for padding in (((2, 0), (1, 1), (1, 1)), ((0, 2), (3, 0), (2, 4)), ((1, 1), (0, 0), (0, 3))):
        assert agrees(x, kernel(5, (2, 3, 3), 3), padding=padding, **arguments)


def test_padding_beyond_the_input():
    x = normal((1, 1, 2, 1, 4), 0)
    for mode in ("zeros", "edge"):
        assert agrees(x, kernel(3, (3, 3, 3), 4), padding=((7, 6), (5, 9), (4, 4)), padding_mode=(mode,) * 3)


@pytest.mark.parametrize("stride", [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2), (3, 2, 5), (5, 7, 4)])
@pytest.mark.parametrize("dilation", [(1, 1, 1), (1, 1, 3), (2, 1, 1), (1, 2, 1), (2, 3, 2)])
def test_stride_and_dilation(stride, dilation):
    x = normal((1, 7, 8, 11, 5), 0)
    for taps in ((1, 1, 1), (2, 3, 3)):
        assert agrees(x, kernel(9, taps, 5), stride=stride, dilation=dilation, padding=((2, 1), (1, 1), (2, 2)))


@pytest.mark.parametrize("activation", [None, "silu", "leaky_relu"])
@pytest.mark.parametrize("parts", [(), ("norm",), ("scale",), ("shift",), ("norm", "scale", "shift")], ids="+".join)
@pytest.mark.parametrize("channels", [3, 20, 257])
def test_prologue(channels, parts, activation):
    x = normal((2, 2, 3, 3, channels), 0)
    arguments = {
        name: normal((2, channels), 2 + i, mx.bfloat16) for i, name in enumerate(("scale", "shift")) if name in parts
    }
    if "norm" in parts:
        arguments["pixel_norm_eps"] = 1e-2
    assert agrees(
        x, kernel(4, (2, 3, 3), channels), padding=SAME, activation=activation, negative_slope=0.3, **arguments
    )


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_mix(dtype, weight_dtype):
    x, weight = normal((1, 2, 4, 4, 9), 0, dtype), kernel(10, (3, 3, 3), 9, dtype=weight_dtype)
    bias = normal((10,), 2, weight_dtype)
    ours = causal_conv3d(x, weight, bias, padding=SAME)
    exact = expected(x, weight, bias, padding=SAME)
    assert ours.dtype == dtype
    rounding = {mx.float32: 1e-6, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[dtype]
    assert np.all(np.abs(as_double(ours) - exact) <= rounding * np.abs(exact) + 2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_halo_equals_concatenation(frames, dtype):
    whole = normal((2, 8, 4, 5, 12), 0, dtype)
    halo, x = whole[:, :frames], whole[:, frames:]
    weight = kernel(20, (3, 3, 3), 12, dtype=dtype)
    for time, mode in (((0, 0), "edge"), ((2, 0), "edge"), ((1, 1), "zeros"), ((1, 2), "reflect")):
        arguments = {
            "padding": (time, (1, 1), (1, 1)),
            "padding_mode": (mode, "zeros", "reflect"),
            "activation": "silu",
            "pixel_norm_eps": 1e-6,
        }
        assert mx.array_equal(
            causal_conv3d(x, weight, halo=halo, **arguments), causal_conv3d(whole, weight, **arguments)
        )
    assert agrees(x.astype(mx.float32), weight, halo=halo.astype(mx.float32), padding=SAME)


def test_a_clip_decoded_in_pieces_has_the_same_bits():
    clip, weight = normal((1, 9, 4, 4, 8), 0), kernel(8, (3, 3, 3), 8)
    whole = causal_conv3d(clip, weight, padding=SAME)
    pieces = [causal_conv3d(clip[:, :4], weight, padding=SAME)]
    for first in (4, 6):
        end = 6 if first == 4 else 9
        inner = ((0, 0), *SAME[1:])
        pieces.append(causal_conv3d(clip[:, first:end], weight, halo=clip[:, first - 2 : first], padding=inner))
    assert mx.array_equal(mx.concatenate(pieces, axis=1), whole)


def test_more_weights_than_are_packed_at_once():
    # 27 * 512 values per output channel: two rounds of panels
    x = normal((1, 1, 2, 3, 512), 0)
    assert agrees(x, kernel(330, (3, 3, 3), 512), normal((330,), 2), padding=SAME)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accepts_any_strides(dtype):
    base = normal((6, 2, 8, 5, 24), 0, dtype)
    weight = kernel(12, (3, 3, 3), 12, dtype=dtype)
    views = [
        base.swapaxes(0, 1)[..., :12],
        base[::2, :, ::-1, :, 12:],
        base[..., ::2],
        mx.broadcast_to(base[:1, :, :, :1, :12], (6, 2, 8, 5, 12)),
        normal((12, 6, 5, 8, 2), 1, dtype).transpose(1, 4, 3, 2, 0),
    ]
    for view in views:
        packed = mx.contiguous(view)
        ours = [causal_conv3d(x, weight, padding=SAME, residual=x, activation="silu") for x in (view, packed)]
        assert mx.array_equal(*ours)
        ours = [causal_conv3d(x[:, 1:], weight, padding=SAME, halo=x[:, :1]) for x in (view, packed)]
        assert mx.array_equal(*ours)
    turned = mx.contiguous(weight.swapaxes(2, 3)).swapaxes(2, 3)
    assert mx.array_equal(causal_conv3d(views[0], turned), causal_conv3d(views[0], weight))


def test_empty_batch():
    assert causal_conv3d(normal((0, 2, 3, 3, 4), 0), kernel(5, (1, 1, 1), 4)).shape == (0, 2, 3, 3, 5)


def test_conv2d_is_the_case_of_one_frame():
    x, weight, bias = normal((2, 6, 7, 5), 0), kernel(9, (3, 3), 5), normal((9,), 2)
    arguments = {"pixel_norm_eps": 1e-6, "activation": "silu"}
    residual = normal((2, 3, 7, 9), 3)
    arguments["residual"] = residual
    ours = conv2d(
        x, weight, bias, stride=(2, 1), padding=((0, 1), (1, 1)), padding_mode=("edge", "reflect"), **arguments
    )
    arguments["residual"] = residual[:, None]
    exact = expected(
        x[:, None],
        weight[:, None],
        bias,
        stride=(1, 2, 1),
        padding=((0, 0), (0, 1), (1, 1)),
        padding_mode=("zeros", "edge", "reflect"),
        **arguments,
    )
    assert error(ours, exact[:, 0]) < 5e-6


def test_gradients_go_through_the_reference():
    x, weight, bias = normal((1, 2, 3, 3, 4), 0), kernel(3, (2, 3, 3), 4), normal((3,), 2)
    scale, halo, direction = normal((1, 4), 3), normal((1, 1, 3, 3, 4), 4), normal((1, 2, 3, 3, 3), 5)

    def loss(x, weight, bias, scale, halo):
        out = causal_conv3d(x, weight, bias, scale=scale, halo=halo, padding=((0, 0), (1, 1), (1, 1)),
                            pixel_norm_eps=1e-6, activation="silu")  # fmt: skip
        return (out * direction).sum()

    at = [x, weight, bias, scale, halo]
    for argument, gradient in enumerate(mx.grad(loss, argnums=tuple(range(5)))(*at)):
        step = normal(at[argument].shape, 12)
        low, high = list(at), list(at)
        low[argument], high[argument] = at[argument] - 1e-2 * step, at[argument] + 1e-2 * step
        slope = (loss(*high) - loss(*low)).item() / 2e-2
        assert (gradient * step).sum().item() == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_vmap_and_compile():
    x, weight = normal((3, 1, 2, 4, 4, 5), 0), kernel(6, (2, 3, 3), 5)

    def run(x):
        return causal_conv3d(x, weight, padding=((1, 0), (1, 1), (1, 1)), activation="silu")

    mapped = mx.vmap(run)(x)
    for i in range(3):
        assert mx.allclose(mapped[i], run(x[i]), atol=1e-6)
    assert mx.array_equal(mx.compile(run)(x[0]), run(x[0]))


BITS = """
import hashlib, mlx.core as mx, numpy as np
from ltx2rt.kernels import causal_conv3d
n = lambda s, i, d=mx.float32: mx.random.normal(s, key=mx.random.key(i)).astype(d)
out = []
for frames, height, width, channels, outputs in [(3, 20, 30, 48, 40), (1, 2, 2, 300, 100), (1, 1, 5000, 3, 17)]:
    for dtype in (mx.float32, mx.bfloat16):
        x, w = n((2, frames, height, width, channels), 0, dtype), n((outputs, 2, 1, 3, channels), 1, dtype)
        y = causal_conv3d(x, w, n((outputs,), 2), padding=((1, 0), (0, 0), (1, 1)), pixel_norm_eps=1e-6,
                          activation="silu", residual=n((2, frames, height, width, outputs), 3, dtype))
        out.append(np.array(y.astype(mx.float32)))
x, w = n((1, 4, 23, 31, 64), 0, mx.bfloat16), n((70, 3, 3, 3, 64), 1, mx.bfloat16)
out.append(np.array(causal_conv3d(x, w, padding=((2, 0), (1, 1), (1, 1))).astype(mx.float32)))
print(hashlib.sha256(b"".join(a.tobytes() for a in out)).hexdigest(), *(repr(float(np.abs(a).sum())) for a in out))
"""


def test_same_bits_for_any_number_of_threads_and_close_without_simd():
    one = in_this_process(BITS, threads=1)
    for threads in (2, 3):
        assert in_this_process(BITS, threads)[0] == one[0]
    assert in_new_process(BITS, LTX2RT_ISA="portable")[1] == pytest.approx(one[1], rel=1e-4)


def test_many_threads_transform_more_at_a_time_and_keep_the_bits():
    """What is transformed between two waits grows with the threads from 9 on; results do not change."""
    mib, sizes = [], {"stride": (1, 1, 1), "dilation": (1, 1, 1), "activation": None}
    x, weight = normal((1, 10, 82, 82, 128), 0, mx.bfloat16), normal((16, 3, 3, 3, 128), 1, mx.bfloat16)
    results, before = [], _ext.num_threads()
    try:
        for threads in (2, 8, 64):
            _ext.set_num_threads(threads)
            results.append(causal_conv3d(x, weight))
            mx.eval(results[-1])
            taken = _ext.causal_conv3d_scratch_bytes(
                (1, 130, 82, 82, 128), weight.shape, dtype=x.dtype, weight_dtype=x.dtype, threads=threads, **sizes
            )
            mib.append(taken / 2**20)
    finally:
        _ext.set_num_threads(before)
    assert mx.array_equal(results[0], results[1]).item()
    assert mx.array_equal(results[0], results[2]).item()
    assert mib[0] < mib[1] < 20
    assert 60 < mib[2] < 130


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_cases(data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    batch, channels, outputs = draw(1, 2), draw(1, 3, 8, 33, 130), draw(1, 2, 9, 16, 24, 40)
    halo = draw(0, 0, 1, 2)
    sizes = [draw(1, 2, 3, 5, 9, 14) for _ in range(3)]
    taps, stride, dilation, padding, modes = [], [], [], [], []
    for axis in range(3):
        size = sizes[axis] + (halo if axis == 0 else 0)
        modes.append(draw("zeros", "edge", "reflect"))
        most = size - 1 if modes[-1] == "reflect" else 4
        padding.append((min(most, draw(0, 1, 2, 4)), min(most, draw(0, 1, 3))))
        stride.append(draw(1, 1, 2, 3))
        dilation.append(draw(1, 1, 2, 3))
        taps.append(min(draw(1, 2, 3, 4), (size + sum(padding[-1]) - 1) // dilation[-1] + 1))
    arguments = {
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "padding": tuple(padding),
        "padding_mode": tuple(modes),
        "pixel_norm_eps": draw(None, 1e-6),
        "activation": draw(None, "silu", "leaky_relu"),
        "scale": draw(None, normal((batch, channels), 3)),
        "shift": draw(None, normal((batch, channels), 4)),
        "halo": normal((batch, halo, *sizes[1:], channels), 5) if halo else None,
    }
    x, weight = normal((batch, *sizes, channels), 0), kernel(outputs, taps, channels)
    exact = expected(x, weight, **arguments)
    if draw(False, True):
        arguments["residual"] = normal(exact.shape, 6)
        exact = exact + as_double(arguments["residual"])
    assert error(causal_conv3d(x, weight, **arguments), exact) < 2e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": mx.zeros((1, 2, 3, 4, 5), mx.int32)}, "x must be float32, float16 or bfloat16 but is int32"),
        ({"x": mx.zeros((2, 3, 4, 5))}, r"x must have shape \(B,F,H,W,C\) but has \(2,3,4,5\)"),
        ({"x": mx.zeros((1, 2, 0, 4, 5))}, r"x must not be empty along height but has shape \(1,2,0,4,5\)"),
        ({"weight": mx.zeros((6, 1, 1, 1, 5), mx.int8)}, "weight must be float32, float16 or bfloat16 but is int8"),
        ({"weight": mx.zeros((6, 1, 1, 1, 4))}, r"weight must have shape \(O,kt,kh,kw,5\) .* but has \(6,1,1,1,4\)"),
        ({"weight": mx.zeros((0, 1, 1, 1, 5))}, r"weight must have shape .* and values but has \(0,1,1,1,5\)"),
        ({"bias": mx.zeros((5,))}, r"bias must have shape \(6\) but has \(5\)"),
        ({"scale": mx.zeros((5,))}, r"scale must have shape \(1,5\) but has \(5\)"),
        ({"shift": mx.zeros((1, 5), mx.int32)}, "shift must be float32, float16 or bfloat16 but is int32"),
        ({"stride": (1, 0, 1)}, "stride must be positive but is 0 along height"),
        ({"dilation": (1, 1, 0)}, "dilation must be positive but is 0 along width"),
        ({"padding": ((-1, 0), (0, 0), (0, 0))}, r"padding must not be negative but is \(-1,0\) along frames"),
        ({"padding_mode": ("edge", "wrap", "zeros")}, 'padding_mode must be .* but is "wrap"'),
        (
            {"padding_mode": ("reflect", "zeros", "zeros"), "padding": ((2, 0), (0, 0), (0, 0))},
            r"reflect padding must be less than the size 2 along frames but is \(2,0\)",
        ),
        ({"dilation": (1, 1, 9)}, "the kernel spans 10 along width but x with its padding only 4"),
        ({"pixel_norm_eps": -1.0}, "pixel_norm_eps must not be negative but is -1"),
        ({"activation": "relu"}, 'activation must be None, "silu" or "leaky_relu" but is "relu"'),
        ({"residual": mx.zeros((1, 2, 3, 4, 6))}, r"residual must have shape \(1,2,3,3,6\) but has \(1,2,3,4,6\)"),
        ({"residual": mx.zeros((1, 2, 3, 3, 6), mx.float16)}, "residual must have x's dtype float32 but has float16"),
        ({"halo": mx.zeros((1, 1, 3, 4, 5), mx.float16)}, "halo must have x's dtype float32 but has float16"),
        ({"halo": mx.zeros((1, 1, 3, 5, 5))}, r"halo must have the shape of x, \(1,2,3,4,5\), .* has \(1,1,3,5,5\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_rejects(change, message):
    arguments = {"x": mx.zeros((1, 2, 3, 4, 5)), "weight": mx.zeros((6, 1, 1, 2, 5)), **change}
    with pytest.raises(ValueError, match=r"\[causal_conv3d\] " + message):
        causal_conv3d(**arguments)


HUGE, LARGEST = 2**30, 2**31 - 1


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (((0, 0), (0, 0), (HUGE, HUGE)), "the result would have 2147483652 values along width, more than 2147483647"),
        (((0, 0), (LARGEST, LARGEST), (0, 0)), "the result would have 4294967298 values along height"),
        (((LARGEST, LARGEST), (0, 0), (0, 0)), "the result would have 4294967296 values along frames"),
        (((HUGE, 0), (HUGE, 0), (HUGE, 0)), r"the result would have more than 2\^60 values"),
    ],
)
def test_a_result_too_large_for_its_sizes_is_an_error(padding, message):
    with pytest.raises(ValueError, match=r"\[causal_conv3d\] " + message):
        causal_conv3d(mx.ones((1, 2, 4, 4, 4)), mx.ones((2, 1, 1, 1, 4)), padding=padding, padding_mode=("zeros",) * 3)


@pytest.mark.parametrize(
    ("apart", "error"),
    [
        pytest.param(2**15, MemoryError, marks=NOT_SANITIZED),  # more bytes than a process can address
        (2**30, ValueError),  # more than 64 bits can count
    ],
)
def test_what_cannot_be_in_memory_is_an_error_of_its_evaluation_alone(apart, error):
    x, weight = normal((1, 2, 4, 4, 1), 0), kernel(2, (2, 2, 2), 1)
    distant = {"dilation": (apart,) * 3, "padding": ((apart, 0),) * 3, "padding_mode": ("zeros",) * 3}
    good = expected(x, weight)
    for _ in range(30):
        with pytest.raises(error):
            mx.eval(causal_conv3d(x, weight, **distant))
        assert np.abs(as_double(causal_conv3d(x, weight)) - good).max() < CLOSE


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "channels"), [((2, 3, 4), 6), ((2, 3, 4), 7), ((2, 5, 6), 64)])
def test_weights_may_start_between_the_addresses_of_floats(size, channels, dtype):
    x, weight = normal((1, *size, channels), 0, dtype), kernel(17, (2, 3, 3), channels, dtype=dtype)
    between = mx.concatenate([mx.zeros((1,), dtype), weight.reshape(-1)])[1:].reshape(weight.shape)
    address = np.frombuffer(memoryview(between.view(mx.uint16)), np.uint16).ctypes.data
    assert address % 4 == 2
    assert mx.array_equal(causal_conv3d(x, between, padding=SAME), causal_conv3d(x, weight, padding=SAME))


# MLX traces a function once and runs the graph with other shapes: what was checked then need not hold now.


def retraced(size, **extras):
    """A compiled convolution traced at (2, 3, 4), to be called with arrays of other sizes."""
    weight = kernel(6, (3, 3, 3), 5)
    mx.eval(weight)  # how it was made is no part of the graph
    names = list(extras)

    def convolution(x, *others):
        return causal_conv3d(x, weight, padding=SAME, **dict(zip(names, others, strict=True)))

    compiled = mx.compile(convolution, shapeless=True)
    first = {name: mx.zeros(shape) for name, shape in extras.items()}
    mx.eval(compiled(mx.zeros((1, *size, 5)), *first.values()))
    return compiled, convolution


def test_a_retraced_graph_computes_other_sizes():
    compiled, convolution = retraced((2, 3, 4), residual=(1, 3, 3, 4, 6), halo=(1, 1, 3, 4, 5))
    for size in ((2, 3, 4), (5, 7, 6)):
        frames, height, width = size
        x, residual = normal((2, *size, 5), 0), normal((2, frames + 1, height, width, 6), 1)
        halo = normal((2, 1, height, width, 5), 2)
        assert mx.allclose(compiled(x, residual, halo), convolution(x, residual, halo), atol=1e-5)


@pytest.mark.parametrize(
    ("extras", "other", "message"),
    [
        ({"residual": (1, 2, 3, 4, 6)}, {}, r"residual must have shape \(1,2,300,400,6\) but has \(1,2,3,4,6\)"),
        ({"halo": (1, 1, 3, 4, 5)}, {}, r"halo must have the shape of x, \(1,2,300,400,5\)"),
        ({"scale": (1, 5)}, {"scale": (1, 4)}, r"scale must have shape \(1,5\) but has \(1,4\)"),
        ({"shift": (1, 5)}, {"shift": (3, 5)}, r"shift must have shape \(1,5\) but has \(3,5\)"),
        ({"bias": (6,)}, {"bias": (5,)}, r"bias must have shape \(6\) but has \(5\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_retraced_graph_refuses_sizes_that_do_not_fit(extras, other, message):
    compiled, _ = retraced((2, 3, 4), **extras)
    given = [mx.zeros({**extras, **other}[name]) for name in extras]
    with pytest.raises(ValueError, match=r"\[causal_conv3d\] " + message):
        mx.eval(compiled(mx.zeros((1, 2, 300, 400, 5)), *given))


# The Winograd form: 3 x 3 taps over 16-bit activations, channels in whole multiples of 32.


def winograd_error(x, weight, bias=None, **arguments):
    """Largest error, as a share of what rounding x, weights and result once each to the dtype of x explains."""
    exact = expected(x, weight, bias, **arguments)
    unit = {mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[x.dtype]
    return error(causal_conv3d(x, weight, bias, **arguments), exact) / (unit * np.abs(exact).max())


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(1, 4, 4), (2, 5, 7), (3, 8, 9), (1, 17, 30), (5, 33, 4)])
@pytest.mark.parametrize(("channels", "out_channels"), [(32, 16), (64, 33), (160, 70)])
def test_winograd_any_size(size, channels, out_channels, dtype):
    x, weight = normal((2, *size, channels), 0, dtype), kernel(out_channels, (3, 3, 3), channels, dtype=dtype)
    bias, residual = normal((out_channels,), 2, dtype), normal((2, *size, out_channels), 3, dtype)
    arguments = {"padding": SAME, "pixel_norm_eps": 1e-6, "activation": "silu", "residual": residual}
    assert winograd_error(x, weight, bias, **arguments) < 1.5


@pytest.mark.parametrize("mode", ["zeros", "edge", "reflect"])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 3)), ((3, 2), (2, 2))])
def test_winograd_padding(padding, mode):
    x, weight = normal((1, 3, 7, 6, 32), 0, mx.float16), kernel(20, (2, 3, 3), 32, dtype=mx.float16)
    modes = ("reflect", mode, mode)
    assert winograd_error(x, weight, padding=((1, 1), *padding), padding_mode=modes) < 1.5


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_winograd_strides_in_time(taps, stride, dilation):
    x, weight = normal((1, 12, 5, 6, 32), 0, mx.bfloat16), kernel(20, (taps, 3, 3), 32, dtype=mx.bfloat16)
    arguments = {"stride": (stride, 1, 1), "dilation": (dilation, 1, 1), "padding": ((1, 0), (1, 1), (1, 1))}
    assert winograd_error(x, weight, **arguments) < 1.5


def test_winograd_in_several_slabs_and_rounds_of_panels():
    # 9 * 10 * 250 cells of 16 * 32 values, and 16 * 3 * 512 values per output channel: more than are kept at once.
    x, weight = normal((1, 9, 20, 500, 32), 0, mx.float16), kernel(20, (3, 3, 3), 32, dtype=mx.float16)
    assert winograd_error(x, weight, padding=SAME) < 1.5
    x, weight = normal((1, 1, 4, 6, 512), 0, mx.float16), kernel(200, (3, 3, 3), 512, dtype=mx.float16)
    assert winograd_error(x, weight, padding=SAME) < 1.5


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
def test_winograd_takes_any_weight_and_strides(weight_dtype):
    base, weight = normal((6, 4, 8, 2, 64), 0, mx.bfloat16), kernel(20, (3, 3, 3), 32, dtype=weight_dtype)
    for view in (base.transpose(3, 0, 2, 1, 4)[..., ::2], base.transpose(3, 0, 1, 2, 4)[:, :, :, ::-1, 32:]):
        arguments = {"padding": SAME, "residual": view[..., :20]}
        assert winograd_error(view, weight, **arguments) < 1.5
        packed = causal_conv3d(mx.contiguous(view), weight, padding=SAME, residual=mx.contiguous(view[..., :20]))
        assert mx.array_equal(causal_conv3d(view, weight, **arguments), packed)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_winograd_frames_do_not_depend_on_each_other(dtype):
    clip, weight = normal((1, 9, 6, 7, 64), 0, dtype), kernel(32, (3, 3, 3), 64, dtype=dtype)
    whole = causal_conv3d(clip, weight, padding=SAME, activation="silu")
    inner = ((0, 0), *SAME[1:])
    pieces = [causal_conv3d(clip[:, :1], weight, padding=SAME, activation="silu")]
    for first, end in ((1, 2), (2, 6), (6, 9)):
        halo = clip[:, max(0, first - 2) : first]
        time = (2 - halo.shape[1], 0)
        pieces.append(
            causal_conv3d(clip[:, first:end], weight, halo=halo, padding=(time, *inner[1:]), activation="silu")
        )
    assert mx.array_equal(mx.concatenate(pieces, axis=1), whole)

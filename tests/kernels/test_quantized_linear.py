"""quantized_linear: accuracy in every weight format, odd sizes, strides, transforms, bits and rejected arguments."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import _ext
from ltx2rt.kernels import quantized_linear, reference
from ltx2rt.kernels.proof_problems import packed_weight
from ltx2rt.types import GGML_BLOCKS, LinearWeight

DTYPES = [mx.float32, mx.float16, mx.bfloat16]
FORMATS = ["float32", "float16", "bfloat16", "e4m3"] + [f"int{b}/{g}" for b in (4, 8) for g in (32, 64, 128)]
# Packed formats, with the numbers of values that a row may have multiples of.
PACKED = {
    "int8_rows": 1,
    "e4m3_rows": 1,
    "q8_0": 32,
    "q4_k": 256,
    "q5_k": 256,
    "q6_k": 256,
    "nvfp4": 16,
    "mxfp8": 32,
    "w4a8/4": 4,
    "w4a8/8": 8,
    "w4a8/16": 16,
    "w4a8/48": 48,
}


def normal(shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def make_weight(form, n, k, seed=7, rotation=0):
    if form == "e4m3_rows":
        weight = make_weight("e4m3", n, k, seed)
        return weight._replace(scale=weight.scale * (0.5 + mx.arange(n) / n), rotation=rotation)
    if form in PACKED:
        kind, _, group = form.partition("/")
        return packed_weight(kind, n, k, seed, int(group or 0))._replace(rotation=rotation)
    w = normal((n, k), seed) * k**-0.5
    if form == "e4m3":
        scale = mx.abs(w).max() / 448
        return LinearWeight("e4m3", mx.to_fp8(w / scale), scale)
    if form.startswith("int"):
        bits, group = (int(part) for part in form[3:].split("/"))
        return LinearWeight("affine", *mx.quantize(w, group_size=group, bits=bits), group, bits)
    return LinearWeight("dense", w.astype(getattr(mx, form)))


def exactly(x, weight, bias=None, activation=None, residual=None, gate=None):
    """The op in float64."""

    def wide(a):
        return np.array(a.astype(mx.float32), dtype=np.float64)

    out = wide(x) @ wide(reference.dequantise(weight)).T
    if bias is not None:
        out = out + wide(bias)
    if activation == "gelu_tanh":
        out = 0.5 * out * (1 + np.tanh(np.sqrt(2 / np.pi) * (out + 0.044715 * out**3)))
    elif activation == "silu":
        out = out / (1 + np.exp(-out))
    if gate is not None:
        out = out * wide(gate)
    return out if residual is None else out + wide(residual)


def plain(x, weight, bias=None, activation=None, residual=None, gate=None):
    """The op as written by hand in the dtype of x."""
    out = (reference.rotate_groups(x.astype(mx.float32), weight.rotation).astype(x.dtype) if weight.rotation else x) @ (
        reference.stored_weight(weight).astype(x.dtype).T
    )
    if bias is not None:
        out = out + bias.astype(x.dtype)
    if activation == "gelu_tanh":
        out = 0.5 * out * (1 + mx.tanh(0.7978845608 * (out + 0.044715 * out * out * out)))
    elif activation == "silu":
        out = out * mx.sigmoid(out)
    if gate is not None:
        out = out * gate.astype(x.dtype)
    return out if residual is None else residual + out


def error(a, exact):
    return float(np.abs(np.array(a.astype(mx.float32), dtype=np.float64) - exact).max())


def check(x, weight, **parts):
    ours = quantized_linear(x, weight, **parts)
    assert ours.dtype == x.dtype
    exact = exactly(x, weight, **parts)
    assert ours.shape == exact.shape
    # 1e-6 of the largest value: a few units in the last place of float32, where plain code may happen to be exact.
    assert error(ours, exact) <= 2 * error(plain(x, weight, **parts), exact) + 1e-6 * (1 + np.abs(exact).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_is_as_accurate_as_plain_code(form, dtype):
    n, k = 50, 640
    weight = make_weight(form, n, k)
    for rows in (1, 3, 13):
        check(normal((rows, k), rows, dtype), weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", PACKED)
def test_packed_weights_are_as_accurate_as_plain_code(form, dtype):
    unit = PACKED[form]
    for n, k in ((50, 768), (33, 512 + unit), (7, unit), (16, 3 * unit)):
        weight = make_weight(form, n, -(-k // unit) * unit, seed=n)
        assert weight.in_features == -(-k // unit) * unit
        for rows in (1, 3, 4, 5, 17):
            check(normal((rows, weight.in_features), rows, dtype), weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [4, 16, 64, 256, 1024])
@pytest.mark.parametrize("form", ["int8_rows", "w4a8/16", "q8_0", "bfloat16", "int4/32"])
def test_rotated_weights_multiply_a_rotated_x(form, group, dtype):
    weight = make_weight(form, 21, 1024)._replace(rotation=group)
    for rows in (1, 5, 13):
        x = normal((rows, 1024), rows, dtype)
        check(x, weight)
        ours = quantized_linear(x, weight)
        rotated = reference.rotate_groups(x.astype(mx.float32), group).astype(dtype)
        by_hand = quantized_linear(rotated, weight._replace(rotation=0))
        # A value next to a tie of x's dtype may go the other way, as the order of four additions differs.
        bound = 1e-5 if dtype == mx.float32 else 1e-2
        assert error(ours, np.array(by_hand.astype(mx.float32))) <= bound * (1 + float(mx.abs(by_hand).max()))
    wide = normal((5, 2048), 3, dtype)
    assert mx.array_equal(quantized_linear(wide[:, ::2], weight), quantized_linear(mx.contiguous(wide[:, ::2]), weight))


def test_the_rotation_is_the_kronecker_power_of_h4():
    h4 = np.ones((4, 4)) - 2 * np.eye(4)[::-1]
    for group, power in ((4, h4), (16, np.kron(h4, h4)), (64, np.kron(h4, np.kron(h4, h4)))):
        rows = mx.eye(2 * group)
        expected = np.kron(np.eye(2), power / np.sqrt(group))
        assert np.allclose(np.array(reference.rotate_groups(rows, group)), expected, atol=1e-6)
        identity = LinearWeight("dense", mx.eye(2 * group), rotation=group)
        assert np.allclose(np.array(quantized_linear(rows, identity)), expected, atol=1e-6)
        assert np.allclose(np.array(reference.dequantise(identity)), expected, atol=1e-6)


def _q4_k_or_q5_k(block, e):
    s, j = block[4:16], e // 32
    if j < 4:
        scale, least = s[j] & 63, s[j + 4] & 63
    else:
        scale, least = s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4
    code = block[len(block) - 128 + 32 * (j // 2) + e % 32] >> 4 * (j % 2) & 15
    if len(block) == 176:
        code |= (block[16 + e % 32] >> j & 1) << 4
    d, m = np.array(block[:4], np.uint8).view(np.float16).astype(np.float64)
    return d * scale * code - m * least


def _q6_k(block, e):
    half, run, i = e // 128, e % 128 // 32, e % 32
    low = block[64 * half + 32 * (run % 2) + i] >> (4 if run >= 2 else 0) & 15
    code = low | (block[128 + 32 * half + i] >> 2 * run & 3) << 4
    scale = np.array(block[192 + e // 16], np.uint8).view(np.int8).astype(int)
    return np.array(block[208:], np.uint8).view(np.float16).astype(np.float64)[0] * scale * (code - 32)


def _q8_0(block, e):
    d = np.array(block[:2], np.uint8).view(np.float16).astype(np.float64)[0]
    return d * np.array(block[2 + e], np.uint8).view(np.int8).astype(int)


@pytest.mark.parametrize("form", ["q8_0", "q4_k", "q5_k", "q6_k"])
def test_blocks_are_those_of_ggml(form):
    """Value by value, as the layout of ggml-quants.h in llama.cpp has them."""
    weights, size = GGML_BLOCKS[form]
    weight = make_weight(form, 3, 2 * weights)
    value = {"q8_0": _q8_0, "q6_k": _q6_k}.get(form, _q4_k_or_q5_k)
    blocks = np.array(weight.values).reshape(3, 2, size).tolist()
    expected = [[value(block, e) for block in row for e in range(weights)] for row in blocks]
    assert np.allclose(np.array(reference.dequantise(weight)), expected, rtol=1e-6, atol=1e-9)


def test_nibbles_and_scales_of_nvfp4():
    """The high four bits are the even column; every code, with scales of every kind."""
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    scales = np.arange(32, dtype=np.uint8).reshape(2, 16) * 4  # 0 and subnormal ones among them
    weight = LinearWeight("nvfp4", mx.array(codes), mx.array(scales), mx.array(0.25))
    nibbles = np.stack([codes >> 4, codes & 15], axis=-1).reshape(2, 256)
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = magnitudes[nibbles & 7] * np.where(nibbles & 8, -1, 1)
    exact = values * np.repeat(np.array(mx.from_fp8(mx.array(scales), mx.float32)), 16, axis=1) * 0.25
    assert np.array_equal(np.array(reference.dequantise(weight)), exact)
    assert np.array_equal(np.array(quantized_linear(mx.eye(256), weight)), exact.T)
    pairs = np.array(quantized_linear(mx.eye(256, dtype=mx.bfloat16), weight).astype(mx.float32))
    assert np.array_equal(pairs, exact.T)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_every_scale_and_code_of_mxfp8(dtype):
    codes = mx.arange(256).astype(mx.uint8)
    numbers = np.array(mx.from_fp8(codes, mx.float32), np.float64)
    x = (mx.arange(32)[None] == 7).astype(dtype)
    for scale in (0, 1, 60, 117, 120, 127, 130, 200, 240, 246, 247, 250, 254):
        weight = LinearWeight("mxfp8", mx.broadcast_to(codes[:, None], (256, 32)), mx.full((256, 1), scale, mx.uint8))
        ours = np.array(quantized_linear(x, weight).astype(mx.float32))[0]
        expected = numbers * (0.0 if scale == 0 else 2.0 ** (scale - 127))
        small = np.abs(expected) < 2.0**-126  # what processors may take as zero
        large = np.abs(expected) >= 2.0**128  # infinite, and the zeros of x times it are NaN
        assert not np.isfinite(ours[large]).any()
        assert np.array_equal(np.isnan(ours)[~large], np.isnan(numbers)[~large])
        same = ~small & ~large
        assert np.array_equal(ours[same], expected[same].astype(np.float32), equal_nan=True)
        assert np.nanmax(np.abs(ours[small] - expected[small]), initial=0) < 2.0**-126


def test_levels_of_w4a8_round_half_to_even_and_stay_within_127():
    table = mx.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 128.0, -127.5, -500.0, 0.25, 3.0, 7.0, 100.0, 1.0])
    codes = mx.array(np.arange(0, 16, 2, dtype=np.uint8) | np.arange(1, 16, 2, dtype=np.uint8) << 4)[None]
    one = mx.to_fp8(mx.array([[1.0]]))
    weight = LinearWeight("w4a8", codes, one, mx.array([2.0]), group_size=16, table=table)
    expected = [0, 2, 2, 0, -2, -2, 126, 127, 127, -127, -127, 0, 3, 7, 100, 1]
    assert np.array_equal(np.array(quantized_linear(mx.eye(16), weight))[:, 0], 2 * np.array(expected))
    assert np.array_equal(np.array(reference.dequantise(weight))[0], 2 * np.array(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "gelu_tanh", "silu"])
@pytest.mark.parametrize("other", [mx.float32, mx.bfloat16], ids=str)
def test_epilogue_is_as_accurate_as_plain_code(activation, dtype, other):
    n, k = 37, 256
    x, bias, gate = normal((2, 5, k), 1, dtype), normal((n,), 2, other), normal((1, n), 3, other)
    residual = normal((2, 5, n), 4, dtype)
    weight = make_weight("bfloat16", n, k)
    check(x, weight, bias=bias, activation=activation, gate=gate, residual=residual)
    check(x, weight, bias=bias, activation=activation)
    check(x, weight, residual=residual)


@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16", "e4m3"])
def test_odd_sizes(form):
    for n in (1, 7, 8, 9, 15, 16, 17, 33, 65):
        check(normal((4, 24), n), make_weight(form, n, 24, seed=n))
    for k in (1, 2, 7, 8, 9, 15, 17, 31, 63, 255, 256, 257, 511, 520):
        check(normal((3, k), k), make_weight(form, 19, k, seed=k))
        check(normal((6, k), k), make_weight(form, 19, k, seed=k))
    for m in (1, 2, 4, 5, 6, 7, 11, 12, 13, 191, 193, 200):
        check(normal((m, 40), m), make_weight(form, 20, 40, seed=m))


@pytest.mark.parametrize("form", [f for f in FORMATS if f.startswith("int")])
def test_odd_sizes_of_groups(form):
    group = int(form.split("/")[1])
    for groups, n in [(1, 5), (2, 16), (3, 17), (5, 33)]:
        check(normal((2, groups * group), n), make_weight(form, n, groups * group))
        check(normal((7, groups * group), n), make_weight(form, n, groups * group))


def test_every_e4m3_code():
    codes = mx.arange(256).astype(mx.uint8)[:, None]
    out = quantized_linear(mx.ones((1, 1)), LinearWeight("e4m3", codes, mx.array(0.5)))[0]
    expected = mx.from_fp8(codes[:, 0], mx.float32) * 0.5
    assert mx.array_equal(out, expected, equal_nan=True)
    wide = mx.repeat(codes, 8, axis=1)  # through the vector path as well
    out = quantized_linear(mx.eye(8)[:5], LinearWeight("e4m3", wide, mx.array(0.5)))
    finite = ~mx.isnan(expected)
    assert mx.array_equal(mx.where(finite, out[0], 0), mx.where(finite, expected, 0))
    assert mx.isnan(out[:, 0x7F]).all()


@pytest.mark.parametrize("rows", [1, 5, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_e4m3_code_in_every_dtype(dtype, rows):
    """Rows of one code each, at every place of a pair, a vector and the remainder after the last vector."""
    codes = mx.arange(256).astype(mx.uint8)
    values = mx.from_fp8(codes, mx.float32)
    finite = ~mx.isnan(values)
    for depth in (1, 2, 37):
        weight = LinearWeight("e4m3", mx.repeat(codes[:, None], depth, axis=1), mx.array(0.5))
        ones = [0, depth // 2, depth - 1]
        x = (mx.arange(depth) == mx.array(ones)[:, None]).astype(dtype)
        x = mx.tile(x, (rows // 3 + 1, 1))[:rows]
        out = quantized_linear(x, weight).astype(mx.float32)
        assert mx.isnan(mx.where(finite, mx.nan, out)).all()  # 0x7f and 0xff
        assert mx.array_equal(mx.where(finite, out, 0), mx.broadcast_to(mx.where(finite, values * 0.5, 0), out.shape))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_activations_of_huge_values_and_nan_agree_with_the_reference(activation, dtype):
    huge = [3e38, 1e37, 100.0, 90.0, 88.5, 30.0, float("inf"), 0.0]
    x = mx.array([[sign * value] for value in huge for sign in (1, -1)] + [[mx.nan]]).astype(dtype)
    weight = LinearWeight("dense", mx.ones((1, 1)))
    parts = {"bias": None, "activation": activation, "residual": None, "gate": None, "gate_index": None}
    ours, exact = quantized_linear(x, weight, activation=activation), reference.quantized_linear(x, weight, **parts)
    assert mx.array_equal(mx.isnan(ours), mx.isnan(exact))
    assert mx.array_equal(mx.isinf(ours), mx.isinf(exact))
    sound = mx.isfinite(exact)
    assert mx.allclose(mx.where(sound, ours, 0), mx.where(sound, exact, 0), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("form", FORMATS)
def test_weights_and_rows_at_odd_offsets(form):
    """Views that start in the middle of a vector, of a word, or of nothing that is aligned."""
    n, k = 19, 256
    weight = make_weight(form, n, k)

    def shifted(a, first):
        padded = mx.concatenate([mx.zeros((first,), a.dtype), a.reshape(-1)])
        mx.eval(padded)
        return padded[first:].reshape(a.shape)

    for rows in (1, 5, 30):
        for dtype in (mx.float32, mx.bfloat16):
            x, bias = normal((rows, k), rows, dtype), normal((n,), 2)
            residual, gate = normal((rows, n), 3, dtype), normal((1, n), 4)
            right = quantized_linear(x, weight, bias=bias, residual=residual, gate=gate)
            for first in (1, 3):
                moved = LinearWeight(
                    weight.mode,
                    shifted(weight.values, first),
                    weight.scale if weight.scale is None else shifted(weight.scale, first),
                    weight.zero if weight.zero is None else shifted(weight.zero, first),
                    weight.group_size,
                    weight.bits,
                )
                parts = {"bias": bias, "residual": residual, "gate": gate}
                parts = {name: shifted(part, first) for name, part in parts.items()}
                assert mx.array_equal(quantized_linear(shifted(x, first), moved, **parts), right)


def test_nan_and_infinity_pass_through():
    x = mx.array([[1.0, float("nan")], [1.0, float("inf")], [1.0, 2.0]])
    for activation in (None, "gelu_tanh", "silu"):
        for dtype in DTYPES:
            out = quantized_linear(x.astype(dtype), LinearWeight("dense", mx.ones((9, 2))), activation=activation)
            assert mx.isnan(out[0]).all()
            assert mx.isinf(out[1]).all()
            assert mx.isfinite(out[2]).all()


def test_saturated_activations():
    x = mx.array([[-200.0], [-100.0], [-20.0], [0.0], [20.0], [200.0]])
    for activation in ("gelu_tanh", "silu"):
        out = quantized_linear(x, LinearWeight("dense", mx.ones((1, 1))), activation=activation)
        assert mx.allclose(out[:, 0], mx.array([0.0, 0.0, 0.0, 0.0, 20.0, 200.0]), atol=1e-6)


def test_accepts_any_strides():
    base = normal((4, 6, 2, 40), 0)
    weight = make_weight("bfloat16", 24, 40)
    for x in (base.transpose(2, 0, 1, 3), base[:, ::2, 1], base[::-1], mx.broadcast_to(base[:1], base.shape)):
        residual = normal((24, *x.shape[:-1]), 1).transpose(*range(1, x.ndim), 0)
        ours = quantized_linear(x, weight, residual=residual)
        assert mx.array_equal(ours, quantized_linear(mx.contiguous(x), weight, residual=mx.contiguous(residual)))
        assert error(ours, exactly(x, weight, residual=residual)) < 2e-5
    x = normal((40, 30), 2).T
    transposed = LinearWeight("dense", normal((40, 24), 3).T)
    wide_bias, wide_gate = normal((48,), 4), normal((24, 2), 5)
    parts = {"bias": wide_bias[::2], "gate": wide_gate.T[:1]}
    assert error(quantized_linear(x, transposed, **parts), exactly(x, transposed, **parts)) < 2e-5


def test_gathers_the_gate_of_each_row():
    x, gate, residual = normal((2, 5, 32), 0), normal((3, 70), 1, mx.bfloat16), normal((2, 5, 70), 2)
    index = mx.array([[0, 1, 2, 2, 0], [-1, 1, 1, 0, -3]])
    weight = make_weight("float32", 70, 32)
    ours = quantized_linear(x, weight, residual=residual, gate=gate, gate_index=index)
    exact = np.array(residual) + exactly(x, weight) * np.array(gate.astype(mx.float32))[np.array(index)]
    assert error(ours, exact) < 1e-5


def test_leaves_inputs_that_are_still_needed():
    x, residual = normal((4, 16), 0), normal((4, 16), 1)
    before = mx.array(residual)
    weight = make_weight("float32", 16, 16)
    mx.eval(x, residual, before, quantized_linear(x, weight, residual=residual))
    assert mx.array_equal(residual, before)
    assert error(quantized_linear(x, weight, residual=x), exactly(x, weight, residual=x)) < 1e-5
    owned = quantized_linear(x, weight, residual=residual * 2)  # whose buffer the result may take
    assert error(owned, exactly(x, weight, residual=residual * 2)) < 1e-5


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32)], ids=str)
def test_no_rows(shape):
    out = quantized_linear(mx.zeros(shape), make_weight("e4m3", 5, 32))
    mx.eval(out)
    assert out.shape == (*shape[:-1], 5)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("form", ["float32", "bfloat16", "e4m3", "int4/32", "int8/64", *PACKED])
def test_bits_depend_neither_on_threads_nor_on_other_rows(form, dtype):
    unit = PACKED.get(form, 1)
    n, m = 150, 600  # cut differently for each number of threads
    k = -(-320 // unit) * unit
    x, weight = normal((m, k), 0, dtype), make_weight(form, n, k)
    if k % 16 == 0:
        weight = weight._replace(rotation=16)
    threads = _ext.num_threads()
    results = []
    try:
        for count in (1, 2, 3, 5, 64):
            _ext.set_num_threads(count)
            results.append(quantized_linear(x, weight, activation="silu"))
            mx.eval(results[-1])
    finally:
        _ext.set_num_threads(threads)
    assert all(mx.array_equal(results[0], result) for result in results[1:])
    for rows in (slice(0, 1), slice(3, 5), slice(7, 11), slice(100, 105), slice(4, 209)):
        assert mx.array_equal(quantized_linear(x[rows], weight, activation="silu"), results[0][rows])


@pytest.mark.parametrize("rows", [5677, 5678, 5679, 5680])
def test_bits_of_a_last_block_of_few_rows(rows):
    """12 threads share 32 columns: the rows of the last block are few, its columns are those of blocks of many rows."""
    x, weight = normal((rows, 16), 0), LinearWeight("dense", normal((32, 16), 1, mx.bfloat16))
    threads = _ext.num_threads()
    results = []
    try:
        for count in (1, 12):
            _ext.set_num_threads(count)
            results.append(quantized_linear(x, weight))
            mx.eval(results[-1])
    finally:
        _ext.set_num_threads(threads)
    assert mx.array_equal(*results)


def test_few_rows_have_the_bits_of_many_with_odd_scales_and_codes():
    """NaN, zero, negative, and exponents that cannot be added to a value's: in whole depth blocks and after."""
    n, k = 45, 2 * 256 + 32
    scales = np.full((n, k // 32), 127, np.uint8)
    scales[3, 2], scales[4, 5], scales[33, 9], scales[44, -1] = 0, 250, 3, 250
    codes = np.array(make_weight("mxfp8", n, k).values)
    codes[7, 70], codes[40, 300], codes[20, -1] = 0x7F, 0xFF, 0x7F
    mxfp8 = LinearWeight("mxfp8", mx.array(codes), mx.array(scales))
    nvfp4 = make_weight("nvfp4", n, k)
    halves = np.array(nvfp4.scale)
    halves[3, 2], halves[4, 17], halves[44, -1], halves[30, 3], halves[9] = 0, 0x7F, 1, 0x80, halves[9] | 0x80
    x = normal((40, k), 3, mx.bfloat16)
    for weight, faults in ((mxfp8, [7, 20, 40]), (nvfp4._replace(scale=mx.array(halves)), [4])):
        whole = quantized_linear(x, weight)
        assert mx.isnan(whole[:, mx.array(faults)]).all()
        assert mx.isfinite(whole[:, :3]).all()
        for rows in (1, 2, 16):
            assert mx.array_equal(quantized_linear(x[:rows], weight), whole[:rows], equal_nan=True)


@pytest.mark.parametrize("size", [1.0, 2.0**-66], ids=["usual", "subnormal"])
@pytest.mark.parametrize("k", [16, 31, 300])
def test_any_number_of_rows_is_summed_alike(k, size):
    x, weight = normal((70, k), 0) * size, normal((45, k), 1) * size  # products around the smallest normal number
    x, weight = x.astype(mx.bfloat16), LinearWeight("dense", weight.astype(mx.bfloat16))
    whole = quantized_linear(x, weight, residual=mx.zeros((70, 45), mx.bfloat16))
    pieces = [(0, 1), (69, 70), (1, 3), (3, 8), (0, 12), (4, 17), (2, 19), (7, 31), (0, 33), (5, 69)]
    for rows in (slice(*piece) for piece in pieces):
        part = quantized_linear(x[rows], weight, residual=mx.zeros((70, 45), mx.bfloat16)[rows])
        assert mx.array_equal(part, whole[rows]), rows


def codes_weight(n, k, rotation=0, seed=7):
    """An int8 weight with every code, -128 too."""
    return make_weight("int8_rows", n, k, seed, rotation)._replace(activations="int8")


@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 5), (3, 321, 37), (70, 1090, 150)])
def test_products_of_codes_are_exact(m, k, n):
    codes = np.random.default_rng(m).integers(-127, 128, (m, k))
    codes[:, 0] = 127  # so that the values are their own codes
    weight = codes_weight(n, k)._replace(scale=mx.ones(n))
    expected = (codes @ np.array(weight.values, np.int64).T).astype(np.float32)
    assert np.array_equal(np.array(quantized_linear(mx.array(codes.astype(np.float32)), weight)), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rotation", [0, 4, 64])
def test_rows_become_codes(dtype, rotation):
    x, weight = normal((70, 1088), 0, dtype), codes_weight(150, 1088, rotation)
    rotated = reference.rotate_groups(x.astype(mx.float32), rotation).astype(dtype) if rotation else x
    wide = np.array(rotated.astype(mx.float32), np.float64)
    most = np.abs(wide).max(axis=-1, keepdims=True)
    codes = np.rint(wide * (127 / most))
    expected = (codes @ np.array(weight.values, np.float64).T) * (most / 127) * np.array(weight.scale)
    found = quantized_linear(x, weight)
    assert found.dtype == dtype
    # Here and there a value between two codes is rounded to the other one.
    unit = float(np.abs(np.array(weight.values)).max() * np.array(weight.scale).max() * most.max() / 127)
    assert error(found, expected) <= 2 * unit + 2.0**-8 * np.abs(expected).max() * (dtype != mx.float32)


def test_rows_as_codes_agree_with_the_reference_and_the_epilogue():
    x, weight = normal((33, 200), 0), codes_weight(40, 200)
    parts = {"bias": normal((40,), 3), "residual": normal((33, 40), 4), "gate": normal((1, 40), 5)}
    ours = quantized_linear(x, weight, activation="gelu_tanh", **parts)
    plain = reference.quantized_linear(x, weight, activation="gelu_tanh", gate_index=None, **parts)
    assert mx.allclose(ours, plain, rtol=1e-5, atol=1e-5 * float(mx.abs(plain).max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_of_codes_depend_neither_on_threads_nor_on_other_rows(dtype):
    x, weight = normal((600, 333), 0, dtype), codes_weight(150, 333)
    threads = _ext.num_threads()
    results = []
    try:
        for count in (1, 2, 5, 64):
            _ext.set_num_threads(count)
            results.append(quantized_linear(x, weight))
            mx.eval(results[-1])
    finally:
        _ext.set_num_threads(threads)
    assert all(mx.array_equal(results[0], result) for result in results[1:])
    for rows in (slice(0, 1), slice(7, 11), slice(4, 209)):
        assert mx.array_equal(quantized_linear(x[rows], weight), results[0][rows])
    assert mx.array_equal(quantized_linear(x.T.astype(dtype)[:, :9].T, weight), results[0][:9])


def test_codes_of_rows_without_a_size():
    x = mx.array(np.ones((6, 64), np.float32))
    x[1] = 0.0
    x[2] *= 1e-36
    x[3, 5] = float("nan")
    x[4, 63] = float("-inf")
    for source in (x, mx.concatenate([x] * 20)):
        for out in (quantized_linear(source, codes_weight(5, 64)), reference_of(source, codes_weight(5, 64))):
            found = np.array(out)
            assert (found[1:3] == 0).all()
            assert np.isnan(found[3:5]).all()
            assert np.isfinite(found[[0, 5]]).all()


def reference_of(x, weight):
    return reference.quantized_linear(x, weight, None, activation=None, residual=None, gate=None, gate_index=None)


def test_extreme_codes_fill_no_more_than_32_bits():
    k = 131072
    x = mx.ones((2, k))
    weight = LinearWeight("int8", mx.full((3, k), -128, dtype=mx.int8), mx.ones(3), activations="int8")
    assert np.array(quantized_linear(x, weight)).tolist() == [[-128.0 * k] * 3] * 2


def test_differentiates_through_the_reference():
    x, bias, gate, residual = normal((3, 32), 0), normal((8,), 1), normal((2, 8), 2), normal((3, 8), 3)
    index = mx.array([0, 1, 1])
    dense = normal((8, 32), 4)

    def loss(op):
        def of(x, values, bias, gate, residual):
            weight = LinearWeight("dense", values)
            out = op(x, weight, bias, activation="gelu_tanh", residual=residual, gate=gate, gate_index=index)
            return (out**2).sum()

        return mx.grad(of, argnums=(0, 1, 2, 3, 4))

    for ours, exact in zip(
        loss(quantized_linear)(x, dense, bias, gate, residual),
        loss(reference.quantized_linear)(x, dense, bias, gate, residual),
        strict=True,
    ):
        assert mx.allclose(ours, exact, rtol=1e-4, atol=1e-4)
    for form in ("e4m3", "int4/32", "nvfp4", "int8_rows"):
        weight = make_weight(form, 8, 32)._replace(rotation=4)
        ours = mx.grad(lambda x, w=weight: quantized_linear(x, w).sum())(x)
        assert mx.allclose(ours[0], reference.dequantise(weight).sum(axis=0), rtol=1e-4, atol=1e-5)


def test_vectorises_and_compiles():
    x, weight = normal((5, 3, 64), 0), make_weight("int8/32", 12, 64)
    batched = mx.vmap(lambda x: quantized_linear(x, weight, activation="silu"), in_axes=1, out_axes=1)(x)
    assert mx.allclose(batched, quantized_linear(x, weight, activation="silu"), rtol=1e-5, atol=1e-5)

    def twice(x):
        return quantized_linear(x, weight) + quantized_linear(x, weight, activation="silu")

    compiled = mx.compile(twice)
    for _ in range(2):
        assert mx.array_equal(compiled(x), twice(x))


X = mx.zeros((2, 3, 64))
DENSE = LinearWeight("dense", mx.zeros((8, 64)))
E4M3 = LinearWeight("e4m3", mx.zeros((8, 64), mx.uint8), mx.array(1.0))
INT4 = LinearWeight("affine", mx.zeros((8, 8), mx.uint32), mx.zeros((8, 2)), mx.zeros((8, 2)), 32, 4)
INT8 = make_weight("int8_rows", 8, 64)
Q8 = make_weight("q8_0", 8, 64)
NVFP4 = make_weight("nvfp4", 8, 64)
MXFP8 = make_weight("mxfp8", 8, 64)
W4A8 = make_weight("w4a8/16", 8, 64)
INDEX = mx.zeros((2, 3), mx.int32)
REJECTED = {
    "x must be float32, float16 or bfloat16 but is int32": ((X.astype(mx.int32), DENSE), {}),
    "x must have at least one axis": ((mx.array(1.0), DENSE), {}),
    "x must end in K = 64, the width of the weight, but ends in 63": ((X[..., 1:], DENSE), {}),
    'weight.mode must be one of "dense", "e4m3", "affine", .* but is "mxfp4"': ((X, DENSE._replace(mode="mxfp4")), {}),
    r"weight.values must have two axes but has shape \(64\)": ((X, DENSE._replace(values=mx.zeros(64))), {}),
    "weight.values must not be empty": ((X, DENSE._replace(values=mx.zeros((0, 64)))), {}),
    "weight.values must be float32, float16 or bfloat16 but is uint8": ((X, DENSE._replace(values=E4M3.values)), {}),
    'weight.scale must be None in mode "dense"': ((X, DENSE._replace(scale=mx.array(1.0))), {}),
    'weight.values must be uint8 in mode "e4m3" but is float32': ((X, E4M3._replace(values=DENSE.values)), {}),
    'weight.scale is needed in mode "e4m3"': ((X, E4M3._replace(scale=None)), {}),
    'weight.scale must be float32 in mode "e4m3" but is float16': (
        (X, E4M3._replace(scale=mx.array(1, mx.float16))),
        {},
    ),
    r'weight.scale must be one float32 or have shape \(8\) in mode "e4m3"': ((X, E4M3._replace(scale=mx.ones(7))), {}),
    'weight.zero must be None in mode "e4m3"': ((X, E4M3._replace(zero=mx.array(1.0))), {}),
    'weight.values must be uint32 in mode "affine"': ((X, INT4._replace(values=mx.zeros((8, 8), mx.int32))), {}),
    "weight.bits must be 4 or 8 but is 3": ((X, INT4._replace(bits=3)), {}),
    "weight.group_size must be 32, 64 or 128 but is 16": ((X, INT4._replace(group_size=16)), {}),
    "weight.group_size 128 must divide K, which is 64": ((X, INT4._replace(group_size=128)), {}),
    'weight.scale is needed in mode "affine"': ((X, INT4._replace(scale=None)), {}),
    r"weight.zero must have shape \(8,2\) but has \(8,1\)": ((X, INT4._replace(zero=mx.zeros((8, 1)))), {}),
    "weight.scale and weight.zero must have the same dtype": (
        (X, INT4._replace(zero=INT4.zero.astype(mx.float16))),
        {},
    ),
    'weight.table must be None in mode "affine"': ((X, INT4._replace(table=mx.zeros(16))), {}),
    'weight.values must be int8 in mode "int8" but is uint8': ((X, INT8._replace(values=E4M3.values)), {}),
    r"weight.scale must have shape \(8\) but has \(8,1\)": ((X, INT8._replace(scale=mx.ones((8, 1)))), {}),
    'weight.scale must be None in mode "q8_0"': ((X, Q8._replace(scale=mx.ones(8))), {}),
    r"weight.values must have rows of whole blocks of 34 bytes but has shape \(8,67\)": (
        (X, Q8._replace(values=Q8.values[:, :67])),
        {},
    ),
    "x must end in K = 64, the width of the weight, but ends in 32": ((X[..., :32], Q8), {}),
    "K must be a multiple of 16 but is 24": (
        (X[..., :24], NVFP4._replace(values=NVFP4.values[:, :12], scale=NVFP4.scale[:, :1])),
        {},
    ),
    r"weight.scale must have shape \(8,4\) but has \(128,4\)": (
        (X, NVFP4._replace(scale=mx.zeros((128, 4), mx.uint8))),
        {},
    ),
    'weight.zero must be one float32 in mode "nvfp4" but has shape \\(8\\)': ((X, NVFP4._replace(zero=mx.ones(8))), {}),
    'weight.zero is needed in mode "nvfp4"': ((X, NVFP4._replace(zero=None)), {}),
    "K must be a multiple of 32 but is 16": (
        (X[..., :16], MXFP8._replace(values=MXFP8.values[:, :16], scale=MXFP8.scale[:, :1])),
        {},
    ),
    'weight.scale must be uint8 in mode "mxfp8" but is float32': ((X, MXFP8._replace(scale=mx.ones((8, 2)))), {}),
    'weight.group_size must be 4, 8 or a multiple of 16 in mode "w4a8" but is 12': (
        (X, W4A8._replace(group_size=12)),
        {},
    ),
    r"weight.table must have shape \(16\) but has \(15\)": ((X, W4A8._replace(table=W4A8.table[:15])), {}),
    r"weight.zero must have shape \(8\) but has \(1\)": ((X, W4A8._replace(zero=mx.ones(1))), {}),
    "weight.rotation must be 0 or a power of 4 but is 32": ((X, INT8._replace(rotation=32)), {}),
    "weight.rotation must be 0 or a power of 4 but is 1": ((X, DENSE._replace(rotation=1)), {}),
    "weight.rotation 256 must divide K, which is 64": ((X, INT8._replace(rotation=256)), {}),
    r"bias must have shape \(8\) but has \(64\)": ((X, DENSE, mx.zeros(64)), {}),
    "bias must be float32, float16 or bfloat16 but is int32": ((X, DENSE, mx.zeros(8, mx.int32)), {}),
    'activation must be "none", "gelu_tanh" or "silu" but is "relu"': ((X, DENSE), {"activation": "relu"}),
    "residual must have x's dtype float32 but is float16": ((X, DENSE), {"residual": mx.zeros((2, 3, 8), mx.float16)}),
    r"residual must have shape \(2,3,8\) but has \(6,8\)": ((X, DENSE), {"residual": mx.zeros((6, 8))}),
    r"gate must have shape \(R,8\) with R >= 1 but has \(8\)": ((X, DENSE), {"gate": mx.zeros(8)}),
    "gate_index is needed because gate has 2 rows": ((X, DENSE), {"gate": mx.zeros((2, 8))}),
    "gate_index needs gate": ((X, DENSE), {"gate_index": INDEX}),
    "gate_index must be int32 but is uint32": (
        (X, DENSE),
        {"gate": mx.zeros((2, 8)), "gate_index": INDEX.astype(mx.uint32)},
    ),
    r"gate_index must have shape \(2,3\) but has \(6\)": (
        (X, DENSE),
        {"gate": mx.zeros((2, 8)), "gate_index": INDEX.reshape(6)},
    ),
}


@pytest.mark.parametrize("mode", ["compiled", "reference"])
@pytest.mark.parametrize("message", REJECTED)
def test_names_the_bad_argument(message, mode, monkeypatch):
    monkeypatch.setenv("LTX2RT_KERNELS", mode)
    arguments, options = REJECTED[message]
    with pytest.raises(ValueError, match=r"^\[quantized_linear\] " + message):
        quantized_linear(*arguments, **options)


def test_a_gate_index_out_of_range_is_an_error_not_a_crash():
    with pytest.raises(Exception, match="gate_index holds 2 but gate has 2 rows"):
        mx.eval(quantized_linear(X, DENSE, gate=mx.zeros((2, 8)), gate_index=INDEX + 2))


def test_the_reference_can_be_asked_for(monkeypatch):
    x, weight = normal((3, 64), 0), make_weight("int4/32", 8, 64)
    ours = quantized_linear(x, weight)
    monkeypatch.setenv("LTX2RT_KERNELS", "reference")
    options = {"activation": None, "residual": None, "gate": None, "gate_index": None}
    assert mx.array_equal(quantized_linear(x, weight), reference.quantized_linear(x, weight, None, **options))
    assert mx.allclose(quantized_linear(x, weight), ours, rtol=1e-5, atol=1e-5)

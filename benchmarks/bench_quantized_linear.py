"""quantized_linear at the transformer's width, by weight format and number of rows, beside plain MLX.

Run with `pytest -n0 benchmarks --benchmark-only --benchmark-enable` (the default options disable timing).
"""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.kernels import quantized_linear, reference
from ltx2rt.types import LinearWeight

WIDTH = 4096
# As ordinary tests (--benchmark-disable) each case runs once; MLX's own product takes seconds beyond this many rows.
MOST_PLAIN_ROWS = 16
CHECKED_ROWS = 2


def make_weight(form: str) -> LinearWeight:
    w = mx.random.normal((WIDTH, WIDTH), key=mx.random.key(0)) * WIDTH**-0.5
    if form == "e4m3":
        scale = mx.abs(w).max() / 448
        return LinearWeight("e4m3", mx.to_fp8(w / scale), scale)
    if form.startswith("int"):
        bits = int(form[3:])
        return LinearWeight("affine", *mx.quantize(w.astype(mx.bfloat16), group_size=64, bits=bits), 64, bits)
    return LinearWeight("dense", w.astype(getattr(mx, form)))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "e4m3", "int8", "int4"])
def weight(request):
    made = make_weight(request.param)
    mx.eval([a for a in made if isinstance(a, mx.array)])
    return request.param, made


def evaluated(y):
    mx.eval(y)
    return y


def check(result, x, weight):
    """The first rows against the product of the expanded weight in float32."""
    exact = x[:CHECKED_ROWS].astype(mx.float32) @ reference.dequantise(weight).astype(mx.float32).T
    assert result.shape == (x.shape[0], WIDTH)
    assert mx.abs(result[:CHECKED_ROWS].astype(mx.float32) - exact).max() <= 2**-6 * mx.abs(exact).max()


def describe(benchmark, form, weight, rows):
    benchmark.group = f"quantized_linear M={rows} K=N={WIDTH} {form}"
    benchmark.extra_info["flops"] = 2 * rows * WIDTH * WIDTH
    benchmark.extra_info["bytes"] = weight.nbytes + 2 * rows * 2 * WIDTH


@pytest.mark.parametrize("rows", [1, 16, 128, 1024])
def bench_kernel(benchmark, weight, rows):
    form, weight = weight
    x = mx.random.normal((rows, WIDTH), key=mx.random.key(1)).astype(mx.bfloat16)
    mx.eval(x)
    describe(benchmark, form, weight, rows)
    check(benchmark(lambda: evaluated(quantized_linear(x, weight))), x, weight)


@pytest.mark.parametrize("rows", [1, MOST_PLAIN_ROWS])
def bench_plain_mlx(benchmark, weight, rows):
    form, weight = weight
    x = mx.random.normal((rows, WIDTH), key=mx.random.key(1)).astype(mx.bfloat16)
    dense = reference.dequantise(weight).astype(mx.bfloat16)
    mx.eval(x, dense)
    describe(benchmark, form, weight, rows)
    check(benchmark(lambda: evaluated(x @ dense.T)), x, weight)


def bench_kernel_with_epilogue(benchmark):
    rows = 128
    x, residual = (mx.random.normal((rows, WIDTH), key=mx.random.key(i)).astype(mx.bfloat16) for i in range(2))
    weight, bias, gate = make_weight("e4m3"), mx.ones(WIDTH), mx.ones((1, WIDTH))
    mx.eval(x, residual, weight.values, weight.scale, bias, gate)
    describe(benchmark, "e4m3 + epilogue", weight, rows)
    arguments = {"activation": "gelu_tanh", "residual": residual, "gate": gate}
    result = benchmark(lambda: evaluated(quantized_linear(x, weight, bias, **arguments)))
    rows_seen = slice(0, CHECKED_ROWS)
    sums = x[rows_seen].astype(mx.float32) @ reference.dequantise(weight).astype(mx.float32).T + bias
    exact = residual[rows_seen] + gate * 0.5 * sums * (1 + mx.tanh((2 / mx.pi) ** 0.5 * (sums + 0.044715 * sums**3)))
    assert mx.abs(result[rows_seen].astype(mx.float32) - exact).max() <= 2**-6 * mx.abs(exact).max()

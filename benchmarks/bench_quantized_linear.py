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
    benchmark(lambda: mx.eval(quantized_linear(x, weight)))


@pytest.mark.parametrize("rows", [1, MOST_PLAIN_ROWS])
def bench_plain_mlx(benchmark, weight, rows):
    form, weight = weight
    x = mx.random.normal((rows, WIDTH), key=mx.random.key(1)).astype(mx.bfloat16)
    dense = reference.dequantise(weight).astype(mx.bfloat16)
    mx.eval(x, dense)
    describe(benchmark, form, weight, rows)
    benchmark(lambda: mx.eval(x @ dense.T))


def bench_kernel_with_epilogue(benchmark):
    rows = 128
    x, residual = (mx.random.normal((rows, WIDTH), key=mx.random.key(i)).astype(mx.bfloat16) for i in range(2))
    weight, bias, gate = make_weight("e4m3"), mx.ones(WIDTH), mx.ones((1, WIDTH))
    mx.eval(x, residual, weight.values, weight.scale, bias, gate)
    describe(benchmark, "e4m3 + epilogue", weight, rows)
    benchmark(lambda: mx.eval(quantized_linear(x, weight, bias, activation="gelu_tanh", residual=residual, gate=gate)))

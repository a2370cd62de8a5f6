"""modulated_norm at the transformer's width beside its reference."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.kernels import modulated_norm, reference

WIDTH = 4096


def plain_mlx(x, **parts):
    return reference.modulated_norm(x, **parts)


@pytest.mark.parametrize("op", [modulated_norm, plain_mlx], ids=["kernel", "plain_mlx"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("tokens", [128, 1024])
def bench_modulated_norm(benchmark, op, tokens, dtype):
    x = mx.random.normal((1, tokens, WIDTH), key=mx.random.key(0)).astype(dtype)
    table = mx.random.normal((2, WIDTH), key=mx.random.key(1))
    index = (mx.arange(tokens) * 2 // tokens)[None]
    mx.eval(x, table, index)
    benchmark.group = f"modulated_norm T={tokens} D={WIDTH} {dtype}"
    benchmark.extra_info["bytes"] = 2 * x.nbytes
    arguments = {"scale": table, "shift": table, "index": index, "norm": "rms", "eps": 1e-6}

    def run():
        y = op(x, **arguments)
        mx.eval(y)
        return y

    result = benchmark(run)
    exact = reference.modulated_norm(x.astype(mx.float32), **arguments)
    tolerance = 2**-7 if dtype == mx.bfloat16 else 1e-5
    assert mx.abs(result.astype(mx.float32) - exact).max() <= tolerance * mx.abs(exact).max()

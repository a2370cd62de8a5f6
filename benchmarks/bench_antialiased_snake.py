"""antialiased_snake at stages of the 2.3 vocoder beside its reference."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.kernels import antialiased_snake, reference


@pytest.mark.parametrize("op", [antialiased_snake, reference.antialiased_snake], ids=["kernel", "plain_mlx"])
@pytest.mark.parametrize(("samples", "channels"), [(500, 768), (4000, 96), (16000, 24), (48000, 16)], ids=str)
def bench_antialiased_snake(benchmark, op, samples, channels):
    x = mx.random.normal((1, samples, channels), key=mx.random.key(0))
    alpha, beta = (0.3 * mx.random.normal((channels,), key=mx.random.key(seed)) for seed in (1, 2))
    taps = mx.random.normal((12,), key=mx.random.key(3))
    mx.eval(x, alpha, beta, taps)
    benchmark.group = f"antialiased_snake S={samples} C={channels}"
    benchmark.extra_info["bytes"] = 2 * x.nbytes

    def run():
        y = op(x, alpha, beta, taps, taps)
        mx.eval(y)
        return y

    exact = reference.antialiased_snake(x, alpha, beta, taps, taps)
    assert mx.abs(benchmark(run) - exact).max() <= 1e-5 * mx.abs(exact).max()

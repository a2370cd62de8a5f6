"""neighborhood_attention beside its reference, at shapes of the diffusion decoder of LTX-2.5."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.kernels import neighborhood_attention, neighborhood_rope, shifted_frames
from ltx2rt.kernels.selection import forced

HEAD = 64
# name: cells (frames, height, width), heads, window, borders of height and width
CASES = {
    "stage 1": ((6, 8, 8), 32, (3, 7, 7), ("shift", "shift")),
    "stage 5, 9 frames of 64x64": ((9, 16, 16), 4, (9, 11, 11), ("shift", "replicate")),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("implementation", ["kernel", "reference"])
@pytest.mark.parametrize("name", CASES)
def bench_neighborhood_attention(benchmark, name, implementation, dtype):
    grid, heads, window, borders = CASES[name]
    qkv = mx.random.normal((1, *grid, 3 * heads * HEAD), key=mx.random.key(0)).astype(dtype)
    q, k, v = (qkv[..., i * heads * HEAD : (i + 1) * heads * HEAD] for i in range(3))
    times = np.arange(grid[0])
    arguments = {
        "num_heads": heads,
        "window": window[1:],
        "borders": borders,
        "q_norm": mx.ones((HEAD,)),
        "k_norm": mx.ones((HEAD,)),
        "rope": neighborhood_rope(times, times, grid[1:], window[1:]),
    }
    seen = shifted_frames(grid[0], window[0])
    mx.eval(qkv, seen, *arguments["rope"])
    benchmark.group = f"neighborhood_attention {name} {dtype}"
    benchmark.extra_info["flop"] = 4 * q.size * int(np.prod(window))

    def run():
        with forced(implementation):
            y = neighborhood_attention(q, k, v, seen, **arguments)
        mx.eval(y)
        return y

    result = benchmark.pedantic(run, rounds=3, warmup_rounds=1).astype(mx.float32)
    assert result.shape == q.shape
    assert mx.isfinite(result).all()

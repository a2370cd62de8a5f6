"""Counting and timing the kernel calls of a graph."""

from __future__ import annotations

import sys

import mlx.core as mx
import pytest

from ltx2rt.bench.observation import BETWEEN, KERNELS, count, profile
from ltx2rt.kernels import causal_conv3d, neighborhood_attention, quantized_linear, rope_attention, selection
from ltx2rt.types import LinearWeight

WEIGHT = LinearWeight("dense", mx.ones((6, 8)))


def linear(x: mx.array) -> mx.array:
    return quantized_linear(x, WEIGHT)


def test_operations_are_counted_from_the_calls() -> None:
    def build() -> mx.array:
        q = mx.ones((1, 5, 12))
        k = mx.ones((1, 7, 12))
        rope_attention(q, k, k, num_heads=2)
        cells = mx.ones((1, 3, 4, 5, 32))
        seen = mx.array([[0, 1], [1, 2], [2, -1]])
        neighborhood_attention(cells, cells, cells, seen, num_heads=2, window=(3, 5))
        causal_conv3d(mx.ones((1, 4, 5, 6, 3)), mx.ones((2, 3, 1, 1, 3)), padding=((2, 0), (0, 0), (0, 0)))
        return linear(mx.ones((3, 8)))

    totals = count(build).totals
    assert {name: (t.calls, t.operations) for name, t in totals.items()} == {
        "quantized_linear": (1, 2 * 3 * 6 * 8),
        "rope_attention": (1, 4 * 5 * 7 * 12),
        "neighborhood_attention": (1, 4 * (4 * 5 * 32) * 5 * (3 * 5)),
        "causal_conv3d": (1, 2 * (4 * 5 * 6 * 2) * (3 * 3)),
    }
    assert totals["quantized_linear"].bytes == 4 * (3 * 8 + 6 * 8 + 3 * 6)


def test_a_profile_holds_every_kernel_and_the_time_between_them() -> None:
    result = profile(lambda: linear(mx.exp(linear(mx.ones((3, 8)))[:, :1] * mx.zeros((3, 8)))))
    assert result.totals["quantized_linear"].calls == 2
    assert result.totals["quantized_linear"].seconds > 0
    assert result.totals[BETWEEN].seconds > 0
    assert result.seconds == pytest.approx(sum(t.seconds for t in result.totals.values()))


def test_the_kernels_are_themselves_again_afterwards() -> None:
    def fail() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        count(fail)
    for name in KERNELS:
        assert sys.modules[f"ltx2rt.kernels.{name}"].ext is selection.ext  # type: ignore[attr-defined]

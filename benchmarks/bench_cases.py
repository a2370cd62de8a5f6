"""The cases of ``ltx2rt bench`` under pytest-benchmark: reduced and run once as tests, whole when it is enabled."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.bench.case import OURS, REFERENCE
from ltx2rt.bench.table import all_cases

CASES = {case.name: case for case in all_cases()}


@pytest.mark.parametrize("name", CASES)
def bench_case(benchmark, name):
    case = CASES[name] if benchmark.enabled else CASES[name].reduced()
    prepared = case.prepare((REFERENCE,))
    benchmark.group = name.split("/")[0]
    benchmark.extra_info |= {"operations": prepared.work.operations, "bytes": prepared.work.bytes}
    result = benchmark.pedantic(prepared.ways[OURS].make(1.0), rounds=3, warmup_rounds=1)
    assert prepared.work.operations > 0 or prepared.work.bytes > 0
    if benchmark.disabled and REFERENCE in prepared.ways:
        assert_close(result, prepared.ways[REFERENCE].make(1.0)())


def assert_close(result, exact):
    """Both within two roundings to bfloat16 of the largest value."""
    result, exact = result.astype(mx.float32), exact.astype(mx.float32)
    assert result.shape == exact.shape
    assert mx.abs(result - exact).max() <= 2**-6 * mx.abs(exact).max()

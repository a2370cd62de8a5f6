"""The cases of ``ltx2rt bench`` under pytest-benchmark: reduced and run once as tests, whole when it is enabled."""

from __future__ import annotations

import pytest

from ltx2rt.bench.case import OURS
from ltx2rt.bench.table import all_cases

CASES = {case.name: case for case in all_cases()}


@pytest.mark.parametrize("name", CASES)
def bench_case(benchmark, name):
    case = CASES[name] if benchmark.enabled else CASES[name].reduced()
    prepared = case.prepare(())
    benchmark.group = name.split("/")[0]
    benchmark.extra_info |= {"operations": prepared.work.operations, "bytes": prepared.work.bytes}
    benchmark.pedantic(prepared.ways[OURS].make(1.0), rounds=3, warmup_rounds=1)

"""Where nothing is measured, the first case of every benchmark shows that it still runs; tests have the others."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"):
        return
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    seen: set[str] = set()
    for item in items:
        benchmark = item.nodeid.partition("[")[0]
        (dropped if benchmark in seen else kept).append(item)
        if Path(__file__).parent in item.path.parents:
            seen.add(benchmark)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept

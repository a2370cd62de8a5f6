"""Where nothing is measured, some cases show that the benchmarks still run."""

from __future__ import annotations

from pathlib import Path

import pytest
from covering import left_out


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"):
        return
    dropped = left_out(item for item in items if Path(__file__).parent in item.path.parents)
    gone = set(dropped)
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in gone]

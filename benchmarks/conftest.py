"""Where nothing is measured, some cases show that the benchmarks still run."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, of each benchmark, cases all of whose values other cases have, too: rows, dtypes, implementations."""
    if config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"):
        return
    seen: dict[str, set[tuple[str, str]]] = {}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        here = isinstance(item, pytest.Function) and Path(__file__).parent in item.path.parents
        values = (
            {(name, str(value)) for name, value in item.callspec.params.items()}
            if here and hasattr(item, "callspec")
            else set()
        )
        if values:
            known = seen.setdefault(item.nodeid.partition("[")[0], set())
            if values <= known:
                left_out.append(item)
                continue
            known |= values
        kept.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept

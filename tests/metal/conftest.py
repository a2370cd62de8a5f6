"""Makes the simulator importable, and skips what needs its compiler where that is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# At the end: the installed ltx2rt comes before the one in the repository, which has no extension.
sys.path.append(str(ROOT))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tools.metal_sim.extension import missing

    if not missing():
        return
    reason = f"needs {' and '.join(missing())}: pip install 'ltx2rt[metal]'"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))

"""Makes the simulator importable, and skips this folder where the simulator's compiler is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# At the end: the installed ltx2rt comes before the one in the repository, which has no extension.
sys.path.append(str(ROOT))


class _Skipped(pytest.Module):
    """A module that is not even imported: what it imports may be missing too."""

    def collect(self) -> Iterable[pytest.Item]:
        from tools.metal_sim.extension import missing

        pytest.skip(f"needs {' and '.join(missing())}: pip install 'ltx2rt[metal]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    from tools.metal_sim.extension import missing

    if not missing() or Path(__file__).parent not in module_path.parents:
        return None
    return _Skipped.from_parent(parent, path=module_path)

"""What the tests of benchmarks share."""

from __future__ import annotations

import pytest

from ltx2rt.bench.machine import Machine


@pytest.fixture(scope="module")  # no longer: it holds a large array
def machine() -> Machine:
    """It measures this one, which takes longer than what most tests do."""
    return Machine()

"""The kernels' tests on the simulated Metal device, with LTX2RT_TEST_KERNELS=metal_sim."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON = os.environ.get("LTX2RT_TEST_KERNELS", "compiled")
if ON not in ("compiled", "metal_sim"):
    raise ValueError(f'LTX2RT_TEST_KERNELS must be "compiled" or "metal_sim" but is "{ON}".')


@pytest.fixture(autouse=ON == "metal_sim")
def on_the_simulated_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every kernel of the test runs its Metal launch code; findings fail the test, but NaN where it is its subject."""
    for folder in (ROOT, ROOT / "tests/metal"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    from simulated_kernels import simulated_kernels

    with simulated_kernels(allow={"nan"} if "nan" in request.node.name else ()):
        yield

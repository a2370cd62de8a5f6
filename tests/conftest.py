"""What every test shares: the markers' conditions."""

from __future__ import annotations

import gc
import importlib.util
import os

import mlx.core as mx
import pytest

# Tests start Python in new processes from the checkout; there, too, the installed package must be imported and not the
# folder of its sources, which holds no compiled module.
os.environ["PYTHONSAFEPATH"] = "1"
# Tests that encode a prompt do so, whatever ran before them.
os.environ["LTX2RT_PROMPT_CACHE"] = "0"
# The kernels of all processes together have as many threads as there are cores: those without one only wait.
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("LTX2RT_NUM_THREADS", str(max(1, cores // int(processes))))
# Tests end processes and never the machine: nothing depends on what the disk has got by then, and a run would wait for
# it about twenty times. Programs that tests start in other processes do wait.
os.fsync = lambda descriptor: None


CONDITIONS = {
    "metal": (mx.metal.is_available, "needs an Apple GPU"),
    "parity": (
        lambda: importlib.util.find_spec("torch") is not None and importlib.util.find_spec("diffusers") is not None,
        "needs the PyTorch reference: pip install 'ltx2rt[parity]'",
    ),
    "weights": (
        lambda: bool(os.environ.get("LTX2RT_WEIGHTS")),
        "needs real checkpoints: set LTX2RT_WEIGHTS to their folder",
    ),
}


def pytest_collection_finish() -> None:
    """Every stage of a run ends with a garbage collection, which would walk through all of pytest each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same for what pytest and caches keep of the tests of a file: a process runs some thousands of them."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (available, reason) in CONDITIONS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))

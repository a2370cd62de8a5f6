"""The ledger and whole runs with the figures of a Mac; they are simulated, no Mac was at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mac_figures import MacFigures

from ltx2rt.errors import MemoryBudgetError
from ltx2rt.memory import limits
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.measure import freed_pages_leave, resident_bytes, resident_peak_bytes
from ltx2rt.memory.need import Need
from ltx2rt.memory.stage import StageRunner

MB = 10**6
GIB = 1 << 30


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> MacFigures:
    figures = MacFigures()
    figures.install(monkeypatch.setattr)
    return figures


def run_stage(runner: StageRunner, name: str, size: int) -> None:
    """A stage that holds ``size`` bytes."""
    with runner.stage(name, Need(name, weights=size)) as stage:
        array = mx.zeros((size // 4,)) + 1
        mx.eval(array)
        stage.hold({"a": array})


def test_nothing_is_told_that_is_not_known(mac: MacFigures) -> None:
    assert not freed_pages_leave()
    assert resident_peak_bytes() is None
    runner = StageRunner(Ledger())
    run_stage(runner, "one", 64 * MB)
    (report,) = runner.reports
    assert report.resident_peak_bytes is None
    assert report.peak_bytes >= 64 * MB
    assert report.planned_peak_bytes > 64 * MB


def test_the_second_large_stage_is_admitted(mac: MacFigures, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits, both together would not; the resident set still shows the first when the second begins."""
    base = resident_bytes()
    runner = StageRunner(Ledger(budget=base + 424 * MB, base=base))
    run_stage(runner, "denoise 1", 336 * MB)
    mac.stale = 336 * MB
    mac.available = 400 * MB
    run_stage(runner, "denoise 2", 336 * MB)
    assert [report.name for report in runner.reports] == ["denoise 1", "denoise 2"]
    # Where freed pages leave the resident set, the same figures mean that something else has grown.
    monkeypatch.setattr("ltx2rt.memory.ledger.freed_pages_leave", lambda: True)
    with pytest.raises(MemoryBudgetError, match="the process already takes"):
        run_stage(runner, "denoise 3", 336 * MB)


def test_what_mlx_holds_counts(mac: MacFigures) -> None:
    ledger = Ledger(budget=1000 * MB, base=100 * MB)
    kept = mx.zeros((50 * MB,)) + 1
    mx.eval(kept)
    ledger.admit(Need("a", weights=700 * MB))
    with pytest.raises(MemoryBudgetError, match="'a' needs 800 MB and the process already takes 300 MB"):
        ledger.admit(Need("a", weights=800 * MB))
    del kept


def test_less_free_memory_than_at_the_plan_refuses(mac: MacFigures) -> None:
    mac.available = 2 * GIB
    ledger = Ledger(limits.default_budget())
    need = ledger.choose([Need("a", weights=GIB, advice="take a smaller one")])
    ledger.admit(need)
    mac.available = GIB // 2
    with pytest.raises(MemoryBudgetError, match=r"needs 1\.07 GB more, but the free memory .* leaves 537 MB"):
        ledger.admit(need)


def test_the_working_set_of_the_gpu_bounds_arrays_and_is_no_free_memory(
    mac: MacFigures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 48 * GIB})
    mac.available = 10 * GIB
    assert abs(limits.default_budget() - resident_bytes() - limits.DEFAULT_SHARE * 10 * GIB) < 50 * MB
    ledger = Ledger()
    ledger.admit(Need("a", weights=9 * GIB))
    with pytest.raises(MemoryBudgetError, match=r"the free memory of the machine leaves 10\.74 GB"):
        ledger.admit(Need("a", weights=11 * GIB))
    mac.available = 60 * GIB
    ledger.admit(Need("a", weights=40 * GIB, host=15 * GIB))
    with pytest.raises(MemoryBudgetError, match="working set that the system recommends for the GPU leaves"):
        ledger.admit(Need("a", weights=49 * GIB, host=GIB))


WHOLE_RUN = """
import json
from ltx2rt import api
from ltx2rt.memory import ledger
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.stage import StageRunner

# The resident set keeps showing what the stage before had: mapped weights, freed pages.
stage_of = StageRunner.stage
def stage(self, name, need=None):
    figures.stale = 150_000_000 * bool(self.reports)
    return stage_of(self, name, need)
StageRunner.stage = stage

found = []
for call in range(2):
    figures.stale = 0
    accounts = Ledger()
    pipeline = api.load("distilled")
    budget = pipeline.plan("a red circle", height=128, width=128, num_frames=9)[0].peak_bytes * 1.02 + 5_000_000
    clip = pipeline("a red circle", height=128, width=128, num_frames=9, memory=int(budget))
    clip.save(f"{folder}/{call}.mp4")
    found.append({"base": accounts.base, "stages": [report.as_dict() for report in clip.report]})
    pipeline.close()  # its weights are no part of the next one's process
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_whole_two_stage_run_twice_without_proc(tmp_path: Path) -> None:
    """Budgets of the plan's own peak, so that anything counted twice refuses a stage."""
    code = f"folder = {str(tmp_path)!r}\n{WHOLE_RUN}"
    script = Path(__file__).with_name("mac_figures.py")
    done = subprocess.run([sys.executable, str(script), code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout.splitlines()[-1])
    for run in (first, second):
        assert [stage["name"] for stage in run["stages"]][3:6] == ["denoise 1", "spatial upscaler", "denoise 2"]
        assert all(stage["resident_peak_bytes"] is None for stage in run["stages"])
    # Not the peak of the first call, which is 10 MB and more above; imports and the encoder's library stay.
    assert second["base"] - first["base"] < 15 * MB

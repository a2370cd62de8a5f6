"""A stage empties what it holds: the arrays are gone, not only unreferenced here."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ltx2rt.graph.models.params import Params
from ltx2rt.memory.stage import StageRunner
from ltx2rt.types import LinearWeight

SIZE = 4 * 1024 * 1024


def big() -> mx.array:
    array = mx.zeros((SIZE // 4,), dtype=mx.float32) + 1
    mx.eval(array)
    return array


def test_arrays_are_gone_after_the_stage() -> None:
    runner = StageRunner()
    before = mx.get_active_memory()
    with runner.stage("one") as stage:
        arrays = stage.hold({"a": big(), "w": LinearWeight("dense", big().reshape(1024, -1))})
        view = Params(arrays)
        assert mx.get_active_memory() - before >= 2 * SIZE
        assert view["a"].size == SIZE // 4
    assert arrays == {}
    assert "a" not in view
    assert mx.get_active_memory() - before < SIZE


def test_report_counts_weights_and_peak() -> None:
    runner = StageRunner()
    with runner.stage("one") as stage:
        stage.hold({"a": big()})
        mx.eval(big() + 1)
    (report,) = runner.reports
    assert report.name == "one"
    assert report.weight_bytes == SIZE
    assert report.peak_bytes >= 2 * SIZE
    assert report.resident_peak_bytes > SIZE
    assert report.seconds > 0


def test_an_exception_empties_the_stage_too() -> None:
    runner = StageRunner()
    arrays = {"a": big()}

    def run_until_it_stops() -> None:
        with runner.stage("one") as stage:
            stage.hold(arrays)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run_until_it_stops()
    assert arrays == {}
    assert [report.name for report in runner.reports] == ["one"]

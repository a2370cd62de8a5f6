"""Calibration of the machine: plausible values, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

from ltx2rt import _ext
from ltx2rt.bench.machine import Machine


def test_calibrated_values_are_plausible(machine: Machine) -> None:
    assert 1e8 < machine.best.float32 < 1e14
    # One dtype may be measured while another process has the cores: orders of magnitude, no ratio.
    assert 1e8 < machine.best.bfloat16 < 1e14
    assert 1e7 < machine.best.read < 1e13
    values = machine.as_dict()
    assert values["threads"] == _ext.num_threads()
    assert values["isa"] == _ext.isa()
    assert values["mlx"] == mx.__version__


def test_more_work_than_a_reading_loop_can_do_is_not_reported() -> None:
    """A loop that a compiler had removed would report many operations per cycle and lane."""
    highest = 6e9 * 2 * 2 * 16 * 2  # cycles, operations of a multiply-add, pipes, lanes of AVX-512, pairs of bfloat16
    assert _ext.calibrate_arithmetic("bfloat16", 0.002) < 2 * highest * _ext.num_threads()
    assert _ext.calibrate_arithmetic("float32", 0.002) < highest * _ext.num_threads()


def test_amx_tiles_are_measured_where_the_processor_has_them(machine: Machine) -> None:
    info = Path("/proc/cpuinfo")
    has_tiles = info.is_file() and "amx_bf16" in info.read_text()
    rate = _ext.calibrate_tiles(0.01)
    assert (machine.best.tiles is None) == (_ext.isa() != "amxbf16")
    if rate is None:
        assert not has_tiles or sys.platform != "linux"
        assert machine.best.tiles is None
        return
    assert has_tiles
    # 16384 operations begin every 16 cycles at most, on every thread.
    assert 0.1 * machine.best.bfloat16 < rate < 6e9 * 1024 * _ext.num_threads()
    assert (machine.as_dict()["bfloat16_tiles_gflops"] or 0) > 0 or _ext.isa() != "amxbf16"


def test_the_machine_says_its_family_and_memory(machine: Machine) -> None:
    values = machine.as_dict()
    assert 0 < values["memory_available_bytes"] <= values["memory_bytes"]
    if sys.platform == "linux":
        assert values["cpu_family"] != ""


def test_rejected_arguments() -> None:
    with pytest.raises(ValueError, match='dtype must be "float32" or "bfloat16" but is "float16"'):
        _ext.calibrate_arithmetic("float16", 0.001)
    with pytest.raises(ValueError, match="seconds must be above 0 and at most 3600 but is 0"):
        _ext.calibrate_tiles(0.0)
    with pytest.raises(ValueError, match="at least 4096 bytes"):
        _ext.calibrate_read(mx.zeros((16,)))
    with pytest.raises(ValueError, match="must be contiguous"):
        _ext.calibrate_read(mx.zeros((64, 64)).T)

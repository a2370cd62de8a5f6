"""A stage empties what it holds: the arrays are gone, not only unreferenced here."""

from __future__ import annotations

import errno
import subprocess
import sys

import av
import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError, MemoryBudgetError, OutOfMemory
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.measure import resident_bytes
from ltx2rt.memory.need import Need
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


def test_the_system_has_the_memory_back() -> None:
    """Not what MLX says is free, but what the operating system says this process has."""
    runner = StageRunner()
    with runner.stage("warm up"):
        mx.eval(big())
    before = resident_bytes()
    with runner.stage("one") as stage:
        arrays = {str(index): big() for index in range(16)}
        stage.hold(arrays)
        mx.eval([array + 1 for array in arrays.values()])
        assert resident_bytes() - before > 15 * SIZE
    assert resident_bytes() - before < 2 * SIZE
    assert runner.reports[-1].resident_peak_bytes - before > 15 * SIZE


def refuse(error: Exception) -> None:
    with StageRunner().stage("denoise", Need("denoise", advice="lower --height")) as stage:
        stage.hold({"a": big()})
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        np._core._exceptions._ArrayMemoryError((2,), np.dtype("f4")),
        av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        # Those of the GPU cannot be provoked here; the texts are those of MLX 0.32.4.
        RuntimeError("[malloc] Unable to allocate 5 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed"),
        RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommand...)"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_refused_memory_becomes_an_error_that_says_so(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"stage 'denoise' ran out of memory .*, or lower --height\.") as caught:
        refuse(error)
    assert caught.value.__suppress_context__


# The process may take as many addresses as it has, and a few more.
REFUSING = """
import mmap, resource, sys, threading, time
import mlx.core as mx
import numpy as np
import psutil
from ltx2rt.errors import OutOfMemory
from ltx2rt.memory.stage import StageRunner

mx.eval(mx.ones(4))
with StageRunner().stage("before"):
    pass

def threads():
    for _ in range(1000):
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()

def stream():
    taken = []
    try:
        while True:
            taken.append(mmap.mmap(-1, 4 << 20))
    except OSError:
        mx.eval(mx.add(mx.ones(4), 1, stream=mx.new_stream(mx.cpu)))  # whose thread has no room for its stack

ways = {
    "numpy": lambda: np.ones(1 << 28),
    "bytes": lambda: bytearray(1 << 30),
    "mmap": lambda: mmap.mmap(-1, 1 << 30),
    "thread": threads,
    "stream": stream,
}
now = psutil.Process().memory_info().vms + (80 << 20)
resource.setrlimit(resource.RLIMIT_AS, (now, now))
try:
    with StageRunner().stage("denoise"):
        ways[sys.argv[1]]()
except OutOfMemory as error:
    sys.stdout.write(str(error))
    sys.stdout.flush()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's address space limit")
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("numpy", "Unable to allocate"),
        pytest.param("bytes", "the system refused it", marks=pytest.mark.slow),
        pytest.param("mmap", "Cannot allocate memory", marks=pytest.mark.slow),
        ("thread", "can't start new thread"),
        ("stream", "Resource temporarily unavailable"),
    ],
)
def test_memory_that_the_system_really_refuses(way: str, words: str) -> None:
    done = subprocess.run([sys.executable, "-c", REFUSING, way], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("stage 'denoise' ran out of memory ("), done.stdout + done.stderr
    assert words in done.stdout
    assert "the limit of the shell (ulimit -v) leaves" in done.stdout


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        refuse(RuntimeError("something else, [malloc] Unable to allocate"))
    with pytest.raises(OSError, match="No space"):
        refuse(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError):
        refuse(CheckpointError("[malloc"))


def test_a_stage_that_is_not_admitted_does_not_begin() -> None:
    runner = StageRunner(Ledger(budget=resident_bytes(), base=0))
    entered = []
    with pytest.raises(MemoryBudgetError), runner.stage("big", Need("big", weights=10**9)):
        entered.append(True)
    assert entered == []
    assert runner.reports == []


class FakeStream:
    bytes_read, read_seconds, waited_seconds, nbytes = 7, 1.5, 0.5, 100

    def __init__(self) -> None:
        self.cleared = False

    def clear(self) -> None:
        self.cleared = True


def test_streams_are_counted_and_cleared() -> None:
    runner = StageRunner(Ledger())
    stream = FakeStream()
    with runner.stage("one", Need("one", slots=100)) as stage:
        assert stage.hold_stream(stream) is stream
    assert stream.cleared
    (report,) = runner.reports
    assert (report.weight_bytes, report.streamed_bytes) == (100, 7)
    assert (report.read_seconds, report.waited_seconds) == (1.5, 0.5)
    assert runner.ledger is not None
    assert report.planned_peak_bytes == runner.ledger.base + 100

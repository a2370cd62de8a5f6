"""The thread pool: coverage of ranges, nesting, exceptions, forks, and the settings read from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from ltx2rt import _ext


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = _ext.num_threads()
    yield _ext.set_num_threads
    _ext.set_num_threads(before)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 64, 1000])
@pytest.mark.parametrize("grain", [1, 3, 5000])
def test_every_item_is_visited_once(threads, count, n, grain):
    threads(count)
    assert _ext.count_visits(n, grain) == [1] * n


def test_nested_loops_run_in_place(threads):
    threads(3)
    assert _ext.count_visits(50, 1, inner=7) == [7] * 50


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_exception_reaches_the_caller_and_the_pool_lives_on(threads, count):
    threads(count)
    for _ in range(20):
        with pytest.raises(RuntimeError, match="item 93 failed"):
            _ext.count_visits(100, 1, fail_at=93)
    assert _ext.count_visits(100, 1) == [1] * 100


def test_several_threads_take_part(threads):
    threads(3)
    assert max(_ext.count_threads(24) for _ in range(5)) > 1
    threads(1)
    assert _ext.count_threads(4) == 1


def test_callers_may_come_at_the_same_time(threads):
    threads(2)
    results = []
    callers = [
        threading.Thread(target=lambda: results.extend(_ext.count_visits(200, 1) == [1] * 200 for _ in range(50)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_has_workers_of_its_own():
    code = (
        "import os, warnings\n"
        "from ltx2rt import _ext\n"
        "_ext.set_num_threads(3); _ext.count_visits(100, 1)\n"
        "warnings.simplefilter('ignore')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    good = _ext.count_visits(100, 1) == [1] * 100 and max(_ext.count_threads(24) for _ in range(5)) > 1\n"
        "    os._exit(0 if good else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    result = run(code)
    assert (result.stdout.strip(), result.stderr) == ("0", "")


def test_number_of_threads_comes_from_the_environment():
    assert run("from ltx2rt import _ext; print(_ext.num_threads())", LTX2RT_NUM_THREADS="5").stdout.strip() == "5"
    assert _ext.num_threads() >= 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LTX2RT_NUM_THREADS", "many", 'LTX2RT_NUM_THREADS must be a number from 1 to 1024, got "many"'),
        ("LTX2RT_NUM_THREADS", "0", 'got "0"'),
        ("LTX2RT_NUM_THREADS", "2x", 'got "2x"'),
        ("LTX2RT_ISA", "mmx", "LTX2RT_ISA must be one of: "),
    ],
)
def test_a_bad_setting_is_reported_when_an_op_is_built(name, value, message):
    code = (
        "import mlx.core as mx\n"
        "from ltx2rt.kernels import modulated_norm\n"
        "try: modulated_norm(mx.ones((1, 4)))\n"
        "except ValueError as error: print(error)\n"
    )
    result = run(code, **{name: value})
    assert message in result.stdout, result.stderr


def test_the_instruction_set_can_be_lowered():
    assert run("from ltx2rt import _ext; print(_ext.isa())", LTX2RT_ISA="portable").stdout.strip() == "portable"


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_rejects_impossible_numbers(count):
    with pytest.raises(ValueError, match="number of threads must be from 1 to 1024"):
        _ext.set_num_threads(count)

"""The thread pool: ranges, worker numbers, several callers, refused threads, forks, and settings of the environment."""

from __future__ import annotations

import heapq
import os
import random
import subprocess
import sys
import threading

import pytest
from refused_memory import NOT_SANITIZED, SANITIZED

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


def test_more_callers_than_the_pool_holds_loops(threads):
    threads(3)
    start = threading.Barrier(40)
    counts = []

    def call():
        start.wait()
        counts.extend(_ext.count_workers(60, 3) for _ in range(3))

    callers = [threading.Thread(target=call) for _ in range(40)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sum(count) for count in counts] == [60] * 120


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_worker_numbers_are_slots_of_scratch(threads, count):
    threads(40)
    for _ in range(5):
        items = _ext.count_workers(100, count)
        assert min(items) >= 0
        assert sum(items) == 100


def test_every_caller_is_helped(threads):
    """Of two long loops at one time neither is left to its caller alone."""
    threads(4)
    counts = {}

    def call(name):
        counts[name] = _ext.count_workers(1500, 4)

    callers = [threading.Thread(target=call, args=(name,)) for name in ("first", "second")]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for items in counts.values():
        assert sum(items) == 1500
        assert sum(items[1:]) > 0


@pytest.mark.parametrize("flush", [False, True])
def test_all_threads_keep_subnormal_numbers_whatever_their_caller_does(threads, flush):
    threads(3)
    assert _ext.count_subnormals(300, flush) == 300
    threads(1)
    assert _ext.count_subnormals(3, flush) == 3


def test_workers_started_by_a_caller_that_flushes_keep_subnormal_numbers():
    assert (
        run("from ltx2rt import _ext; _ext.set_num_threads(3); print(_ext.count_subnormals(300, True))").stdout
        == "300\n"
    )


def cut(n, threads, grain):
    """The ranges of a loop, in order."""
    ranges = []
    while n:
        ranges.append(_ext.guided_range(n, threads, grain))
        n -= ranges[-1]
    return ranges


@pytest.mark.parametrize("threads", [1, 2, 3, 16, 64, 1024])
@pytest.mark.parametrize(("n", "grain"), [(1, 1), (5, 7), (261, 1), (10_000, 1), (10_000, 64), (10**12, 10**6)])
def test_ranges_shrink_and_hold_the_grain(n, threads, grain):
    ranges = cut(n, threads, grain)
    assert sum(ranges) == n
    assert all(size >= grain for size in ranges[:-1])
    assert all(size <= max(grain, n // (2 * threads)) for size in ranges)
    assert ranges == sorted(ranges, reverse=True)


def time_of(ranges, threads, cost, speed, late):
    """When the last thread is done in a model without overheads: each takes the next range as soon as it can."""
    free = [(late[i], i) for i in range(threads)]
    heapq.heapify(free)
    done, end = 0, 0.0
    for size in ranges:
        at, thread = heapq.heappop(free)
        at += sum(cost[done : done + size]) / speed[thread]
        done += size
        end = max(end, at)
        heapq.heappush(free, (at, thread))
    return end


@pytest.mark.parametrize("threads", [2, 3, 8, 16, 64])
@pytest.mark.parametrize("items", [16, 37, 200])
@pytest.mark.parametrize("case", ["equal", "uneven items", "two kinds of cores", "late threads"])
def test_ranges_keep_all_threads_busy(threads, items, case):
    """With 16 items per thread and more, at least 95 % of what all threads together can do."""
    rng = random.Random(threads * 1000 + items)
    n = threads * items + threads // 3
    cost = [rng.uniform(0.5, 1.5) if case == "uneven items" else 1.0 for _ in range(n)]
    speed = [0.5 if case == "two kinds of cores" and i % 2 else 1.0 for i in range(threads)]
    late = [rng.uniform(0, 0.1 * items) if case == "late threads" else 0.0 for _ in range(threads)]
    all_end_together = (sum(cost) + sum(a * s for a, s in zip(late, speed, strict=True))) / sum(speed)
    assert all_end_together / time_of(cut(n, threads, 1), threads, cost, speed, late) >= 0.95


def test_the_261_tasks_of_an_attention_take_64_threads_five_rounds():
    """Equal parts of two tasks take six."""
    assert time_of(cut(261, 64, 1), 64, [1.0] * 261, [1.0] * 64, [0.0] * 64) == 5


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
        pytest.param("LTX2RT_NUM_THREADS", "0", 'got "0"', marks=pytest.mark.slow),
        pytest.param("LTX2RT_NUM_THREADS", "2x", 'got "2x"', marks=pytest.mark.slow),
        ("LTX2RT_PIN_THREADS", "yes", 'LTX2RT_PIN_THREADS must be a number from 0 to 1, got "yes"'),
        pytest.param("LTX2RT_PIN_THREADS", "2", 'got "2"', marks=pytest.mark.slow),
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


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, for /proc and affinity masks")


@LINUX
def test_a_loop_wakes_no_more_workers_than_it_lacks(threads):
    """Of 40 sleeping workers a loop of two threads wakes one: the others' counts of context switches stand still."""
    code = (
        "import contextlib, os, threading, time\n"
        "from ltx2rt import _ext\n"
        "thread = threading.Thread(target=int); thread.start(); thread.join()  # a sanitizer adds one to the first\n"
        "def switches():\n"
        "    counts = {}\n"
        "    for task in os.listdir('/proc/self/task'):\n"
        "        # The thread that was joined may leave the list of the system a moment later.\n"
        "        with contextlib.suppress(FileNotFoundError), open(f'/proc/self/task/{task}/status') as status:\n"
        "            counts[task] = sum(int(line.split()[1]) for line in status if 'ctxt_switches' in line)\n"
        "    return counts\n"
        "before = switches()\n"
        "_ext.set_num_threads(41); _ext.count_workers(400, 41); time.sleep(0.2)\n"
        "workers = switches().keys() - before.keys()\n"
        "asleep = switches()\n"
        "_ext.set_num_threads(2)\n"
        "for _ in range(20): _ext.count_workers(20, 2); time.sleep(0.001)\n"
        "after = switches()\n"
        "print(len(workers), sum(after[task] != asleep[task] for task in workers))\n"
    )
    result = run(code)
    assert result.stderr == ""
    workers, woken = map(int, result.stdout.split())
    assert workers == 40
    assert 1 <= woken <= 4  # one at a time; another may be on top of the pile after a pause


@pytest.mark.skipif(SANITIZED, reason="sanitizers change what waiting and waking cost; run it without")
def test_threads_that_outnumber_the_cores_do_not_spin():
    """The same loops, far apart, take less time of the processor where workers go to sleep at once."""
    code = (
        "import time\n"
        "from ltx2rt import _ext\n"
        "cores = _ext.available_cores()\n"
        "taken = {cores: 1e9, 4 * cores: 1e9}\n"
        "for _ in range(4):\n"
        "    for count in taken:\n"
        "        _ext.set_num_threads(count); _ext.count_workers(2, 2)\n"
        "        start = time.process_time()\n"
        "        for _ in range(100): _ext.count_workers(2, 2); time.sleep(0.0005)\n"
        "        taken[count] = min(taken[count], time.process_time() - start)\n"
        "print(*taken.values())\n"
    )
    result = run(code)
    assert result.stderr == ""
    spinning, sleeping = map(float, result.stdout.split())
    assert sleeping < 0.8 * spinning


@LINUX
@NOT_SANITIZED
def test_a_refused_thread_leaves_those_that_there_are():
    """With room for a few stacks only, kernels go on with fewer threads and say so once."""
    code = (
        "import mmap, resource\n"
        "import mlx.core as mx\n"
        "from ltx2rt import _ext\n"
        "from ltx2rt.kernels import modulated_norm\n"
        "x = mx.random.normal((4096, 1024))\n"
        "expected = modulated_norm(x); mx.eval(x, expected)\n"
        "_ext.set_num_threads(512)\n"
        "room = mmap.mmap(-1, 400 << 20)  # for what MLX allocates later, which does not survive a refusal\n"
        "with open('/proc/self/statm') as statm: size = int(statm.read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (400 << 20),) * 2)\n"
        "print(sum(_ext.count_workers(2000, 512)))\n"
        "room.close()\n"
        "for _ in range(5): assert mx.array_equal(modulated_norm(x), expected).item()\n"
        "print(_ext.num_threads())\n"
    )
    result = run(code, LTX2RT_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    items, count = map(int, result.stdout.split())
    assert items == 2000
    assert 1 <= count < 512
    assert result.stderr.count("\n") == 1
    assert f"ltx2rt: no more than {count} of 512 threads could be started" in result.stderr


@LINUX
def test_pinned_workers_stay_on_one_core():
    code = (
        "import os, threading\n"
        "from ltx2rt import _ext\n"
        "thread = threading.Thread(target=int); thread.start(); thread.join()  # a sanitizer adds one to the first\n"
        "_ext.set_num_threads(4)\n"
        "before = set(os.listdir('/proc/self/task'))\n"
        "_ext.count_workers(400, 4)\n"
        "mine = sorted(os.sched_getaffinity(0))\n"
        "workers = set(os.listdir('/proc/self/task')) - before\n"
        "places = sorted(tuple(os.sched_getaffinity(int(task))) for task in workers)\n"
        "print(places == sorted((mine[(i + 1) % len(mine)],) for i in range(3)), len(mine))\n"
    )
    cores = len(os.sched_getaffinity(0))
    assert run(code, LTX2RT_PIN_THREADS="1").stdout.split() == ["True", str(cores)]
    assert run(code, LTX2RT_PIN_THREADS="0").stdout.split()[0] == str(cores == 1)


@LINUX
def test_the_default_number_of_threads_is_that_of_the_cores_allowed():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ltx2rt import _ext; print(_ext.num_threads())"
    )
    assert run(code, LTX2RT_NUM_THREADS="").stdout.strip() == "1"
    limit = _ext.cgroup_cores()
    cores = len(os.sched_getaffinity(0))
    assert _ext.available_cores() == (cores if limit is None else min(cores, limit))

"""The allocators' settings are the program's again when the last stage has ended."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import mlx.core as mx
import pytest

from ltx2rt.memory import allocator
from ltx2rt.memory.stage import StageRunner

OWN_LIMIT = 123 << 20


class FakeLibrary:
    """Keeps what the C library is told."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        self.options[option] = value
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    fake = FakeLibrary()
    monkeypatch.setattr(allocator, "_glibc", lambda: fake)
    before = mx.set_cache_limit(OWN_LIMIT)
    yield fake
    mx.set_cache_limit(before)


def cache_limit() -> int:
    """Of MLX, which tells it only when it is changed."""
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return limit


HELD = {allocator._M_MMAP_THRESHOLD: 1 << 20, allocator._M_TRIM_THRESHOLD: 1 << 20}
GIVEN_BACK = {allocator._M_MMAP_THRESHOLD: 32 << 20, allocator._M_TRIM_THRESHOLD: 64 << 20}


def test_only_a_stage_changes_them(library: FakeLibrary) -> None:
    with StageRunner().stage("one"):
        assert library.options == HELD
        assert cache_limit() == 0
    assert library.options == GIVEN_BACK
    assert cache_limit() == OWN_LIMIT


def test_an_exception_ends_them_too(library: FakeLibrary) -> None:
    with pytest.raises(KeyError), StageRunner().stage("one"):
        raise KeyError("stop")
    assert library.options == GIVEN_BACK
    assert cache_limit() == OWN_LIMIT


def test_frames_that_nobody_reads_on_end_them(library: FakeLibrary) -> None:
    def frames() -> Iterator[int]:
        with StageRunner().stage("video decoder"):
            yield 1
            yield 2

    reading = frames()
    next(reading)
    assert cache_limit() == 0
    del reading
    assert cache_limit() == OWN_LIMIT


def test_runs_that_overlap_keep_them_until_the_last_ends(library: FakeLibrary) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with StageRunner().stage("other"):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with StageRunner().stage("one"):
        thread.start()
        assert inside.wait(30)
    assert library.options == HELD
    assert cache_limit() == 0
    leave.set()
    thread.join(30)
    assert library.options == GIVEN_BACK
    assert cache_limit() == OWN_LIMIT


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_limits_of_whoever_started_the_program_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "65536")
    code = "from ltx2rt.memory import allocator; print(allocator._glibc())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"

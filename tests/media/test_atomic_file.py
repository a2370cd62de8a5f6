"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ltx2rt.atomic_file import AtomicFile


@pytest.mark.parametrize("shared", [False, True])
def test_the_file_appears_when_it_is_complete_and_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with AtomicFile(path, shared=shared) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert events == ["fsync", "replace"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shared", [False, True])
def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    target = AtomicFile(path, shared=shared)

    def interrupted() -> None:
        with target as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), AtomicFile(tmp_path / "a") as file:  # noqa: PT011 - the kind differs by system
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_writers_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    barrier = threading.Barrier(4)

    def write(digit: int) -> None:
        with AtomicFile(path, shared=True) as file:
            barrier.wait(30)
            file.write(bytes([digit]) * 100_000)

    threads = [threading.Thread(target=write, args=(digit,)) for digit in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert len(content) == 100_000
    assert len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [path]

"""How machines wait for each other: as a group is joined, and before each of its operations."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltx2rt.errors import ConnectionLost, Ltx2rtError, MachineLost, UsageError
from ltx2rt.team import group
from ltx2rt.team.environment import Absence, Asked, asked_for, read_absence, written_absence
from ltx2rt.team.group import MlxGroup, join, meet
from ltx2rt.team.smaller_rings import free_ports, ring_variables


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group that is never complete, as MLX waits for it."""
    end = threading.Event()
    monkeypatch.setattr(group, "ext", SimpleNamespace(join_group=lambda backend, anew: end.wait()))
    yield
    end.set()


@pytest.mark.parametrize(("code", "kind"), [(1, Ltx2rtError), (2, UsageError), (75, MachineLost), (137, MachineLost)])
def test_a_machine_that_has_failed_is_not_waited_for(
    code: int, kind: type[Ltx2rtError], nobody: None, tmp_path: Path
) -> None:
    path = tmp_path / "absent"
    path.write_text("")
    later = threading.Timer(0.15, lambda: path.write_text(f"{written_absence(Absence('mac2', code))}\n"))
    later.start()
    begun = time.monotonic()
    with pytest.raises(
        Ltx2rtError, match=f"^mac2 has ended with exit code {code} before all machines had met"
    ) as raised:
        join(Asked("ring", 0, 2, path), 60)
    later.join()
    assert time.monotonic() - begun < 10
    assert type(raised.value) is kind


def test_half_a_line_says_nothing_yet(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    line = written_absence(Absence("mac2", 2))
    path.write_text(line)
    assert read_absence(path) is None
    path.write_text(f'{line}\n["mac3", 1]\n')
    assert read_absence(path) == Absence("mac2", 2)


@pytest.fixture
def cables() -> Iterator[list[tuple[int, int]]]:
    """Two connections, the ends of each as descriptors that do not block."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for own in (own for pair in pairs for own in pair):
            stack.enter_context(own).setblocking(False)
        yield [(first.fileno(), second.fileno()) for first, second in pairs]


def test_neighbours_meet_asleep_and_leave_what_comes_behind(cables: list[tuple[int, int]]) -> None:
    first, second = zip(*cables, strict=True)
    met = threading.Event()
    used = 0.0

    def early() -> None:
        nonlocal used
        begun = time.thread_time()
        meet(first)
        used = time.thread_time() - begun
        met.set()

    thread = threading.Thread(target=early)
    thread.start()
    assert not met.wait(0.3)
    meet(second)
    os.write(second[0], b"data")
    thread.join(10)
    assert met.is_set()
    assert used < 0.1
    assert os.read(first[0], 10) == b"data"


def test_a_neighbour_that_has_gone_is_a_lost_connection(cables: list[tuple[int, int]]) -> None:
    first, second = zip(*cables, strict=True)
    with socket.socket(fileno=os.dup(second[1])) as own:
        own.shutdown(socket.SHUT_RDWR)
    with pytest.raises(RuntimeError, match=r"closed its connection|Broken pipe"):
        meet(first)


def test_a_neighbour_that_goes_while_a_smaller_ring_is_joined_is_not_waited_for(
    nobody: None, cables: list[tuple[int, int]]
) -> None:
    first, second = zip(*cables, strict=True)
    larger = MlxGroup.__new__(MlxGroup)  # of which the connections alone are looked at
    larger._sockets = frozenset(first)
    os.write(second[0], b"x")  # it has come to its next operation, and is there
    larger.require_connected()
    with socket.socket(fileno=os.dup(second[1])) as own:
        later = threading.Timer(0.15, lambda: own.shutdown(socket.SHUT_RDWR))
        later.start()
        begun = time.monotonic()
        with pytest.raises(ConnectionLost, match="the connection to another machine is lost"):
            join(Asked("ring", 0, 2), 60, beside=larger)
        later.join()
    assert time.monotonic() - begun < 10
    assert os.read(first[0], 10) == b"x"


def test_a_smaller_ring_has_ports_and_variables_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    doors = free_ports(["127.0.0.1", "127.0.0.1"])
    assert len(set(doors)) == 2
    for door in doors:
        host, _, port = door.rpartition(":")
        with socket.create_server((host, int(port))):
            pass  # it is free
    with pytest.raises(OSError, match="assign requested address"):
        free_ports(["192.0.2.1"])
    monkeypatch.setenv("MLX_RANK", "3")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))
    with ring_variables(1, [["10.0.0.1:5000"], doors]):
        asked = asked_for(os.environ)
        path = Path(os.environ["MLX_HOSTFILE"])
    assert asked == Asked("ring", 1, 2, None, ("127.0.0.1", "127.0.0.1"))
    assert not path.exists()
    assert (os.environ["MLX_RANK"], os.environ["MLX_HOSTFILE"]) == ("3", str(tmp_path / "hosts.json"))

"""What machines say to each other, what they wait for, and how it ends when one does not answer."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from thread_machines import Table, ThreadGroup, on_machines, outcomes

import ltx2rt
from ltx2rt import _ext
from ltx2rt.errors import ConnectionLost, MachineLost, UsageError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.team.circle import circle_of
from ltx2rt.team.links import all_reach_all
from ltx2rt.team.messages import packed, unpacked
from ltx2rt.team.team import Rules, Team


def test_messages_have_every_bit_of_their_arrays() -> None:
    arrays = [
        np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32),
        None,
        np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
        np.array([[True, False]]),
        np.zeros((0, 3), np.uint16),
    ]
    head, found = unpacked(packed({"sigma": 0.1, "kinds": ["cond", None]}, arrays))
    assert head == {"sigma": 0.1, "kinds": ["cond", None]}
    for array, own in zip(arrays, found, strict=True):
        if array is None:
            assert own is None
        else:
            assert own is not None
            assert (own.dtype, own.shape, own.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("size", [2, 3, 8])
def test_what_the_leader_tells_arrives_on_every_machine_in_order(size: int) -> None:
    told = [({"number": number}, [np.full(number, number, np.uint16)]) for number in range(4)]

    def work(team: Team) -> Any:
        if team.leads:
            for head, arrays in told:
                team.tell(head, arrays)
            return None
        return [(head, [array.tolist() for array in arrays if array is not None]) for head, arrays in team.messages()]

    heard = [(head, [array.tolist() for array in arrays]) for head, arrays in told]
    assert on_machines(size, work)[1:] == [heard] * (size - 1)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32, mx.int32, mx.bool_])
def test_gathered_values_have_every_bit_and_are_counted(dtype: mx.Dtype) -> None:
    def work(team: Team) -> Any:
        x = (mx.arange(6).reshape(2, 3) * (team.rank + 1) - 1).astype(dtype)
        found = team.gather(x.T, "values")
        assert found.dtype == dtype
        return to_numpy(found), team.traffic

    results = on_machines(3, work)
    expected = np.stack([to_numpy((mx.arange(6).reshape(2, 3) * (rank + 1) - 1).astype(dtype).T) for rank in range(3)])
    for found, traffic in results:
        assert np.array_equal(found, expected)
        assert traffic.received["values"] == 2 * 6 * dtype.size
        assert traffic.calls["values"] == 1


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_what_is_added_up_has_every_bit_and_is_counted(size: int, dtype: mx.Dtype) -> None:
    whole = mx.array([0.0, -0.0, float("nan"), float("inf"), -3.25, *range(11)]).astype(dtype)
    mx.eval(whole)

    def work(team: Team) -> Any:
        own = mx.where(mx.arange(16) % size == team.rank, whole, mx.zeros(16, dtype))
        found = team.finish(team.start_sum(own, "values"))
        return to_numpy(found.view(mx.uint8)), team.traffic.received["values"]

    for found, received in on_machines(size, work):
        assert np.array_equal(found, to_numpy(whole.view(mx.uint8)))
        assert received == 2 * whole.nbytes * (size - 1) // size


def test_texts_of_different_lengths() -> None:
    assert on_machines(3, lambda team: team.gather_texts("ä" * team.rank)) == [["", "ä", "ää"]] * 3


def test_signs_of_life_keep_the_others_waiting_for_longer_than_their_patience() -> None:
    def work(team: Team) -> Any:
        if not team.leads:
            return [head for head, _ in team.messages()]
        team.tell("first")
        team.rest()
        time.sleep(1.5)
        team.tell("second")
        return None

    assert on_machines(2, work, patience=0.5)[1] == ["first", "second"]


def test_a_machine_that_says_nothing_is_lost_after_the_patience() -> None:
    over = threading.Event()

    def leader(team: Team) -> None:
        begun = time.monotonic()
        with pytest.raises(MachineLost, match=r"no word from another machine for 0\.3 s") as lost:
            team.gather(mx.zeros(1), "values")
        assert not isinstance(lost.value, ConnectionLost)  # nobody goes on alone beside a machine that may come back
        assert 0.3 <= time.monotonic() - begun < 5
        assert not team.is_there
        over.set()

    found = outcomes(2, [leader, lambda team: over.wait(30)], patience=0.3)
    assert not isinstance(found[0], BaseException), found[0]


def test_on_silence_the_leader_decides_though_it_has_begun_to_wait_later() -> None:
    over = threading.Event()

    def leader(team: Team) -> None:
        time.sleep(0.3)
        with pytest.raises(MachineLost, match=r"no word from another machine for 3 s") as lost:
            team.gather(mx.zeros(1), "values")
        assert not isinstance(lost.value, ConnectionLost)
        over.set()

    found = outcomes(
        3, [leader, lambda team: team.gather(mx.zeros(1), "values"), lambda team: over.wait(30)], patience=3
    )
    assert not isinstance(found[0], BaseException), found[0]
    assert isinstance(found[1], ConnectionLost)


def test_a_machine_that_leaves_is_noticed_and_never_asked_again() -> None:
    def leader(team: Team) -> Any:
        errors = []
        for _ in range(2):
            with pytest.raises(ConnectionLost) as lost:
                team.gather(mx.zeros(1), "values")
            errors.append(str(lost.value))
        return errors, team.is_there

    found = outcomes(2, [leader, lambda team: team.abandon()], patience=30)
    errors, is_there = found[0]
    assert errors[0] == errors[1]
    assert "the connection to another machine is lost" in errors[0]
    assert not is_there


def test_an_error_on_one_machine_ends_the_waiting_of_the_others() -> None:
    def fails(team: Team) -> None:
        raise ValueError("of machine 1")

    found = outcomes(3, [lambda team: team.gather(mx.zeros(1), "x"), fails, lambda team: list(team.messages())])
    assert isinstance(found[0], ConnectionLost)
    assert isinstance(found[1], ValueError)
    assert isinstance(found[2], ConnectionLost)


def test_a_kernel_that_fails_is_no_lost_connection() -> None:
    def work(team: Team) -> Any:
        return team.gather(_ext.failing_kernel(mx.zeros(1)), "values")

    first, second = outcomes(2, [work, work])
    for error in (first, second):
        assert isinstance(error, RuntimeError)


def test_a_parted_team_asks_nobody() -> None:
    def work(team: Team) -> None:
        if not team.leads:
            assert list(team.messages()) == []
            return
        team.close()
        assert not team.is_there
        with pytest.raises(ConnectionLost, match="parted"):
            team.tell("anything")

    on_machines(2, work)


@pytest.mark.parametrize("patience", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_patience_that_is_no_time_is_refused(patience: Any) -> None:
    with pytest.raises(UsageError, match="patience"):
        Team.connect(patience)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="split must be one of auto, passes, tokens, both, got 'blocks'"):
        Rules("blocks")  # type: ignore[arg-type]


@pytest.mark.parametrize("shares", [(2, 0), (1, -1), (1, float("nan")), (1, float("inf")), (True, 1), "2,1", 2, ("a",)])
def test_shares_that_are_no_speeds_are_refused(shares: Any) -> None:
    with pytest.raises(UsageError, match="shares must be one positive number for each machine, got "):
        Rules(shares=shares)


def test_a_share_for_each_machine_or_none() -> None:
    assert Rules().shares_of(3) == (1, 1, 1)
    assert Rules(shares=[2, 1]).shares_of(2) == (2, 1)
    with pytest.raises(UsageError, match="shares has 2 numbers, but there are 3 machines"):
        Rules(shares=(2, 1)).shares_of(3)
    with pytest.raises(UsageError, match="shares has 2 numbers, but this is one machine alone"):
        ltx2rt.team(shares=(2, 1))


GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "two of two": ((0, 2), (1, 3)),
    "of three and one": ((0, 1, 3), (2,)),
    "all": ((0, 1, 2, 3),),
    "apart": ((0,), (1,), (2,), (3,)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_machines_of_a_group_gather_among_themselves(name: str) -> None:
    def work(team: Team) -> Any:
        shares = (4.0, 3.0, 2.0, 1.0)
        circles = [circle_of(team, GROUPS[name], shares) for _ in range(2)]  # the same group in the next stage
        own = next(members for members in GROUPS[name] if team.rank in members)
        if len(own) == 1:
            assert circles == [None, None]
        for circle in filter(None, circles):
            assert (circle.rank, list(circle.shares)) == (own.index(team.rank), [shares[member] for member in own])
            found = to_numpy(circle.finish(circle.start(mx.array([team.rank]), "keys")))
            assert found.ravel().tolist() == list(own)
            ones = mx.array([team.rank == own[0]], mx.uint8)
            assert to_numpy(circle.finish(circle.start_sum(ones, "sums"))).tolist() == [1]
        assert to_numpy(team.gather(mx.array([team.rank]), "all")).ravel().tolist() == [0, 1, 2, 3]
        return team.traffic.received["keys"]

    sizes = [next(len(members) for members in GROUPS[name] if rank in members) for rank in range(4)]
    assert on_machines(4, work) == [2 * 4 * (size - 1) for size in sizes]


@pytest.mark.parametrize("leaves", range(4))
def test_one_that_leaves_its_group_is_noticed_by_all(leaves: int) -> None:
    def work(team: Team) -> None:
        circle = circle_of(team, ((0, 2), (1, 3)), (1.0,) * 4)
        assert circle is not None
        if team.rank == leaves:
            team.abandon()
            return

        def evaluations() -> None:
            for _ in range(2):
                circle.finish(circle.start(mx.zeros(1), "keys"))
                team.gather(mx.zeros(1), "estimates")

        with pytest.raises(ConnectionLost):
            evaluations()
        assert not team.is_there

    for found in outcomes(4, [work] * 4, patience=30):
        assert not isinstance(found, BaseException) or isinstance(found, ConnectionLost), found


def test_machines_that_reach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> set[bool]:
        return set(on_machines(3, all_reach_all))

    monkeypatch.setattr(ThreadGroup, "addresses", ("127.0.0.1", "localhost"))
    assert answers() == {True}
    connect = socket.create_connection

    def without_a_cable(place: tuple[str, int], timeout: float) -> socket.socket:
        if threading.current_thread() is cut_off[0]:
            raise OSError("no route")
        return connect(place, timeout)

    def work(team: Team) -> bool:
        if team.rank == 1:
            cut_off.append(threading.current_thread())
        return all_reach_all(team)

    cut_off: list[threading.Thread] = []
    monkeypatch.setattr(socket, "create_connection", without_a_cable)
    assert set(on_machines(3, work)) == {False}
    monkeypatch.setattr(socket, "create_connection", connect)
    for addresses in (("192.0.2.1",), None):  # another machine's; not a ring
        monkeypatch.setattr(ThreadGroup, "addresses", addresses)
        assert answers() == {False}


def test_ctrl_c_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting thread is an ordinary one for Python: whatever a signal handler raises comes out of it."""
    team = Team(ThreadGroup(Table(2), 0), 60.0)

    def interrupted(timeout: float) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        with team:
            started = team.start(mx.zeros(1), "values")
            monkeypatch.setattr(started.result, "result", interrupted)
            team.finish(started)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not team.is_there

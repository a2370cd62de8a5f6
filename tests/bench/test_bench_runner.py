"""The runner: shares of slow rivals, ratios, rounds, and what a row says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from ltx2rt.bench import runner
from ltx2rt.bench.case import MLX, OURS, REFERENCE, STREAMED, TORCH, Call, Prepared, Way, Work
from ltx2rt.bench.machine import Ceilings, Machine
from ltx2rt.bench.runner import Row, run_case


@dataclass
class Scripted:
    """A case whose calls return what they are told and count themselves."""

    ways: dict[str, Way]
    name: str = "scripted/f32/1"
    work: Work = field(default_factory=lambda: Work(1e9, 1e6, "float32"))

    def reduced(self) -> Scripted:
        return self

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        return Prepared(self.work, {n: w for n, w in self.ways.items() if n == OURS or n in wanted})


class Rates:
    """Foreseen operations per second, the same for all rivals."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def rate(self, rival: str, arithmetic: str) -> float:
        return self._rate


def counting(calls: list[float], share: float) -> Call:
    def call() -> np.ndarray:
        calls.append(share)
        return np.ones(2, dtype=np.float32)

    return call


def scripted(calls: dict[str, list[float]], rivals: dict[str, Sequence[float]]) -> Scripted:
    def way(name: str, shares: Sequence[float]) -> Way:
        return Way(lambda share: counting(calls[name], share), shares, "parts")

    return Scripted({OURS: way(OURS, (1.0, 0.5, 0.25)), **{n: way(n, shares) for n, shares in rivals.items()}})


@pytest.fixture(autouse=True)
def one_call_a_turn_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "to_numpy", np.asarray)
    monkeypatch.setattr(runner, "TURN_SECONDS", 0.0)


def test_a_quick_rival_does_the_whole_work_in_every_round(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], MLX: []}
    row = run_case(scripted(calls, {MLX: (1.0, 0.5)}), machine, Rates(1e12), (MLX,), 3)  # type: ignore[arg-type]
    assert calls == {OURS: [1.0] * 4, MLX: [1.0] * 4}  # once before the clock starts
    assert len(row.seconds) == len(row.percent) == 3
    assert row.notes == []
    assert row.error == 0.0
    assert row.error_of == MLX


def test_a_turn_is_as_many_calls_as_take_its_time_and_gives_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runner, "TURN_SECONDS", 1.0)

    def calls_of(seconds: Sequence[float]) -> tuple[float, int]:
        durations = list(seconds)
        mean = runner.call_seconds(lambda: clock.__setitem__(0, clock[0] + durations.pop(0)))
        return mean, len(seconds) - len(durations)

    assert calls_of([0.25, 0.75, 9.0]) == (0.5, 2)
    assert calls_of([3.0, 9.0]) == (3.0, 1)


def test_a_slow_rival_does_a_share_which_the_row_states_and_scales(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], REFERENCE: []}
    # 1e9 operations at 2e8 per second: 5 s, so a quarter fits into the 2 s of a share.
    case = scripted(calls, {REFERENCE: (1.0, 0.5, 0.25)})
    row = run_case(case, machine, Rates(2e8), (REFERENCE,), 1)  # type: ignore[arg-type]
    assert set(calls[REFERENCE]) == {0.25}
    assert calls[OURS] == [1.0, 0.25, 1.0]  # the middle one is compared with the reference's share
    assert row.notes == ["reference on 1/4 of the parts, scaled"]


def test_a_rival_that_cannot_be_shared_is_left_out_when_it_would_take_minutes(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], TORCH: []}
    row = run_case(scripted(calls, {TORCH: (1.0,)}), machine, Rates(5e6), (TORCH,), 1)  # type: ignore[arg-type]
    assert calls[TORCH] == []
    assert row.notes == ["torch not run: about 200 s per call"]
    assert row.ratio(TORCH) is None
    assert row.as_dict()["ratio_torch"] is None


def test_a_rival_that_was_not_asked_for_is_not_run(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], TORCH: []}
    run_case(scripted(calls, {TORCH: (1.0,)}), machine, Rates(1e12), (MLX,), 1)  # type: ignore[arg-type]
    assert calls[TORCH] == []


def test_ratios_are_medians_of_rounds_and_above_one_when_ours_is_faster() -> None:
    row = Row("r", Work(2e9, 1e6, "float32"), "arithmetic", seconds=[1.0, 2.0, 4.0], percent=[10.0, 30.0, 20.0])
    row.rivals["torch"] = [3.0, 4.0, None]
    row.rivals["mlx"] = [0.5, 1.0, 2.0]
    values = row.as_dict()
    assert (values["ratio_torch"], values["ratio_mlx"], values["ratio_torch_dense"]) == (2.5, 0.5, None)
    assert (values["seconds"], values["fastest_seconds"], values["spread"]) == (2.0, 1.0, 1.5)
    assert (values["gflops"], values["percent_of_ceiling"], values["best_percent_of_ceiling"]) == (1.0, 20.0, 30.0)


def test_relative_error() -> None:
    assert runner.relative_error(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.0
    assert runner.relative_error(np.array([[3.0]]), np.array([2.0])) == pytest.approx(0.5)
    assert runner.relative_error(np.zeros(3), np.ones(4)) == float("inf")


def test_the_ceiling_is_the_tighter_bound() -> None:
    ceilings = Ceilings(float32=1e9, bfloat16=4e9, read=1e8)
    assert ceilings.least_seconds(Work(2e9, 1e8, "float32")) == 2.0
    assert ceilings.bound(Work(2e9, 1e8, "float32")) == "arithmetic"
    assert ceilings.least_seconds(Work(2e9, 1e8, "bfloat16")) == 1.0
    assert ceilings.bound(Work(2e9, 1e8, "bfloat16")) == "read"
    with_tiles = Ceilings(1e9, 4e9, 1e8, tiles=4e10)
    assert with_tiles.least_seconds(Work(8e10, 1e8, "bfloat16", tiles=True)) == 2.0
    assert with_tiles.least_seconds(Work(8e10, 1e8, "bfloat16")) == 20.0
    assert with_tiles.least_seconds(Work(8e9, 1e8, "float32", tiles=True)) == 8.0
    assert ceilings.at_least(Ceilings(2e9, 1e9, 5e7, 7e9)) == Ceilings(2e9, 4e9, 1e8, 7e9)


def test_a_limited_time_is_shared_by_the_cases_that_are_left(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runner, "Machine", lambda: machine)
    seen: list[float] = []

    def run_case(case: Scripted, *arguments: object, limits: runner.Limits, **more: object) -> Row:
        seen.append(limits.case)
        clock[0] += 50.0
        return Row(case.name, case.work, "read", [1.0], [1.0])

    monkeypatch.setattr(runner, "run_case", run_case)
    positions: list[runner.Position] = []
    cases = [Scripted({}, f"case/{number}/1") for number in range(6)]
    _, rows = runner.run(cases, (), 5, lambda row: None, begins=positions.append, seconds=120.0)  # type: ignore[arg-type]
    assert [row.name for row in rows] == ["case/0/1", "case/1/1", "case/2/1"]  # 120 s are over before the fourth
    assert seen == [pytest.approx(120 / 6 / 3), pytest.approx(70 / 5 / 3), pytest.approx(20 / 4 / 3)]
    assert [(p.number, p.count, p.name, p.seconds_left) for p in positions] == [
        (1, 6, "case/0/1", 120.0),
        (2, 6, "case/1/1", 70.0),
        (3, 6, "case/2/1", 20.0),
    ]


def test_without_a_limit_the_time_left_is_foreseen_from_the_pace(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runner, "Machine", lambda: machine)

    def run_case(case: Scripted, *arguments: object, **more: object) -> Row:
        assert more["limits"] == runner.Limits()
        clock[0] += 7.0
        return Row(case.name, case.work, "read", [1.0], [1.0])

    monkeypatch.setattr(runner, "run_case", run_case)
    left: list[float | None] = []
    runner.run([Scripted({})] * 3, (), 5, lambda row: None, begins=lambda p: left.append(p.seconds_left))  # type: ignore[arg-type]
    assert left == [None, 14.0, 7.0]


def test_a_case_with_little_time_makes_one_round_and_leaves_slow_rivals_out(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], REFERENCE: [], MLX: []}
    case = scripted(calls, {REFERENCE: (1.0, 0.5, 0.25), MLX: (1.0,)})
    limits = runner.Limits.within(0.0001)
    row = run_case(case, machine, Rates(1e8), (REFERENCE, MLX), 5, limits=limits)  # type: ignore[arg-type]
    assert len(row.seconds) == 1
    assert set(calls[REFERENCE]) == {0.25}  # its smallest share
    assert calls[MLX] == []
    assert "mlx not run: about 10 s per call" in row.notes
    assert "1 of 5 rounds, for time" in row.notes


def test_with_little_time_a_share_is_timed_before_a_larger_one_is_begun(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[float]] = {OURS: [], REFERENCE: []}
    case = scripted(calls, {REFERENCE: (1.0, 0.5, 0.25)})
    # Foreseen: 1e9 operations in a millisecond. Measured: a quarter takes 0.3 s, so a half does not fit into 0.5 s.
    monkeypatch.setattr(runner, "timed", lambda call: (0.3, call()))
    row = run_case(case, machine, Rates(1e12), (REFERENCE,), 1, limits=runner.Limits.within(5.0))  # type: ignore[arg-type]
    assert set(calls[REFERENCE]) == {0.25}
    assert row.notes == ["reference on 1/4 of the parts, scaled"]


def test_ways_that_take_turns_within_a_call_are_not_timed_again(machine: Machine) -> None:
    calls: dict[str, list[float]] = {OURS: [], STREAMED: [], MLX: []}
    case = scripted(calls, {STREAMED: (1.0,), MLX: (1.0,)})
    rounds: list[int] = []

    def together() -> dict[str, float]:
        rounds.append(len(rounds) + 1)
        return {OURS: float(rounds[-1]), STREAMED: 2.0 * rounds[-1]}

    case.prepare = lambda wanted: Prepared(case.work, case.ways, together=together)  # type: ignore[method-assign]  # of this case
    row = run_case(case, machine, Rates(1e12), (MLX,), 3)  # type: ignore[arg-type]  # a stand-in
    assert row.seconds == [1.0, 2.0, 3.0]
    assert row.rivals[STREAMED] == [2.0, 4.0, 6.0]
    assert row.as_dict()["ratio_streamed"] == 0.5
    assert calls == {OURS: [1.0], STREAMED: [1.0], MLX: [1.0] * 4}  # once before the clock starts


def test_a_turn_may_begin_with_a_call_that_does_not_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: clock[0])
    taken = iter([100.0, 100.0, 3.0, 100.0, 5.0])

    def call() -> np.ndarray:
        clock[0] += next(taken)
        return np.ones(2, dtype=np.float32)

    case = Scripted({OURS: Way(lambda share: call, follows_itself=True)})
    row = run_case(case, machine, Rates(1e12), (), 2)  # type: ignore[arg-type]  # a stand-in
    assert row.seconds == [3.0, 5.0]

"""Times a case: all ways in turn, round after round, our own between two calibrations of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import ARITHMETIC, MLX, OURS, REFERENCE, TORCH_DENSE, Arithmetic, Call, Case, Way, Work
from ltx2rt.bench.machine import Ceilings, Machine
from ltx2rt.bench.torch_arrays import to_numpy, torch_module

# A rival that would take longer per call is timed on a share of the work, or left out if it cannot be shared.
PART_SECONDS = 2.0
STAGE_SECONDS = 90.0
# A case ends after the round in which it has taken this long, but not before its second round.
CASE_SECONDS = 60.0
# A turn makes calls until it has taken this long: one call of a millisecond tells more of the wake-up of threads.
TURN_SECONDS = 0.02


@dataclass
class Row:
    """The result of one case.

    Attributes:
        seconds: of our call in each round.
        percent: share of the ceiling in each round, against the higher of the calibrations before and after.
        rivals: seconds of each rival for the whole work (scaled up from its share) in each round, None where it sat
            the round out.
        error: of our result against the rival `error_of`, root mean square relative to the size of the values.
        notes: what was not measured, or not as a whole.
    """

    name: str
    work: Work
    bound: str
    seconds: list[float] = field(default_factory=list)
    percent: list[float] = field(default_factory=list)
    rivals: dict[str, list[float | None]] = field(default_factory=dict)
    error: float | None = None
    error_of: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def ratio(self, rival: str) -> float | None:
        """How many times longer the rival takes: median of the rounds in which both ran."""
        pairs = [
            theirs / ours for ours, theirs in zip(self.seconds, self.rivals.get(rival, []), strict=False) if theirs
        ]
        return statistics.median(pairs) if pairs else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": self.median,
            "fastest_seconds": min(self.seconds),
            "spread": round(self.spread, 3),
            "rounds": len(self.seconds),
            "gflops": round(self.work.operations / self.median / 1e9, 2),
            "gbytes_per_s": round(self.work.bytes / self.median / 1e9, 2),
            "bound": self.bound,
            "percent_of_ceiling": round(statistics.median(self.percent), 1),
            "best_percent_of_ceiling": round(max(self.percent), 1),
            **{f"ratio_{name}": _rounded(self.ratio(name)) for name in ("torch", "torch_dense", "mlx", "reference")},
            "relative_error": self.error,
            "error_against": self.error_of,
            "notes": self.notes,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


class RivalRates:
    """How fast the rivals are on this machine, from one small product each, to foresee who would take minutes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], float] = {}

    def rate(self, rival: str, arithmetic: Arithmetic) -> float:
        """Operations per second of a small matrix product."""
        library = "torch" if rival.startswith("torch") else "mlx"
        dtype = "float32" if rival == REFERENCE else arithmetic
        if (library, dtype) not in self._known:
            rows, width = (64, 1024) if library == "torch" else (16, 512)
            call = self._torch(dtype, rows, width) if library == "torch" else self._mlx(dtype, rows, width)
            call()
            self._known[library, dtype] = 2 * rows * width * width / min(timed(call)[0] for _ in range(2))
        return self._known[library, dtype]

    def _mlx(self, dtype: str, rows: int, width: int) -> Call:
        x, w = (mx.ones((n, width), dtype=getattr(mx, dtype)) for n in (rows, width))
        mx.eval(x, w)
        return lambda: mx.eval(x @ w.T)

    def _torch(self, dtype: str, rows: int, width: int) -> Call:
        torch = torch_module()
        x, w = (torch.ones((n, width), dtype=getattr(torch, dtype)) for n in (rows, width))
        return lambda: torch.nn.functional.linear(x, w)


def timed(call: Call) -> tuple[float, Any]:
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


def call_seconds(call: Call) -> float:
    """Seconds of one call, the mean over a turn."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < TURN_SECONDS or count == 0:
        call()
        count += 1
    return elapsed / count


def run_case(case: Case, machine: Machine, rates: RivalRates, wanted: Sequence[str], rounds: int) -> Row:
    """Time one case.

    Every way is run once before the clock starts. In a round each way has one turn, ours first. A rival sits out after
    two rounds if its call takes more than a second, or more than a quarter and ten times as long as ours: what it
    leaves behind, freed memory above all, disturbs the turns after it.
    """
    prepared = case.prepare(wanted)
    work, ways = prepared.work, prepared.ways
    row = Row(case.name, work, "")
    calls = {OURS: (ways[OURS].make(1.0), 1.0)}
    for name, way in ways.items():
        if name != OURS:
            share = _share(name, way, work, rates, row.notes)
            if share is not None:
                calls[name] = (way.make(share), share)
    first = {name: timed(call) for name, (call, _) in calls.items()}
    _compare(row, ways, calls, {name: out for name, (_, out) in first.items()})
    slow = {name for name, (seconds, _) in first.items() if seconds > 1.0 or seconds > max(0.25, 10 * first[OURS][0])}
    del first
    started = time.perf_counter()
    ceilings: list[Ceilings] = []
    for number in range(rounds):
        if number >= 2 and time.perf_counter() - started > CASE_SECONDS:
            row.notes.append(f"{number} of {rounds} rounds, for time")
            break
        for name, (call, share) in calls.items():
            if name in slow and name != OURS and number >= 2:
                row.rivals[name].append(None)
                continue
            before = machine.calibrate()
            seconds = call_seconds(call)
            if name == OURS:
                ceilings.append(before.at_least(machine.calibrate()))
                row.seconds.append(seconds)
                row.percent.append(100 * ceilings[-1].least_seconds(work) / seconds)
            else:
                row.rivals.setdefault(name, []).append(seconds / share)
    row.bound = ceilings[-1].bound(work)
    return row


def _share(name: str, way: Way, work: Work, rates: RivalRates, notes: list[str]) -> float | None:
    """The share of the work that a rival can do in time; None: it is left out. Says so in the notes."""
    arithmetic = ARITHMETIC["bf16"] if name == TORCH_DENSE else work.arithmetic
    expected = work.operations / rates.rate(name, arithmetic)
    limit = STAGE_SECONDS if len(way.shares) == 1 else PART_SECONDS
    share = next((s for s in way.shares if expected * s <= limit), way.shares[-1])
    if len(way.shares) == 1 and expected > limit:
        notes.append(f"{name} not run: about {expected:.0f} s per call")
        return None
    if share < 1:
        notes.append(f"{name} on 1/{round(1 / share)} of the {way.part}, scaled")
    return share


def _compare(row: Row, ways: dict[str, Way], calls: dict[str, tuple[Call, float]], outputs: dict[str, Any]) -> None:
    """Our result beside the reference's, or else another rival's, on the rival's share of the work."""
    for rival in (REFERENCE, "torch", MLX):
        if rival not in outputs or (rival != REFERENCE and REFERENCE in ways):
            continue
        share = calls[rival][1]
        ours = outputs[OURS] if share == 1 else ways[OURS].make(share)()
        row.error, row.error_of = relative_error(to_numpy(ours), to_numpy(outputs[rival])), rival
        return


def relative_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference relative to that of the expected values; infinite for other shapes."""
    if actual.size != expected.size:
        return float("inf")
    difference = actual.reshape(-1).astype(np.float64) - expected.reshape(-1)
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(difference)))) / max(size, 1e-30)


def run(
    cases: Sequence[Case], wanted: Sequence[str], rounds: int, finished: Callable[[Row], None]
) -> tuple[Machine, list[Row]]:
    """Time the cases one after the other; ``finished`` is told of each row."""
    machine, rates, rows = Machine(), RivalRates(), []
    for case in cases:
        rows.append(run_case(case, machine, rates, wanted, rounds))
        finished(rows[-1])
        mx.clear_cache()
    return machine, rows

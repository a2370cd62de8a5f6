"""Times a case: all ways in turn, round after round, our own between two calibrations of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import (
    ARITHMETIC,
    BEFORE,
    BF16,
    GGML,
    MLX,
    OURS,
    OURS_BF16,
    OURS_E4M3,
    REFERENCE,
    RIVALS,
    TORCH,
    TORCH_DENSE,
    Arithmetic,
    Call,
    Case,
    Way,
    Work,
)
from ltx2rt.bench.machine import Ceilings, Machine
from ltx2rt.bench.rivals import Rivals
from ltx2rt.kernels import host

# A rival that would take longer per call is timed on a share of the work, or left out if it cannot be shared.
PART_SECONDS = 2.0
STAGE_SECONDS = 90.0
# A case ends after the round in which it has taken this long, but not before its second round.
CASE_SECONDS = 60.0
# Of a case's part of a limited time: a rival is called at least three times, and preparing the inputs takes time too.
_LEAST_CALLS = 10
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
        fields: what only cases of this kind say.
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
    fields: dict[str, Any] = field(default_factory=dict)

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

    def share(self, before: str) -> float:
        """The time as a share of that of the way that the case improves on: median of the rounds."""
        pairs = zip(self.seconds, self.rivals[before], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs if theirs)

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
            **{f"ratio_{name}": _rounded(self.ratio(name)) for name in (*RIVALS, OURS_BF16, OURS_E4M3)},
            **{f"ratio_{name}": _rounded(self.share(name)) for name in BEFORE if name in self.rivals},
            **{f"ratio_{name}": _rounded(self.ratio(name)) for name in (BF16,) if name in self.rivals},
            **self.fields,
            "relative_error": self.error,
            "error_against": self.error_of,
            "notes": self.notes,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


class RivalRates:
    """How fast the rivals are on this machine, from one small product each, to foresee who would take minutes."""

    def __init__(self, rivals: Rivals | None = None) -> None:
        self._rivals = rivals
        self._known: dict[tuple[str, str], float] = {}

    def rate(self, rival: str, arithmetic: Arithmetic) -> float:
        """Operations per second of a small matrix product."""
        library = rival if rival == GGML else "torch" if rival.startswith("torch") else "mlx"
        dtype = "float32" if rival == REFERENCE else arithmetic
        if (library, dtype) not in self._known:
            rows, width = (16, 512) if library == "mlx" else (64, 1024)
            call = self._product(library, dtype, rows, width)
            call()
            self._known[library, dtype] = 2 * rows * width * width / min(timed(call)[0] for _ in range(2))
        return self._known[library, dtype]

    def _product(self, library: str, dtype: str, rows: int, width: int) -> Call:
        if library != "mlx":
            assert self._rivals is not None, f"{library} is not loaded"
            return self._rivals.product(dtype, rows, width)
        x, w = (mx.ones((n, width), dtype=getattr(mx, dtype)) for n in (rows, width))
        mx.eval(x, w)
        return lambda: mx.eval(x @ w.T)


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


@dataclass(frozen=True)
class Limits:
    """How long one case may take.

    Attributes:
        part: seconds per call of a rival that can be timed on a share of the work.
        whole: seconds per call of one that cannot.
        case: after the round that passes this, no other begins ...
        rounds: ... but not before so many.
        tried: a rival's smallest share is timed before a larger one is begun, because what one small product foretells
            may be wrong by a factor of ten.
    """

    part: float = PART_SECONDS
    whole: float = STAGE_SECONDS
    case: float = CASE_SECONDS
    rounds: int = 2
    tried: bool = False

    @classmethod
    def within(cls, seconds: float) -> Limits:
        """For a case that has about ``seconds``."""
        call = seconds / _LEAST_CALLS
        return cls(min(PART_SECONDS, call), min(STAGE_SECONDS, 2 * call), min(CASE_SECONDS, seconds / 3), 1, True)


@dataclass(frozen=True)
class Position:
    """Where a run stands when a case begins.

    Attributes:
        number, count: the case is the ``number``th of ``count``, from 1.
        seconds_left: until the end, at the pace so far; None before the first case is done.
    """

    number: int
    count: int
    name: str
    seconds_left: float | None


def run_case(
    case: Case,
    machine: Machine,
    rates: RivalRates,
    wanted: Sequence[str],
    rounds: int,
    *,
    rivals: Rivals | None = None,
    limits: Limits = Limits(),  # immutable
) -> Row:
    """Time one case.

    Every way is run once before the clock starts. In a round each way has one turn, ours first. A rival sits out after
    two rounds if its call takes more than a second, or more than a quarter and ten times as long as ours: what it
    leaves behind, freed memory above all, disturbs the turns after it.
    """
    prepared = case.prepare(wanted)
    work, ways = prepared.work, dict(prepared.ways)
    if rivals is not None:
        ways |= rivals.ways(case, prepared.inputs, wanted)
    row = Row(case.name, work, "")
    calls = {OURS: (ways[OURS].make(1.0), 1.0)}
    for name, way in ways.items():
        if name != OURS:
            own = name in (OURS_BF16, OURS_E4M3, BF16, *BEFORE)
            share = 1.0 if own else _share(name, way, work, rates, limits, row.notes)
            if share is not None:
                calls[name] = (way.make(share), share)
    first = {name: timed(call) for name, (call, _) in calls.items()}
    _compare(row, ways, calls, rivals, {name: out for name, (_, out) in first.items()})
    for name in BEFORE:
        if name in first:
            row.fields["same_bits"] = bool(host.to_numpy(mx.array_equal(first[OURS][1], first[name][1])))
    slow = {
        name
        for name, (seconds, _) in first.items()
        if name not in BEFORE and (seconds > 1.0 or seconds > max(0.25, 10 * first[OURS][0]))
    }
    del first
    started = time.perf_counter()
    ceilings: list[Ceilings] = []
    for number in range(rounds):
        if number >= limits.rounds and time.perf_counter() - started > limits.case:
            row.notes.append(f"{number} of {rounds} rounds, for time")
            break
        together: Mapping[str, float] = {}
        for name, (call, share) in calls.items():
            if name in slow and name != OURS and number >= 2:
                row.rivals[name].append(None)
                continue
            before = machine.calibrate()
            if name == OURS and prepared.together is not None:
                together = prepared.together()
            if name in together:
                seconds = together[name]
            else:
                if ways[name].follows_itself:
                    call()
                seconds = call_seconds(call)
            if name == OURS:
                ceilings.append(before.at_least(machine.calibrate()))
                row.seconds.append(seconds)
                row.percent.append(100 * ceilings[-1].least_seconds(work) / seconds)
            else:
                row.rivals.setdefault(name, []).append(seconds / share)
    row.bound = ceilings[-1].bound(work)
    row.fields |= prepared.fields()
    prepared.clean()
    return row


def _share(name: str, way: Way, work: Work, rates: RivalRates, limits: Limits, notes: list[str]) -> float | None:
    """The share of the work that a rival can do in time; None: it is left out. Says so in the notes."""
    arithmetic = ARITHMETIC["bf16"] if name == TORCH_DENSE else work.arithmetic
    expected = work.operations / rates.rate(name, arithmetic)
    limit = limits.whole if len(way.shares) == 1 else limits.part
    smallest = way.shares[-1]
    share = next((s for s in way.shares if expected * s <= limit), smallest)
    if limits.tried and share > smallest:
        whole = timed(way.make(smallest))[0] / smallest
        share = next((s for s in way.shares if s <= share and whole * s <= limit), smallest)
    if len(way.shares) == 1 and expected > limit:
        notes.append(f"{name} not run: about {expected:.0f} s per call")
        return None
    if share < 1:
        notes.append(f"{name} on 1/{round(1 / share)} of the {way.part}, scaled")
    return share


def _compare(
    row: Row,
    ways: dict[str, Way],
    calls: dict[str, tuple[Call, float]],
    rivals: Rivals | None,
    outputs: dict[str, Any],
) -> None:
    """Our result beside the reference's, or else another rival's, on the rival's share of the work."""
    for rival in (REFERENCE, TORCH, MLX):
        if rival not in outputs or (rival != REFERENCE and REFERENCE in ways):
            continue
        share = calls[rival][1]
        ours = outputs[OURS] if share == 1 else ways[OURS].make(share)()
        theirs = outputs[rival]
        expected = rivals.to_numpy(theirs) if rival == TORCH and rivals is not None else to_numpy(theirs)
        row.error, row.error_of = relative_error(to_numpy(ours), expected), rival
        return


def to_numpy(result: mx.array) -> np.ndarray[Any, Any]:
    """Float32 values."""
    return host.to_numpy(result.astype(mx.float32))


def relative_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference relative to that of the expected values; infinite for other shapes."""
    if actual.size != expected.size:
        return float("inf")
    difference = actual.reshape(-1).astype(np.float64) - expected.reshape(-1)
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(difference)))) / max(size, 1e-30)


def run(
    cases: Sequence[Case],
    wanted: Sequence[str],
    rounds: int,
    finished: Callable[[Row], None],
    *,
    begins: Callable[[Position], None] = lambda position: None,
    rivals: Rivals | None = None,
    seconds: float | None = None,
) -> tuple[Machine, list[Row]]:
    """Time the cases one after the other.

    Args:
        finished, begins: told of each row, and of each case before it.
        rivals: ways of other libraries.
        seconds: for all cases; each gets an equal part of what is left, and those that time has run out for have no
            row. The last one that ran may pass it by what its first calls take.
    """
    machine, rates, rows = Machine(), RivalRates(rivals), []
    started = time.perf_counter()
    for number, case in enumerate(cases):
        elapsed, coming = time.perf_counter() - started, len(cases) - number
        left = elapsed / number * coming if number else None
        limits = Limits()
        if seconds is not None:
            rest = seconds - elapsed
            if rest <= 0:
                break
            left = rest if left is None else min(left, rest)
            limits = Limits.within(rest / coming)
        begins(Position(number + 1, len(cases), case.name, left))
        rows.append(run_case(case, machine, rates, wanted, rounds, rivals=rivals, limits=limits))
        finished(rows[-1])
        mx.clear_cache()
    return machine, rows

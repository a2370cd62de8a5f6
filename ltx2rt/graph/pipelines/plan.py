"""The plan of a run: what every stage would take, found by going through the work without computing anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

from ltx2rt.errors import MemoryBudgetError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.windows import Window
from ltx2rt.graph.stages.clip_team import Budget, Machines
from ltx2rt.graph.stages.denoise.leading import in_step_of
from ltx2rt.graph.stages.denoise.needs import denoise_options
from ltx2rt.graph.stages.handover import StageHandover, planned_handover
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.keeping import Keeping
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.weights.kept_weights import KeptWeights, WeightKey


@dataclass(frozen=True)
class Rates:
    """How fast this machine is.

    Attributes:
        flops: floating point operations per second that whole stages reach.
        read: bytes per second from disk.
    """

    flops: float
    read: float

    def seconds(self, need: Need) -> float:
        """Of a stage: its weights are read first; streamed ones while it computes."""
        computing, reading = need.flops / self.flops, need.streamed / self.read
        ahead = need.settings.get("depth", 2) != 1
        return (need.weights - need.present) / self.read + (max(computing, reading) if ahead else computing + reading)


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    Attributes:
        need: what the stage declares.
        peak_bytes: of the process while it runs.
        seconds: predicted.
    """

    need: Need
    peak_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.need.name,
            "window": self.need.window,
            "steps": self.need.steps,
            "resident_bytes": self.need.resident,
            "streamed_bytes": self.need.streamed,
            "streamed_bytes_per_step": self.need.streamed_per_step,
            "peak_bytes": self.peak_bytes,
            "flops": self.need.flops,
            "received_bytes": self.need.received,
            "exchanges": self.need.exchanges,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class StageGroup:
    """Stages of some windows, each of which takes the same.

    Attributes:
        windows: counted from 1; empty: stages of the whole clip.
        stages: of the first one.
        alike: the same, without the number of the window.
    """

    windows: range
    stages: tuple[StagePlan, ...]
    alike: tuple[StagePlan, ...]


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        stages: in the order they run.
        base_bytes: what the process takes without any stage.
        budget: what was allowed; None: no limit.
        kept: weights that stay in memory after their stages, with their bytes; empty: each stage frees its own, but for
            what a later one needs again.
        handover: what that is, stage by stage.
        windows: in which the clip is made; one where it is made at once.
    """

    stages: tuple[StagePlan, ...]
    base_bytes: int
    budget: int | None
    kept: Mapping[WeightKey, int] = field(default_factory=dict)
    handover: tuple[StageHandover, ...] = ()
    windows: tuple[Window, ...] = ()

    @property
    def groups(self) -> list[StageGroup]:
        """The stages by windows; windows that follow each other and take the same stand together."""
        groups: list[StageGroup] = []
        for window, found in groupby(self.stages, key=lambda stage: stage.need.window):
            stages = tuple(found)
            alike = tuple(replace(stage, need=replace(stage.need, window=0)) for stage in stages)
            before = groups[-1] if groups else None
            if before is not None and before.windows and before.alike == alike:
                groups[-1] = replace(before, windows=range(before.windows.start, window + 1))
            else:
                groups.append(StageGroup(range(window, window + 1) if window else range(0), stages, alike))
        return groups

    @property
    def steps(self) -> int:
        """Sampler steps of the whole run."""
        return sum(stage.need.steps for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Of the whole run: that of its largest stage."""
        return max((stage.peak_bytes for stage in self.stages), default=self.base_bytes)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        windows = [
            {"start": window.start, "frames": window.frames, "carried": window.carry, "blended": window.blend}
            for window in self.windows
        ]
        return {
            "windows": windows,
            "stages": [stage.as_dict() for stage in self.stages],
            "steps": self.steps,
            "seconds": round(self.seconds, 3) if math.isfinite(self.seconds) else None,
            "peak_bytes": self.peak_bytes,
        }


def plan(
    work: Callable[[Run], object],
    files: WeightSet,
    inputs: GenerationInputs,
    ledger: Ledger,
    rates: Rates | None = None,
    machines: Machines | None = None,
) -> Plan:
    """Plan a run; nothing is loaded.

    Args:
        work: what will be done with a run: a pipeline's ``generate``, and what comes before it.
        files, inputs, ledger: as the run will have them. The ledger is charged with what is chosen.
        rates: speeds to predict seconds with; None: where only the memory matters.
        machines: as the run will have them.

    Raises:
        MemoryBudgetError: a stage does not fit the budget, however it is run.
        MachineLost: another machine has too little memory for its part.
        UsageError, CheckpointError: the inputs or a file cannot work.
    """
    run = _gone_through(work, files, inputs, ledger, machines=machines)
    handover = tuple(planned_handover(run.uses, _room(ledger, run.inputs.windows)))
    ledger.needs[:] = [stage.applied(need) for stage, need in zip(handover, ledger.needs, strict=True)]
    found = planned(ledger, ledger.needs, Rates(math.inf, math.inf) if rates is None else rates)
    return replace(found, handover=handover, windows=run.inputs.windows)


def _gone_through(
    work: Callable[[Run], object],
    files: WeightSet,
    inputs: GenerationInputs,
    ledger: Ledger,
    *,
    keeping: Keeping | None = None,
    machines: Machines | None = None,
) -> Run:
    """A run whose stages have said what they need, in the ledger."""
    run = Run(files, inputs, ledger=ledger, planning=True, keeping=keeping, machines=machines)
    work(run)
    return run


def plan_assistance(
    work: Callable[[Run], object],
    files: WeightSet,
    inputs: GenerationInputs,
    ledger: Ledger,
    machines: Machines,
    rates: Rates | None = None,
) -> Plan:
    """What a machine that does not lead would take: its parts of the denoising stages alone.

    Args:
        work, files, inputs, rates: as for `plan`.
        ledger: of that machine.
        machines: of which one is planned for.

    Raises:
        MachineLost: this machine or another one has too little memory for its part.
        UsageError, CheckpointError: as for `plan`.
    """
    others = tuple(budget if rank else Budget(None, 0) for rank, budget in enumerate(machines.budgets))
    leader = _gone_through(work, files, inputs, Ledger(None, 0), machines=replace(machines, rank=0, budgets=others))
    needs = [need for need in leader.ledger.needs if need.steps]
    for task, chosen in zip(leader.tasks, needs, strict=True):
        if task.part is None:
            continue
        own = replace(task, part=replace(task.part, rank=machines.rank))
        if own.guidance:
            in_step = in_step_of(chosen) if own.shares_tokens else None
            options = denoise_options(files.source(TRANSFORMER), files.config(TRANSFORMER), own, in_step)
            ledger.choose(replace(option, steps=chosen.steps, window=chosen.window) for option in options)
    found = planned(ledger, ledger.needs, Rates(math.inf, math.inf) if rates is None else rates)
    return replace(found, windows=leader.inputs.windows)


def _room(ledger: Ledger, windows: Sequence[Window]) -> Ledger:
    """Accounts for what stages leave to each other: those of the run, or of a long clip only what one window takes."""
    if len(windows) == 1:
        return ledger
    largest = max(ledger.least_budget(need) for need in ledger.needs)
    return Ledger(largest if ledger.budget is None else min(largest, ledger.budget), ledger.base)


def planned(ledger: Ledger, needs: Sequence[Need], rates: Rates) -> Plan:
    """The plan that a ledger's choices make."""
    stages = tuple(StagePlan(need, ledger.peak(need), rates.seconds(need)) for need in needs)
    return Plan(stages, ledger.base, ledger.budget)


class Unkept(NamedTuple):
    """Weights that cannot stay in memory.

    Attributes:
        weights: bytes of all of them.
        least_budget: finds the smallest budget in which they could.
    """

    weights: int
    least_budget: Callable[[], int]


def plan_keeping(
    work: Callable[[Run], object],
    files: WeightSet,
    inputs: GenerationInputs,
    ledger: Ledger,
    store: KeptWeights,
    rates: Rates | None = None,
    machines: Machines | None = None,
) -> Plan | Unkept:
    """Plan a run whose weights stay in memory: all of them, beside the largest stage. Nothing is loaded or dropped.

    What earlier calls have left in the store stays, too, if it fits.

    Args:
        work, files, inputs, rates, machines: as for `plan`.
        ledger: as the run will have it; not changed.
        store: where weights will stay.

    Raises:
        MachineLost, UsageError, CheckpointError: as for `plan`.
    """

    def tried(accounts: Ledger, keeping: Keeping) -> Run:
        return _gone_through(work, files, inputs, accounts, keeping=keeping, machines=machines)

    def charged(budget: int | None, wanted: Mapping[WeightKey, int]) -> Ledger:
        accounts = Ledger(budget, ledger.base)
        accounts.reserved = sum(wanted.values())
        tried(accounts, Keeping(store, wanted))
        return accounts

    def found(accounts: Ledger, kept: Mapping[WeightKey, int]) -> Plan:
        speeds = Rates(math.inf, math.inf) if rates is None else rates
        plan = planned(accounts, accounts.needs, speeds)
        return replace(plan, budget=ledger.budget, kept=kept, windows=run.inputs.windows)

    keeping, fastest = Keeping(store), Ledger(None, ledger.base)
    run = tried(fastest, keeping)
    own, all_weights = keeping.used, store.sizes | keeping.used
    fastest.reserved = sum(all_weights.values())
    if ledger.budget is None or all(fastest.least_budget(need) <= ledger.budget for need in fastest.needs):
        return found(fastest, all_weights)
    for wanted in (all_weights, own):
        if ledger.base + sum(wanted.values()) < ledger.budget:
            try:
                return found(charged(ledger.budget, wanted), wanted)
            except MemoryBudgetError:
                continue
    return Unkept(sum(own.values()), lambda: _least(lambda budget: charged(budget, own)))


def _least(attempt: Callable[[int], object]) -> int:
    """The smallest budget in which every stage fits: a stage that does not says what it needs."""
    budget = 0
    while True:
        try:
            attempt(budget)
        except MemoryBudgetError as error:
            budget = error.needed_bytes
        else:
            return budget

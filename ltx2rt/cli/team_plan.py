"""What a clip would take on every machine of a team, and how much sooner it would be there."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ltx2rt.api.planning import ledger
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.errors import Ltx2rtError
from ltx2rt.graph.pipelines.plan import Plan, StagePlan
from ltx2rt.graph.stages.clip_team import Budget, Machines, Pace, may_group
from ltx2rt.kernels.speed import stage_flops
from ltx2rt.memory.limits import format_bytes
from ltx2rt.team.links import Links
from ltx2rt.team.team import Rules, Team

# Makes the plan of this machine as one of several; with None the plan of this machine alone.
MakePlan = Callable[[Machines | None], Plan]


class OwnPart(NamedTuple):
    """What one machine does of a stage.

    Attributes:
        machine: its number.
        share: how much of the whole, for people.
        seconds: of computing.
        peak_bytes: of its process.
    """

    machine: int
    share: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class SharedStage:
    """A stage that the machines share.

    Attributes:
        name: of the stage.
        steps: of its sampler.
        exchanging: seconds for what each receives, as if nothing else went on meanwhile.
        received: bytes that each machine receives.
        how: what they share, for people.
        parts: of the machines that have one.
    """

    name: str
    steps: int
    exchanging: float
    received: int
    how: str
    parts: tuple[OwnPart, ...]

    @property
    def computing(self) -> float:
        """Seconds of the machine that takes longest."""
        return max(part.seconds for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "steps": self.steps,
            "computing_seconds": round(self.computing, 3),
            "exchanging_seconds": round(self.exchanging, 3),
            "received_bytes": self.received,
            "received_bytes_per_step": round(self.received / max(1, self.steps)),
            "shares": self.how,
            "parts": [part._asdict() for part in self.parts],
        }


@dataclass(frozen=True)
class TeamPlan:
    """What the leader knows when all machines have planned.

    Attributes:
        names: of the machines.
        plans: of each, as text; None: it cannot take part.
        peaks: bytes of each process.
        errors: why a machine cannot take part; empty: it can.
        links: between them.
        shared: the stages that they share.
        seconds: of the whole clip; alone: on the leader without the others.
    """

    names: tuple[str, ...]
    plans: tuple[str, ...]
    peaks: tuple[int, ...]
    errors: tuple[str, ...]
    links: Links
    shared: tuple[SharedStage, ...]
    seconds: float
    alone: float

    @property
    def works(self) -> bool:
        """Whether all machines can take part."""
        return not any(self.errors)

    @property
    def times(self) -> float:
        """How many times as fast as the leader alone."""
        return self.alone / self.seconds

    def as_dict(self) -> dict[str, Any]:
        machines = [
            {"name": name, "peak_bytes": peak, "error": error or None}
            for name, peak, error in zip(self.names, self.peaks, self.errors, strict=True)
        ]
        return {
            "machines": machines,
            "latency_seconds": self.links.latency,
            "bandwidth_bytes": round(self.links.bandwidth),
            "shared": [stage.as_dict() for stage in self.shared],
            "seconds": round(self.seconds, 3),
            "seconds_alone": round(self.alone, 3),
        }

    def text(self) -> str:
        lines = []
        for rank, (name, plan, error) in enumerate(zip(self.names, self.plans, self.errors, strict=True)):
            lines += [f"machine {rank} ({name})", f"error: {error}" if error else plan, ""]
        lines.append(links_text(self.links))
        for stage in self.shared:
            step = format_bytes(round(stage.received / max(1, stage.steps)))
            lines.append(
                f"{stage.name}: {stage.how}; each machine receives {format_bytes(stage.received)}, {step} a step: "
                f"{stage.exchanging:.1f} s beside {stage.computing:.1f} s of computing"
            )
            lines += [
                f"  machine {part.machine}: {part.share}, {part.seconds:.1f} s, {format_bytes(part.peak_bytes)}"
                for part in stage.parts
            ]
        if self.works and not self.shared:
            lines.append("no stage is shared: one pass and one machine's worth of work")
        if self.works:
            lines.append(
                f"about {self.seconds:.0f} s on {len(self.names)} machines, {self.alone:.0f} s on machine 0 alone: "
                f"{self.times:.2f} times as fast"
            )
        return "\n".join(lines)


def links_text(links: Links) -> str:
    """For people."""
    return f"between the machines: {1e3 * links.latency:.2f} ms an exchange, {links.bandwidth / 1e9:.2f} GB/s received"


def planned_on_all(
    team: Team, links: Links, rules: Rules, memory: str | None, make: MakePlan, flops: float | None = None
) -> TeamPlan:
    """Every machine plans its part; each has the result.

    Args:
        team: the machines.
        links: between them.
        rules: what they share, and how fast they are; those of the leader count.
        memory: budget of this machine, as ``--memory`` has it.
        make: makes plans on this machine.
        flops: floating point operations per second of this machine; None: as measured.

    Raises:
        UsageError: the budget is no size, or the machines cannot share so.
        MachineLost: a machine has gone or says nothing.
    """
    accounts = ledger(memory)
    own_facts = [accounts.budget, accounts.base, rules.split, rules.shares_of(team.size), flops or stage_flops()]
    told = [json.loads(text) for text in team.gather_texts(json.dumps([*own_facts, links.latency, links.bandwidth]))]
    budgets = tuple(Budget(budget, base) for budget, base, *_ in told)
    # All plan with what the leader has measured.
    _, _, split, shares, leading_flops, *leading_links = told[0]
    pace = Pace(Links(*leading_links), leading_flops)
    machines = Machines(team.size, team.rank, split, budgets, tuple(shares), may_group(team, split), pace)
    own: dict[str, Any] = {"name": platform.node(), "plan": "", "peak": 0, "error": "", "stages": [], "alone": 0.0}
    try:
        plan = make(machines)
        alone = make(None) if team.leads else plan
        own |= {
            "plan": plan_text(plan),
            "peak": plan.peak_bytes,
            "stages": [_told(stage) for stage in plan.stages],
            "alone": alone.seconds,
        }
    except Ltx2rtError as error:
        own["error"] = str(error)
    return _together([json.loads(text) for text in team.gather_texts(json.dumps(own))], links)


def _told(stage: StagePlan) -> dict[str, Any]:
    """Of a stage, what other machines need to know of it."""
    need = stage.need
    return {
        "key": [need.window, need.name],
        "steps": need.steps,
        "seconds": stage.seconds,
        "received": need.received,
        "exchanges": need.exchanges,
        "how": need.choice.get("machines", ""),
        "share": need.choice.get("own part", ""),
        "peak": stage.peak_bytes,
    }


def _together(machines: Sequence[Mapping[str, Any]], links: Links) -> TeamPlan:
    """What the plans of all machines make, the leader's first."""
    shared, seconds = [], 0.0
    for stage in machines[0]["stages"]:
        if not stage["exchanges"]:
            seconds += stage["seconds"]
            continue
        of_machines = [
            (rank, part) for rank, own in enumerate(machines) for part in own["stages"] if part["key"] == stage["key"]
        ]
        parts = tuple(OwnPart(rank, part["share"], part["seconds"], part["peak"]) for rank, part in of_machines)
        exchanging = max(links.seconds(part["received"], part["exchanges"]) for _, part in of_machines)
        received = max(part["received"] for _, part in of_machines)
        shared.append(SharedStage(stage["key"][1], stage["steps"], exchanging, received, stage["how"], parts))
        seconds += shared[-1].computing + exchanging
    columns = {name: tuple(own[name] for own in machines) for name in ("name", "plan", "peak", "error")}
    return TeamPlan(
        columns["name"],
        columns["plan"],
        columns["peak"],
        columns["error"],
        links,
        tuple(shared),
        seconds,
        machines[0]["alone"],
    )

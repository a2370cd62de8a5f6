"""What a clip would take on every machine of a team, and how much sooner it would be there."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltx2rt.api.planning import ledger
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.errors import Ltx2rtError
from ltx2rt.graph.pipelines.plan import Plan, StagePlan
from ltx2rt.graph.stages.clip_team import Budget, Machines
from ltx2rt.memory.limits import format_bytes
from ltx2rt.team.links import Links
from ltx2rt.team.team import Split, Team

# Makes the plan of this machine as one of several; with None the plan of this machine alone.
MakePlan = Callable[[Machines | None], Plan]


@dataclass(frozen=True)
class SharedStage:
    """A stage that the machines share.

    Attributes:
        name: of the stage.
        steps: of its sampler.
        computing: seconds of the machine that takes longest.
        exchanging: seconds for what each receives, as if nothing else went on meanwhile.
        received: bytes that each machine receives.
        how: what they share, for people.
    """

    name: str
    steps: int
    computing: float
    exchanging: float
    received: int
    how: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "steps": self.steps,
            "computing_seconds": round(self.computing, 3),
            "exchanging_seconds": round(self.exchanging, 3),
            "received_bytes": self.received,
            "received_bytes_per_step": round(self.received / max(1, self.steps)),
            "shares": self.how,
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


def planned_on_all(team: Team, links: Links, split: Split, memory: str | None, make: MakePlan) -> TeamPlan:
    """Every machine plans its part; each has the result.

    Args:
        team: the machines.
        links: between them.
        split: what they share.
        memory: budget of this machine, as ``--memory`` has it.
        make: makes plans on this machine.

    Raises:
        UsageError: the budget is no size.
        MachineLost: a machine has gone or says nothing.
    """
    accounts = ledger(memory)
    told = team.gather_texts(json.dumps([accounts.budget, accounts.base]))
    budgets = tuple(Budget(*json.loads(text)) for text in told)
    machines = Machines(team.size, team.rank, split, budgets)
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
    }


def _together(machines: Sequence[Mapping[str, Any]], links: Links) -> TeamPlan:
    """What the plans of all machines make, the leader's first."""
    shared, seconds = [], 0.0
    for stage in machines[0]["stages"]:
        if not stage["exchanges"]:
            seconds += stage["seconds"]
            continue
        parts = [other for own in machines for other in own["stages"] if other["key"] == stage["key"]]
        computing = max(part["seconds"] for part in parts)
        exchanging = links.seconds(stage["received"], stage["exchanges"])
        shared.append(
            SharedStage(stage["key"][1], stage["steps"], computing, exchanging, stage["received"], stage["how"])
        )
        seconds += computing + exchanging
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

"""The machines that make a clip: how many they are, what each may take, and whether they are still needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ltx2rt.errors import UsageError
from ltx2rt.kernels.speed import stage_flops
from ltx2rt.spelling import spelled
from ltx2rt.team.links import Links, all_reach_all, measured_links
from ltx2rt.team.team import LEAST_FOR_BOTH, Split, Team


class Budget(NamedTuple):
    """What the process on a machine may take.

    Attributes:
        limit: bytes; None: no limit.
        base: what it takes without any stage.
    """

    limit: int | None
    base: int


class Pace(NamedTuple):
    """How fast machines are.

    Attributes:
        links: between them.
        flops: floating point operations per second of the one that leads.
    """

    links: Links
    flops: float


@dataclass(frozen=True)
class Machines:
    """What a plan knows of the machines.

    Attributes:
        size: how many there are.
        rank: number of the one that is planned for; 0 leads.
        split: what they share.
        budgets: of every machine; empty: the others take what they need.
        shares: how fast each is beside the others; empty: all are alike.
        grouping: some of them can have groups of their own.
        pace: how fast they are; None: not known.
    """

    size: int
    rank: int = 0
    split: Split = "auto"
    budgets: tuple[Budget, ...] = ()
    shares: tuple[float, ...] = ()
    grouping: bool = True
    pace: Pace | None = None


def may_group(team: Team, split: Split) -> bool:
    """Whether some of the machines can have groups of their own, and shall if that pays. All ask at the same time.

    Raises:
        UsageError: they shall but cannot, on every machine.
        ConnectionLost: a machine has gone. MachineLost: one says nothing.
    """
    if team.size < LEAST_FOR_BOTH or split not in ("auto", "both"):
        return False
    reached = all_reach_all(team)
    if split == "both" and not reached:
        raise UsageError(
            f"{spelled('split')} both needs machines that all reach each other over TCP (MLX_HOSTFILE), as by a "
            "switch; leave it out, or connect them so."
        )
    return reached


def measured_pace(team: Team, split: Split) -> Pace | None:
    """How fast the machines are, where what they share depends on it. All measure at the same time.

    Raises:
        ConnectionLost: a machine has gone. MachineLost: one says nothing.
    """
    if team.size < LEAST_FOR_BOTH or split not in ("auto", "both"):
        return None
    return Pace(measured_links(team), stage_flops())


class ClipTeam:
    """The team of one clip, seen by the machine that leads.

    Args:
        team: of machines that agree with this one.
        budgets: what each may take.
        grouping: some of them can have groups of their own.
        pace: how fast they are; None: nothing depends on it.

    Attributes:
        team: as given.
        machines: the same for plans.
        stages: denoising stages that are still to come; None: not known.
    """

    def __init__(
        self, team: Team, budgets: tuple[Budget, ...] = (), *, grouping: bool = False, pace: Pace | None = None
    ) -> None:
        self.team = team
        shares = team.rules.shares_of(team.size)
        self.machines = Machines(team.size, team.rank, team.rules.split, budgets, shares, grouping, pace)
        self.stages: int | None = None

    def stage_ended(self) -> None:
        """A denoising stage has ended, or was found in the journal; after the last one nobody waits for this clip."""
        if self.stages is not None:
            self.stages -= 1
            if self.stages <= 0 and self.team.rules.one_clip:
                self.team.close()

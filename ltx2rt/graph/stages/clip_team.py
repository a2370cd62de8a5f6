"""The machines that make a clip: how many they are, what each may take, and whether they are still needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ltx2rt.team.team import Split, Team


class Budget(NamedTuple):
    """What the process on a machine may take.

    Attributes:
        limit: bytes; None: no limit.
        base: what it takes without any stage.
    """

    limit: int | None
    base: int


@dataclass(frozen=True)
class Machines:
    """What a plan knows of the machines.

    Attributes:
        size: how many there are.
        rank: number of the one that is planned for; 0 leads.
        split: what they share.
        budgets: of every machine; empty: the others take what they need.
        shares: how fast each is beside the others; empty: all are alike.
    """

    size: int
    rank: int = 0
    split: Split = "auto"
    budgets: tuple[Budget, ...] = ()
    shares: tuple[float, ...] = ()


class ClipTeam:
    """The team of one clip, seen by the machine that leads.

    Args:
        team: of machines that agree with this one.
        budgets: what each may take.

    Attributes:
        team: as given.
        machines: the same for plans.
        stages: denoising stages that are still to come; None: not known.
    """

    def __init__(self, team: Team, budgets: tuple[Budget, ...] = ()) -> None:
        self.team = team
        self.machines = Machines(team.size, team.rank, team.rules.split, budgets, team.rules.shares_of(team.size))
        self.stages: int | None = None

    def stage_ended(self) -> None:
        """A denoising stage has ended, or was found in the journal; after the last one nobody waits for this clip."""
        if self.stages is not None:
            self.stages -= 1
            if self.stages <= 0 and self.team.rules.one_clip:
                self.team.close()

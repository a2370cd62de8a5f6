"""Machines of a team that have values of each other while they work side by side."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ltx2rt.team.group import Group
from ltx2rt.team.team import Groups, Started, Team


def circle_of(team: Team, groups: Groups, shares: Sequence[float]) -> Circle | None:
    """The machines of this one's group; None: it has nobody else. All machines ask for the same at the same time.

    Args:
        team: the machines.
        groups: each machine is in one.
        shares: how much of the work each machine of the team takes, beside the others.

    Raises:
        ConnectionLost: a machine has gone. MachineLost: one did not come, or says nothing.
        UsageError: machines cannot reach each other.
    """
    if len(groups) == 1:
        return Circle(team, shares)
    if max(map(len, groups)) == 1:
        return None
    group = team.group_of(groups)
    own = next(members for members in groups if team.rank in members)
    return None if group is None else Circle(team, [shares[member] for member in own], group)


class Circle:
    """Machines of a team that gather what they compute, a `TokenExchange`. What goes on between them takes its turn in
    the team's order.

    Args:
        team: to which they belong.
        shares: how much of the work each of them takes, beside the others.
        group: they alone; None: all machines of the team.

    Attributes:
        rank: number of this machine among them.
        shares: as given.
    """

    def __init__(self, team: Team, shares: Sequence[float], group: Group | None = None) -> None:
        self._team = team
        self._group = group
        self.rank = team.rank if group is None else group.rank
        self.shares = shares

    def start(self, x: mx.array, kind: str) -> Started:
        """Begin to gather ``x`` of all, (N, *shape); see `Team.start`."""
        return self._team.start(x, kind, self._group)

    def start_sum(self, x: mx.array, kind: str) -> Started:
        """Begin to add up the bytes of ``x``; see `Team.start_sum`."""
        return self._team.start_sum(x, kind, self._group)

    def finish(self, started: Started) -> mx.array:
        """What was begun; raises as `Team.finish`."""
        return self._team.finish(started)

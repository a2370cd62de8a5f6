"""Weights that one stage of a run leaves in memory for a later one that needs them again, where the budget allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.limits import format_bytes
from ltx2rt.memory.need import Need
from ltx2rt.weights.checkpoint import Loaded
from ltx2rt.weights.kept_weights import KeptWeights, StageWeights, WeightKey

Sizes = Mapping[WeightKey, int]


class Use(NamedTuple):
    """What a planned stage holds.

    Attributes:
        need: as it was chosen.
        weights: those that it holds from its beginning to its end.
    """

    need: Need
    weights: tuple[StageWeights, ...]


@dataclass
class StageHandover:
    """The part of one stage.

    Attributes:
        name: of the stage.
        taken: what it uses and finds in memory.
        beside: what is for later stages and lies in memory meanwhile.
        left: what stays when it has ended.
        receiver: the stage that uses most of what it leaves for the first time.
    """

    name: str
    taken: dict[WeightKey, int] = field(default_factory=dict)
    beside: dict[WeightKey, int] = field(default_factory=dict)
    left: dict[WeightKey, int] = field(default_factory=dict)
    receiver: str = ""

    def applied(self, need: Need) -> Need:
        """The need of the stage with what is in memory before, meanwhile and after."""
        taken, beside, left = (sum(sizes.values()) for sizes in (self.taken, self.beside, self.left))
        choice = dict(need.choice)
        if taken:
            choice["weights"] = f"{format_bytes(taken)} there already"
        if left and self.receiver:
            choice["hands on"] = f"{format_bytes(left)} to {self.receiver}"
        return replace(need, present=taken, kept=beside, handed_on=left, choice=choice)


def planned_handover(uses: Sequence[Use], ledger: Ledger) -> list[StageHandover]:
    """What the stages of a planned run can leave to each other.

    A stage and the next one that needs the same tensors keep as many of them as the stages between have room for. How
    these run does not change for it.

    Args:
        uses: the stages, in order.
        ledger: whose budget they keep to.
    """
    stages = [StageHandover(use.need.name) for use in uses]
    for (first, second), shared in _shared(uses).items():
        between = range(first + 1, second)
        kept: dict[WeightKey, int] = {}
        spare = min((_spare(ledger, uses[k].need, stages[k]) for k in between), default=math.inf)
        for key, size in shared.items():
            if size <= spare:
                kept[key] = size
                spare -= size
        if kept:
            stages[first].receiver = stages[first].receiver or stages[second].name
            stages[first].left |= kept
            stages[second].taken |= kept
            for k in between:
                stages[k].beside |= kept
                stages[k].left |= kept
    return stages


def _shared(uses: Sequence[Use]) -> dict[tuple[int, int], dict[WeightKey, int]]:
    """Tensors by the two stages that need them one after the other, with their bytes."""
    last: dict[WeightKey, int] = {}
    found: dict[tuple[int, int], dict[WeightKey, int]] = {}
    known: dict[WeightKey, int] = {}
    for place, use in enumerate(uses):
        for weights in use.weights:
            keys = [(weights.key(spec), spec) for spec in weights.specs]
            known |= replace(weights, specs=[spec for key, spec in keys if key in last]).sizes(known)
            for key, _ in keys:
                if key in last and last[key] != place:
                    found.setdefault((last[key], place), {})[key] = known[key]
                last[key] = place
    return found


def _spare(ledger: Ledger, need: Need, handover: StageHandover) -> float:
    """Bytes that may lie beside a stage."""
    return ledger.spare(replace(need, kept=sum(handover.beside.values())))


class Handover:
    """Carries out what was planned, stage by stage, in a run.

    A stage that was not planned, or comes out of its order, finds nothing and leaves nothing.

    Args:
        stages: as `planned_handover` gives them.
    """

    def __init__(self, stages: Iterable[StageHandover]) -> None:
        self._coming = list(stages)
        self._current: StageHandover | None = None
        self._store = KeptWeights()

    def expected(self, need: Need) -> Need:
        """The need of a stage that was chosen, with what is in memory beside it."""
        own = next((stage for stage in self._coming if stage.name == need.name), None)
        return need if own is None else own.applied(need)

    def begin(self, need: Need) -> Need:
        """A stage begins: what neither it nor a later one wants goes. The need, with what is really there."""
        place = next((i for i, stage in enumerate(self._coming) if stage.name == need.name), None)
        if place is None:
            self._current = None
            self._store.want({})
            return replace(need, present=0, kept=0, handed_on=0)
        self._current = self._coming[place]
        del self._coming[: place + 1]
        self._store.want(self._current.taken | self._current.beside | self._current.left)
        there = self._store.sizes
        present = sum(size for key, size in self._current.taken.items() if key in there)
        return replace(need, present=present, kept=sum(there.values()) - present)

    def load(self, weights: StageWeights) -> tuple[dict[str, Loaded], int]:
        """Arrays of a set, and how many bytes of them were read."""
        return self._store.load(weights)

    def end(self) -> None:
        """The stage ends: what it leaves stays."""
        self._store.want({} if self._current is None else self._current.left)
        self._current = None

    def drop(self) -> None:
        """Nothing stays."""
        self._coming.clear()
        self._store.want({})

"""What the machine that leads a team does around a denoising stage: it decides who does what, and asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from ltx2rt.errors import ConnectionLost, MachineLost
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.graph.models.transformer.token_share import TokenExchange
from ltx2rt.graph.stages.clip_team import Budget, Machines
from ltx2rt.graph.stages.denoise.machine_part import InStep
from ltx2rt.graph.stages.denoise.needs import denoise_options
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_messages import packed_stage
from ltx2rt.graph.stages.denoise.team_passes import TeamPasses, tell_alone
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.limits import format_bytes
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.team.circle import circle_of
from ltx2rt.team.team import Team


def in_step_of(need: Need) -> InStep:
    """How the passes of a chosen need go through the blocks."""
    return InStep(need.settings["walk"], need.settings["batch"])


def shared_options(files: WeightSet, task: DenoiseTask, machines: Machines | None) -> Iterator[Need]:
    """Every way of running a stage, the fastest first: those in which every machine of the team can do its part.

    Raises:
        MachineLost: another machine cannot, however it is run.
    """
    checkpoint, config = files.source(TRANSFORMER), files.config(TRANSFORMER)
    part = task.part
    if part is None or not part.leads or machines is None:
        yield from denoise_options(checkpoint, config, task)
        return
    refusals: list[MachineLost] = []

    @cache
    def refusal(rank: int, in_step: InStep | None) -> MachineLost | None:
        """Why a machine cannot do its part."""
        own = replace(task, part=replace(part, rank=rank))
        if not own.guidance:
            return None
        budget, least = machines.budgets[rank], []
        for need in denoise_options(checkpoint, config, own, in_step):
            least.append(_least_budget(budget, need))
            if budget.limit is None or least[-1] <= budget.limit:
                return None
        return MachineLost(
            f"machine {rank} has too little memory for its part of stage {task.name!r}: it needs "
            f"{format_bytes(min(least))} and may take {format_bytes(budget.limit or 0)}; give it more with "
            f"{spelled('memory')}, or leave it out."
        )

    sharing = {rank for rank in range(part.size) if replace(part, rank=rank).shares_tokens}
    offered = False
    for option in denoise_options(checkpoint, config, task):
        in_step = in_step_of(option)
        others = range(1, len(machines.budgets))
        found = [refusal(rank, in_step if rank in sharing else None) for rank in others]
        refusals = [error for error in found if error is not None]
        if not refusals:
            offered = True
            yield option
    if refusals and not offered:
        raise refusals[0]


def _least_budget(budget: Budget, need: Need) -> int:
    return Ledger(budget.limit, budget.base).least_budget(need)


class Leading:
    """A stage that the leader shares with others. It begins when this is made: the others load what they need.

    Args:
        team: the machines.
        task: what the stage does.
        need: as the leader runs it.
        files: opened weights.
        contexts: the prompts.

    Attributes:
        exchange: with the machines that share the tokens; None: there are none.
    """

    def __init__(
        self, team: Team, task: DenoiseTask, need: Need, files: WeightSet, contexts: Sequence[PromptContext]
    ) -> None:
        assert task.part is not None
        self._team = team
        self._part = task.part
        self.exchange: TokenExchange | None = None
        if team.is_there:
            try:
                team.tell(*packed_stage(task, in_step_of(need), files, contexts))
                self.exchange = circle_of(team, task.part.groups, task.part.shares)
            except ConnectionLost as error:
                tell_alone(error)

    def begun(self, transformer: Transformer, passes: TransformerPasses) -> TeamPasses:
        """This machine has loaded its model; when the others have, they can be asked.

        Raises:
            MachineLost: one of them cannot do its part.
        """
        if self._team.is_there:
            try:
                require_ready(self._team)
                self._team.rest()
            except ConnectionLost as error:
                tell_alone(error)
        return TeamPasses(self._team, self._part, transformer, passes)

    def ended(self) -> None:
        """The others may forget the stage."""
        if self._team.is_there:
            try:
                self._team.tell({"do": "end stage"})
                self._team.rest()
            except ConnectionLost as error:
                tell_alone(error)


def require_ready(team: Team, problem: str = "") -> None:
    """All machines say whether they can do their part of the stage that has begun.

    Args:
        team: the machines.
        problem: why this one cannot; empty: it can.

    Raises:
        MachineLost: one cannot, on every machine.
    """
    problems = {rank: text for rank, text in enumerate(team.gather_texts(problem)) if text}
    if problems:
        raise MachineLost("; ".join(f"machine {rank}: {text}" for rank, text in problems.items()))

"""What a machine does that does not lead: the parts of denoising stages that it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ltx2rt.errors import Ltx2rtError, MemoryBudgetError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.models.transformer.token_share import TokenExchange
from ltx2rt.graph.stages.denoise.leading import require_ready
from ltx2rt.graph.stages.denoise.loading import held_weights, load_transformer
from ltx2rt.graph.stages.denoise.machine_part import MachinePart
from ltx2rt.graph.stages.denoise.needs import denoise_options
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_messages import unpacked_stage
from ltx2rt.graph.stages.denoise.team_passes import TeamPasses
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.memory.stage import Stage, StageRunner
from ltx2rt.team.circle import circle_of
from ltx2rt.team.team import Team
from ltx2rt.types import Array
from ltx2rt.weights.checkpoint import Loaded
from ltx2rt.weights.kept_weights import KeptWeights, StageWeights


class Assistant:
    """Does parts of stages, each within this machine's own budget. Weights stay for the next stage that needs them.

    Args:
        team: the machines.
        files: opened weights, the same as the leader's.
        accounts: makes the accounts of a stage; argument: bytes of weights that are in memory already.
    """

    def __init__(self, team: Team, files: WeightSet, accounts: Callable[[int], Ledger]) -> None:
        self._team = team
        self._files = files
        self._accounts = accounts
        self._kept = KeptWeights()

    def stage(self, head: Mapping[str, Any], arrays: Sequence[Array | None]) -> None:
        """Take part in the stage that the leader has begun, to its end.

        Raises:
            MachineLost: this machine or another one cannot do its part, or the leader has gone.
        """
        blocks = self._files.config(TRANSFORMER).num_layers
        groups = tuple(tuple(members) for members in head["groups"])
        part = MachinePart(self._team.rank, groups, tuple(head["shares"]), blocks)
        exchange = circle_of(self._team, groups, part.shares)
        task, in_step, contexts = unpacked_stage(head, arrays, self._files, part)
        if not task.guidance:
            require_ready(self._team)
            self._answer(TeamPasses(self._team, part, None, None))
            return
        accounts = self._accounts(self._kept.nbytes)
        options = denoise_options(
            self._files.source(TRANSFORMER),
            self._files.config(TRANSFORMER),
            task,
            in_step if part.shares_tokens else None,
        )
        try:
            need = accounts.choose(options)
        except MemoryBudgetError as error:
            require_ready(self._team, str(error))
            raise
        need = replace(need, present=self._keep(task, need))
        with StageRunner(accounts).stage(task.name, need) as stage:
            self._run(stage, task, need, contexts, exchange)

    def _keep(self, task: DenoiseTask, need: Need) -> int:
        """Weights that the stage does not hold go; the bytes of those that it finds."""
        wanted = held_weights(self._files, self._files.config(TRANSFORMER), task, need.settings).sizes(
            self._kept.wanted
        )
        self._kept.want(wanted)
        return self._kept.nbytes

    def _run(
        self,
        stage: Stage,
        task: DenoiseTask,
        need: Need,
        contexts: Sequence[PromptContext],
        exchange: TokenExchange | None,
    ) -> None:
        part = task.part
        assert part is not None
        try:
            model = load_transformer(self._files, stage, task, need.settings, self._load, exchange)
        except Ltx2rtError as error:
            require_ready(self._team, str(error))
            raise
        require_ready(self._team)
        positive, negative = [*contexts, None][:2]
        assert positive is not None
        passes = TransformerPasses(model, positive, negative, need.settings["batch"], need.settings["walk"])
        self._answer(TeamPasses(self._team, part, model, passes))

    def _load(self, stage: Stage, weights: StageWeights) -> dict[str, Loaded]:
        return stage.hold(*self._kept.load(weights))

    def _answer(self, passes: TeamPasses) -> None:
        """Evaluation after evaluation, until the stage ends."""
        for head, arrays in self._team.messages():
            if head["do"] == "end stage":
                return
            passes.answer(head, arrays)

"""One call of a pipeline: what it may take is planned, and runs are made that keep to the plan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from ltx2rt.api.planning import ledger
from ltx2rt.api.previews import Previews
from ltx2rt.errors import MemoryBudgetError
from ltx2rt.graph.pipelines.plan import Plan, Rates, plan, plan_keeping
from ltx2rt.graph.stages.clip_team import ClipTeam, Machines
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.handover import Handover
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.journal import Journal
from ltx2rt.graph.stages.keeping import Keeping
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.allocator import give_back
from ltx2rt.memory.ledger import Ledger, rounded_up
from ltx2rt.memory.limits import format_bytes
from ltx2rt.spelling import spelled
from ltx2rt.weights.kept_weights import KeptWeights

log = logging.getLogger(__name__)


class PlannedWork(NamedTuple):
    """A plan, and the accounts that a run which follows it charges."""

    plan: Plan
    accounts: Ledger


class Call:
    """What a call brings besides its inputs.

    Args:
        files: opened weight files.
        store: where weights stay between calls.
        memory: what the process may take, as a user says it.
        keep_loaded: see `Pipeline.keep_loaded`.
        previews: of its runs; what decodes them counts.
        machines: that share the denoising, in a plan; None: this one does all.
        team: the same in a run.
    """

    def __init__(
        self,
        files: WeightSet,
        store: KeptWeights,
        memory: str | int | None,
        *,
        keep_loaded: bool | None,
        previews: Previews | None = None,
        machines: Machines | None = None,
        team: ClipTeam | None = None,
    ) -> None:
        self._files = files
        self._store = store
        self._memory = memory
        self._keep_loaded = keep_loaded
        self._previews = previews
        self._machines = machines if team is None else team.machines
        self._team = team

    def accounts(self) -> Ledger:
        """Accounts with the budget of the call."""
        return ledger(self._memory, self._store.nbytes, 0 if self._previews is None else self._previews.nbytes)

    def planned(
        self, work: Callable[[Run], object], inputs: GenerationInputs, rates: Rates | None = None
    ) -> PlannedWork:
        """Plan what will be done with a run; its weights stay in memory where that is wanted and they fit.

        Args:
            work: a pipeline's ``generate``, what comes before it, or both.
            inputs: of the run.
            rates: speeds to predict seconds with; None: where only the memory matters.

        Raises:
            MemoryBudgetError: a stage does not fit, or weights that must stay do not.
            MachineLost: another machine has too little memory for its part.
            UsageError, CheckpointError: the inputs or a file cannot work.
        """
        accounts = self.accounts()
        if self._keep_loaded is not False:
            found = plan_keeping(work, self._files, inputs, accounts, self._store, rates, self._machines)
            if isinstance(found, Plan):
                accounts.reserved = sum(found.kept.values())
                return PlannedWork(found, accounts)
            refused = (
                f"the weights of all stages, {format_bytes(found.weights)}, do not fit the budget of "
                f"{format_bytes(accounts.budget or 0)} together, beside what the largest stage needs"
            )
            if self._keep_loaded:
                enough = found.least_budget()
                raise MemoryBudgetError(
                    f"{refused}; give at least {spelled('memory', rounded_up(enough))}, or leave out "
                    f"{spelled('keep_loaded')}.",
                    enough,
                )
            log.info("%s: each stage frees its own", refused)
        return PlannedWork(plan(work, self._files, inputs, accounts.unused(), rates, self._machines), accounts)

    def run(
        self,
        inputs: GenerationInputs,
        planned: PlannedWork,
        observer: Callable[[Event], None] | None,
        journal: Journal | None,
    ) -> Run:
        """A run that follows a plan; what the plan does not keep of earlier calls is given back."""
        if self._previews is not None:
            observer = self._previews.seen_by(observer, self._files, inputs)
        self._store.want(planned.plan.kept)
        give_back()
        if self._team is not None:
            self._team.stages = sum(stage.need.steps > 0 for stage in planned.plan.stages)
        return Run(
            self._files,
            inputs,
            observer,
            journal=journal,
            ledger=planned.accounts,
            keeping=Keeping(self._store) if planned.plan.kept else None,
            handover=Handover(planned.plan.handover) if planned.plan.handover else None,
            team=self._team,
        )

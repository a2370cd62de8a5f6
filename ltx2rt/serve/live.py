"""How far the running job is: its stage, and the share of the planned time that is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Live:
    """What is known of a job while it runs, from what the worker says.

    Args:
        plan: of the job, as stored.

    Attributes:
        stage, step, of: where it is; of the decoder, frames; ``of`` 0: the stage is not counted in steps.
        seconds_left: of the stage; None: not known.
        progress: 0 to 99; it never falls.
        previews: how many there have been.
        moved: whether it has got further than where it was taken up. Frames that are decoded are none of that: the
            next run decodes them again.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        stages = plan.get("stages", [])
        self._names = [stage["name"] for stage in stages]
        seconds = [max(float(stage["seconds"]), 1e-3) for stage in stages]
        total = sum(seconds) or 1.0
        self._shares = [part / total for part in seconds]
        self._current = -1
        self.stage = ""
        self.step = self.of = 0
        self.seconds_left: float | None = None
        self.progress = 0
        self.previews = 0
        self.moved = False

    def observe(self, message: Mapping[str, Any]) -> None:
        """A message of the worker about a stage."""
        name, state = message["stage"], message["state"]
        if name != self.stage or state == "started":
            self._current = self._index(name)
        self.stage, self.step, self.of = name, message["step"], message["of"]
        self.seconds_left = message["seconds_left"]
        self.moved |= state in ("running", "finished")
        if self._current < 0:
            return
        done = 1.0 if state in ("finished", "restored") else self.step / self.of if self.of else 0.0
        share = sum(self._shares[: self._current]) + done * self._shares[self._current]
        self.progress = max(self.progress, min(99, int(100 * share)))

    def _index(self, name: str) -> int:
        """Where a stage stands in the plan, behind the one before if there are several; -1: it is not planned."""
        later = [index for index, known in enumerate(self._names) if known == name and index > self._current]
        return later[0] if later else self._current

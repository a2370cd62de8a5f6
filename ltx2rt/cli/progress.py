"""What the user sees while a clip is made: settings, steps with the time left, and what each stage cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ltx2rt.graph.stages.events import Event, LengthPredicted, StageFinished, StageRestored, StageStarted, StepDone
from ltx2rt.memory.stage import StageReport


class Progress:
    """Prints to stderr; a progress bar appears only on a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def message(self, text: str) -> None:
        """A message the user must see, also with --quiet."""
        print(f"ltx2rt: {text}", file=sys.stderr)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """The resolved settings, the seed among them."""
        if not self._quiet:
            shown = ", ".join(f"{name}={value}" for name, value in settings.items() if value not in (None, [], ""))
            print(f"settings: {shown}", file=sys.stderr)

    def observe(self, event: Event) -> None:
        """Observer of a pipeline run."""
        if isinstance(event, LengthPredicted) and not self._quiet:
            print(f"length: {event.seconds:.2f} s are predicted, {event.frames} frames are made", file=sys.stderr)
        if self._quiet or not sys.stderr.isatty():
            return
        if isinstance(event, StageStarted):
            self._bar = tqdm(
                total=event.steps or 1,
                desc=f"{event.name:<18}",
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]",
            )
            self._steps = event.steps
        elif isinstance(event, StageRestored):
            print(f"{event.name:<18} restored", file=sys.stderr)
        elif isinstance(event, StepDone) and self._bar is not None:
            self._bar.update(1)
        elif isinstance(event, StageFinished) and self._bar is not None:
            if self._steps == 0:
                self._bar.update(1)
            self._bar.close()
            self._bar = None

    def finish(self, report: Sequence[StageReport]) -> None:
        """A table of the stages; the peaks are those of the whole process, ``-`` where the system does not tell."""
        if self._quiet:
            return
        print(f"{'stage':<20}{'seconds':>9}{'weights':>11}{'streamed':>11}{'planned':>11}{'peak':>11}", file=sys.stderr)
        for stage in report:
            print(
                f"{stage.name:<20}{stage.seconds:>9.2f}{_megabytes(stage.weight_bytes)}"
                f"{_megabytes(stage.streamed_bytes)}{_megabytes(stage.planned_peak_bytes)}"
                f"{_megabytes(stage.resident_peak_bytes)}",
                file=sys.stderr,
            )
        print(f"{'total':<20}{sum(stage.seconds for stage in report):>9.2f}", file=sys.stderr)


def _megabytes(count: int | None) -> str:
    return f"{'-':>11}" if count is None else f"{count / 1e6:>8.1f} MB"

"""What is said while a command works: settings, steps with the time left, and what each stage cost.

On a terminal stages are bars, elsewhere lines: when a stage begins, when it ends, and every few seconds between. With
``--progress json`` everything said here is a JSON object on a line of its own, see docs/progress.md.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltx2rt.graph.stages.events import (
    Event,
    LengthPredicted,
    StageFinished,
    StageRestored,
    StageStarted,
    StepDone,
    StepsCounted,
    TileDone,
    WindowStarted,
)
from ltx2rt.memory.stage import StageReport

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Says it on stderr.

    Args:
        form: ``json``: for programs; anything else: for people.
        quiet: say only what must be seen.

    Attributes:
        preview: the file that shows the clip after each step, if any.
    """

    def __init__(self, form: str | None = None, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._json = form == "json" and not quiet
        self.preview: Path | None = None
        self._begun = time.monotonic()
        self._stage: _Stage | None = None
        self._clip: _ClipSteps | None = None

    def message(self, text: str) -> None:
        """A message the user must see, also with --quiet."""
        if self._json:
            self._object("message", text=text)
        else:
            print(f"ltx2rt: {text}", file=sys.stderr)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """The resolved settings, the seed among them."""
        shown = {name: value for name, value in settings.items() if value not in (None, [], "")}
        if self._json:
            self._object("settings", settings=shown)
        elif not self._quiet:
            print(f"settings: {', '.join(f'{name}={value}' for name, value in shown.items())}", file=sys.stderr)

    def observe(self, event: Event) -> None:
        """Observer of a run."""
        if self._quiet:
            return
        if isinstance(event, LengthPredicted):
            if self._json:
                self._object("length", seconds=round(event.seconds, 3), frames=event.frames)
            else:
                print(f"length: {event.seconds:.2f} s are predicted, {event.frames} frames are made", file=sys.stderr)
        elif isinstance(event, StepsCounted):
            self._clip = _ClipSteps(event.steps)
        elif isinstance(event, WindowStarted):
            self._finish_stage()
            self._begin_window(event)
        elif isinstance(event, StageStarted):
            self._finish_stage()
            kind = _JsonStage if self._json else _Bar if sys.stderr.isatty() else _Lines
            self._stage = kind(self, event.name, event.steps)
        elif isinstance(event, StageRestored):
            if self._clip is not None:
                self._clip.restored(event.steps)
            if self._json:
                self._object("stage", stage=event.name, state="restored", **self._of_clip())
            else:
                print(f"{self.label(event.name):<18} restored", file=sys.stderr)
        elif isinstance(event, StepDone) and self._stage is not None:
            if self._clip is not None:
                self._clip.advance()
            self._stage.advance()
        elif isinstance(event, TileDone) and self._stage is not None:
            self._stage.advance_tile(event.index + 1, event.tiles)
        elif isinstance(event, StageFinished):
            self._finish_stage()

    def close(self) -> None:
        """Say nothing more of a stage that was broken off."""
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def finish(self, report: Sequence[StageReport]) -> None:
        """A table of the stages; the peaks are those of the whole process, ``-`` where the system does not tell."""
        if self._quiet:
            return
        self._finish_stage()
        if self._json:
            self._object("report", stages=[stage.as_dict() for stage in report])
            return
        print(f"{'stage':<20}{'seconds':>9}{'weights':>11}{'streamed':>11}{'planned':>11}{'peak':>11}", file=sys.stderr)
        for name, stage in _together(report):
            print(
                f"{name:<20}{stage.seconds:>9.2f}{_megabytes(stage.weight_bytes)}"
                f"{_megabytes(stage.streamed_bytes)}{_megabytes(stage.planned_peak_bytes)}"
                f"{_megabytes(stage.resident_peak_bytes)}",
                file=sys.stderr,
            )
        print(f"{'total':<20}{sum(stage.seconds for stage in report):>9.2f}", file=sys.stderr)

    def _finish_stage(self) -> None:
        """The stage is done; a decoder of which nobody needs the last frames says nothing when it ends."""
        if self._stage is not None:
            self._stage.finish()
            self._stage = None

    def written(self, path: Path) -> None:
        """What was asked for is there; for programs, people read its name on stdout."""
        if self._json:
            self._object("written", path=str(path))

    def step(self, stage: _Stage, state: str) -> None:
        """One line for programs about a stage."""
        preview = self.preview
        self._object(
            "stage",
            stage=stage.name,
            state=state,
            step=stage.done,
            of=stage.steps,
            tile=stage.tile if stage.tiles else None,
            tiles=stage.tiles or None,
            seconds=round(stage.seconds, 3),
            seconds_left=None if stage.seconds_left is None else round(stage.seconds_left, 3),
            preview=str(preview) if preview is not None and preview.exists() else None,
            **self._of_clip(),
        )

    def label(self, stage: str) -> str:
        """What a stage is called for people, with the window that it belongs to."""
        clip = self._clip
        return stage if clip is None or not clip.windows else f"window {clip.window} of {clip.windows}, {stage}"

    @property
    def clip_words(self) -> str:
        """How far a clip is whose steps are counted, for people; empty: those of no clip are."""
        clip = self._clip
        if clip is None:
            return ""
        left = "" if clip.seconds_left is None else f", {clip.seconds_left:.0f} s left"
        return f"; of the clip {clip.done} of {clip.steps} steps{left}"

    def _begin_window(self, event: WindowStarted) -> None:
        window = event.window
        if self._clip is None:
            self._clip = _ClipSteps()
        self._clip.begin(window.index, window.count, event.steps)
        if self._json:
            self._object(
                "window", window=window.index + 1, windows=window.count, start=window.start, frames=window.frames
            )

    def _of_clip(self) -> dict[str, Any]:
        """Of a clip whose steps are counted: these, and the window that is made, if there are several."""
        clip = self._clip
        if clip is None:
            return {}
        left = clip.seconds_left
        window = {"window": clip.window, "windows": clip.windows} if clip.windows else {}
        return {
            **window,
            "clip_step": clip.done,
            "clip_of": clip.steps,
            "clip_seconds_left": None if left is None else round(left, 3),
        }

    def _object(self, event: str, **values: Any) -> None:
        line = {"event": event, "elapsed": round(time.monotonic() - self._begun, 3), **values}
        print(json.dumps(line), file=sys.stderr, flush=True)


class _ClipSteps:
    """How far a clip is.

    Attributes:
        window: the one that is made, from 1; 0: it is made without.
        windows: how many there are.
        steps, done: sampler steps of all stages and windows, and those that are done or restored.
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps
        self.window = self.windows = self.done = 0
        self._computed = 0
        self._begun = time.monotonic()

    def begin(self, index: int, count: int, steps: int) -> None:
        """A window of ``steps`` steps begins."""
        self.window, self.windows, self.steps, self.done = index + 1, count, count * steps, index * steps

    def advance(self) -> None:
        """A step is done."""
        self.done += 1
        self._computed += 1

    def restored(self, steps: int) -> None:
        """An interrupted run had done these."""
        self.done += steps

    @property
    def seconds_left(self) -> float | None:
        """By the mean of what was computed, decoding included; None: not known."""
        if not self._computed:
            return None
        return (time.monotonic() - self._begun) / self._computed * (self.steps - self.done)


class _Stage:
    """One stage while it runs.

    Attributes:
        name, steps: of the stage; 0 steps: it is not counted in steps.
        done: finished steps.
        tile, tiles: of the step that runs, how many tiles are finished and how many there are; 0 tiles: it is not cut.
    """

    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        self.progress = progress
        self.name = name
        self.steps = steps
        self.done = 0
        self.tile = 0
        self.tiles = 0
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    @property
    def seconds_left(self) -> float | None:
        """By the mean of the finished steps and tiles; None: not known."""
        done = self.done + (self.tile / self.tiles if self.tiles else 0)
        return None if not done else self.seconds / done * (self.steps - done)

    def advance(self) -> None:
        """A step is done."""
        self.done += 1
        self.tile = 0

    def advance_tile(self, tile: int, tiles: int) -> None:
        """So many tiles of a step are done."""
        self.tile, self.tiles = tile, tiles

    def finish(self) -> None:
        """The stage is done."""
        self.close()

    def close(self) -> None:
        """Nothing more is said."""


class _JsonStage(_Stage):
    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        super().__init__(progress, name, steps)
        progress.step(self, "started")

    def advance(self) -> None:
        super().advance()
        self.progress.step(self, "running")

    def advance_tile(self, tile: int, tiles: int) -> None:
        super().advance_tile(tile, tiles)
        if tile < tiles:  # with the last one the step is done
            self.progress.step(self, "running")

    def finish(self) -> None:
        self.progress.step(self, "finished")


class _Bar(_Stage):
    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        super().__init__(progress, name, steps)
        self._bar = tqdm(
            total=steps or 1,
            desc=f"{progress.label(name):<18}",
            file=sys.stderr,
            bar_format="{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt}{postfix} "
            "[{elapsed}, {remaining} left]",
        )

    def advance(self) -> None:
        super().advance()
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update(1)

    def advance_tile(self, tile: int, tiles: int) -> None:
        super().advance_tile(tile, tiles)
        self._bar.set_postfix_str(f"tile {tile}/{tiles}")

    def finish(self) -> None:
        if self.steps == 0:
            self._bar.update(1)
        self.close()

    def close(self) -> None:
        self._bar.close()


class _Lines(_Stage):
    """A thread says every few seconds how far it is, also of stages whose steps are long or not counted."""

    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        super().__init__(progress, name, steps)
        self._label = progress.label(name)
        self._say(f"{steps} steps" if steps else "begun")
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def finish(self) -> None:
        self.close()
        self._say(f"done in {self.seconds:.1f} s")

    def close(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            step = f"step {self.done} of {self.steps}, " if self.steps else ""
            if self.tiles:
                step += f"tile {self.tile} of {self.tiles}, "
            left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
            self._say(f"{step}{self.seconds:.0f} s{left}{self.progress.clip_words}")

    def _say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=sys.stderr, flush=True)


def _together(report: Sequence[StageReport]) -> list[tuple[str, StageReport]]:
    """The stages with their names; those of windows that have the same name are one, with the largest peak."""
    rows: dict[str, list[StageReport]] = {}
    for number, stage in enumerate(report):
        rows.setdefault(stage.name if stage.window else f"{stage.name} {number}", []).append(stage)
    merged = []
    for stages in rows.values():
        first = stages[0]
        peaks = [stage.resident_peak_bytes for stage in stages if stage.resident_peak_bytes is not None]
        whole = replace(
            first,
            seconds=sum(stage.seconds for stage in stages),
            weight_bytes=max(stage.weight_bytes for stage in stages),
            streamed_bytes=sum(stage.streamed_bytes for stage in stages),
            planned_peak_bytes=max(stage.planned_peak_bytes for stage in stages),
            resident_peak_bytes=max(peaks) if peaks else None,
        )
        merged.append((first.name if len(stages) == 1 else f"{first.name} x{len(stages)}", whole))
    return merged


def _megabytes(count: int | None) -> str:
    return f"{'-':>11}" if count is None else f"{count / 1e6:>8.1f} MB"

"""The process that computes: one job at a time, its weights kept for the next one. It is killed to cancel a job."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.api.clip import Clip
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.api.previews import Preview
from ltx2rt.api.record import sidecar_path
from ltx2rt.api.run_state import saved_record
from ltx2rt.errors import (
    CheckpointError,
    Ltx2rtError,
    MediaError,
    MemoryBudgetError,
    NotFiniteError,
    OutOfSpace,
    StateError,
    UsageError,
)
from ltx2rt.graph.stages.events import Event, FramesDecoded, StageFinished, StageRestored, StageStarted, StepDone
from ltx2rt.media.stills import write_webp
from ltx2rt.serve.job_folder import JobFolder
from ltx2rt.serve.lines import Lines
from ltx2rt.serve.loaded import LoadedPipelines, call_settings, output_options

log = logging.getLogger(__name__)

# Previews may take this share of the time of a job.
_PREVIEW_SHARE = 0.1
# What a client is told about an error; the first kind that it is of decides.
_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (OutOfSpace, "disk_full"),
    (MemoryBudgetError, "memory"),
    (MemoryError, "memory"),
    (NotFiniteError, "not_finite"),
    (CheckpointError, "weights"),
    (MediaError, "media"),
    (UsageError, "invalid_value"),
    (Ltx2rtError, "failed"),
)


def main() -> None:
    lines = Lines()
    configuration = lines.receive()
    preview_decoder = configuration["preview_decoder"]
    pipelines = LoadedPipelines(configuration["files"], configuration["loras"])
    gc.freeze()  # as the command line does: collections at the ends of stages need not look at what imports have made
    lines.send(event="ready")
    while True:
        message = lines.receive()
        job = _JobRun(message, lines, preview_decoder)
        try:
            job.run(pipelines)
            lines.send(event="done", id=job.id)
        except Exception as error:  # becomes the job's error; the worker goes on
            known = next((code for kind, code in _CODES if isinstance(error, kind)), None)
            if known is None:
                traceback.print_exc()
            text = (
                str(error) if known else f"an error of the program, {type(error).__name__}; the server's log has more"
            )
            lines.send(event="failed", id=job.id, code=known or "internal", message=text)


class _JobRun:
    """One run of one job, and what it says while it lasts.

    Args:
        message: ``id``, ``asked``, ``folder``, ``budget``, ``frame_rate``; ``spare``: what the plan leaves of it.
        lines: to the server.
        preview_decoder: file of the tiny decoder that makes previews; None: the video VAE, where memory is left.
    """

    def __init__(self, message: Mapping[str, Any], lines: Lines, preview_decoder: str | None) -> None:
        self.id = message["id"]
        self._preview_decoder = preview_decoder
        self._asked = message["asked"]
        self._budget, self._spare = message["budget"], message["spare"]
        self._folder = JobFolder(Path(message["folder"]).parent, Path(message["folder"]).name)
        self._lines = lines
        self._begun = time.monotonic()
        self._stage, self._steps, self._stage_begun = "", 0, self._begun
        self._preview_seconds = 0.0
        self._frame_rate = float(message["frame_rate"] or 24)

    def run(self, pipelines: LoadedPipelines) -> None:
        """Compute the clip, or continue, and write everything into the folder."""
        pipeline = pipelines.get(self._asked["pipeline"], self._asked["loras"])
        settings = call_settings(self._asked, self._folder.path)
        try:
            clip = self._clip(pipeline, settings, resume=self._can_continue(pipeline, settings))
        except StateError:
            clip = self._clip(pipeline, settings, resume=False)
        pictures = pipeline.entry.output == "video"
        path = self._folder.clip(pictures=pictures)
        clip.save(path, output_options(self._asked, self._folder, pictures=pictures))
        self._folder.finish(self._result(clip, path))

    def _clip(self, pipeline: Pipeline, settings: Mapping[str, Any], *, resume: bool) -> Clip:
        clip: Clip = pipeline(
            **settings,
            observer=self._observe,
            on_preview=self._preview,
            preview_decoder=self._preview_decoder,
            state_folder=self._folder.state,
            resume=resume,
            memory=self._budget,
        )
        return clip

    def _can_continue(self, pipeline: Pipeline, settings: Mapping[str, Any]) -> bool:
        """Whether an earlier run of the job has left something that this program goes on with."""
        if not self._folder.state.exists():
            return False
        try:
            saved = saved_record(self._folder.state)
        except StateError:
            return False
        return saved is not None and not saved.differences(pipeline.record_for(**settings))

    def _result(self, clip: Clip, path: Path) -> dict[str, Any]:
        peaks = [stage.resident_peak_bytes or stage.peak_bytes for stage in clip.report]
        return {
            "clip": path.name,
            "sidecar": sidecar_path(path).name,
            "peak_memory_mb": round(max(peaks, default=0) / 1e6, 1),
            "inference_time_s": round(time.monotonic() - self._begun, 3),
            "stages": {stage.name: round(stage.seconds, 3) for stage in clip.report},
            "width": clip.width,
            "height": clip.height,
            "num_frames": clip.num_frames,
            "frame_rate": float(clip.frame_rate),
            "has_sound": clip.audio is not None,
        }

    def _observe(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage, self._steps, self._stage_begun = event.name, event.steps, time.monotonic()
            self._say("started", 0)
        elif isinstance(event, StepDone):
            self._say("running", event.index + 1)
        elif isinstance(event, FramesDecoded):
            self._steps = event.frames
            self._say("decoding", event.done)
        elif isinstance(event, StageFinished):
            self._say("finished", self._steps)
        elif isinstance(event, StageRestored):
            self._stage, self._steps = event.name, 0
            self._say("restored", 0)

    def _say(self, state: str, step: int) -> None:
        seconds = time.monotonic() - self._stage_begun
        left = seconds / step * (self._steps - step) if step and state in ("running", "decoding") else None
        self._lines.send(
            event="stage",
            id=self.id,
            stage=self._stage,
            state=state,
            step=step,
            of=self._steps,
            seconds_left=None if left is None else round(left, 1),
        )

    def _preview(self, preview: Preview) -> None:
        """Write a picture of what there is, unless pictures have taken too much of the time already."""
        begun = time.monotonic()
        if not preview.is_decodable or self._preview_seconds > _PREVIEW_SHARE * (begun - self._begun):
            return
        if preview.working_bytes > self._spare:
            return
        try:
            if preview.is_quick:
                write_webp(self._folder.preview, preview.frames(), self._frame_rate)
            else:
                write_webp(self._folder.preview, preview.picture()[None], 1)
        except (Ltx2rtError, MemoryError) as error:
            log.warning("no preview: %s", error)
            self._preview_seconds = float("inf")
            return
        self._preview_seconds += time.monotonic() - begun
        self._lines.send(event="preview", id=self.id, stage=preview.stage, step=preview.step)


if __name__ == "__main__":
    main()

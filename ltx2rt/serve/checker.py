"""The process that looks at requests before they become jobs: it opens their files and plans; it computes nothing.

A damaged upload can end this process, and neither the server nor a running job.
"""

from __future__ import annotations

import gc
import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltx2rt import embedded
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.api.planning import rates
from ltx2rt.errors import Ltx2rtError, MemoryBudgetError, UsageError
from ltx2rt.graph.pipelines import AUTOMATIC, PIPELINES
from ltx2rt.graph.pipelines.plan import Plan
from ltx2rt.graph.preview_decoder_file import PreviewDecoderFile
from ltx2rt.graph.settings.settings import GUIDANCE
from ltx2rt.memory.limits import format_bytes
from ltx2rt.serve.fields import FIELDS
from ltx2rt.serve.job_folder import JobFolder
from ltx2rt.serve.lines import Lines
from ltx2rt.serve.loaded import LoadedPipelines, call_settings, output_options, weight_flags
from ltx2rt.spelling import spelled_as

# How often a plan is made again with the budget that the stage which did not fit has asked for.
_MOST_STAGES = 40
# What this process takes more from one plan to the next.
_DRIFT_BYTES = 4 << 20
# Of the latent of a clip: 40 seconds of 3840x2176. Plans go through the arrays of the clip, as the run does.
_MOST_CELLS = 1 << 20


def main() -> None:
    lines = Lines()
    try:
        with _warnings() as said, spelled_as(weight_flags()):
            checker = Checker(lines.receive())
            offered = checker.offered()
    except Ltx2rtError as error:
        lines.send(failed=str(error))
        return
    gc.freeze()  # what the imports have made stays
    lines.send(ready=offered, notices=said)
    while True:
        message = lines.receive()
        with _warnings() as said:
            try:
                decided = checker.check(message["asked"], Path(message["folder"]), message["budget"])
                lines.send(decided={**decided, "notices": [*decided["notices"], *said]})
            except MemoryBudgetError as error:
                lines.send(refused=checker.unfitting(message, error))
            except Ltx2rtError as error:
                lines.send(refused=_refused(str(error)))
            except Exception as error:  # said to one client; the next request finds this process alive
                traceback.print_exc()
                lines.send(
                    refused=_refused(f"the request cannot be planned: {type(error).__name__}; change its values.")
                )


class Checker:
    """Checks and plans.

    Args:
        configuration: ``files``, ``loras``: see `LoadedPipelines`; ``model``: its name, if it is to have another one;
            ``preview_decoder``: a file, or None.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._pipelines = LoadedPipelines(configuration["files"], configuration["loras"])
        self._rates = rates()
        self._model = configuration["model"]
        self._preview_decoder = configuration["preview_decoder"]
        if self._preview_decoder is not None:
            PreviewDecoderFile.open(self._preview_decoder)

    def offered(self) -> dict[str, Any]:
        """The model, and every pipeline with its defaults, or with why it cannot run.

        Raises:
            UsageError, CheckpointError: there is no model.
        """
        first = self._pipelines.get(AUTOMATIC)
        model = self._model or ("ltx2rt-embedded" if first.is_embedded else _model_name(first))
        found = [self._pipeline(AUTOMATIC)] + [self._pipeline(name) for name in PIPELINES]
        return {
            "model": model,
            "embedded": first.is_embedded,
            "generation": first.generation,
            "pipelines": found,
        }

    def _pipeline(self, name: str) -> dict[str, Any]:
        summary = PIPELINES[name].summary if name in PIPELINES else "the one of these that the checkpoint is made for"
        try:
            pipeline = self._pipelines.get(name)
        except Ltx2rtError as error:
            return {"name": name, "summary": summary, "reason": str(error), "settings": [], "defaults": {}}
        entry, defaults = pipeline.entry, pipeline.defaults
        guidance = {
            "num_inference_steps": defaults.num_inference_steps,
            "video_cfg_guidance_scale": defaults.video_guider.cfg_scale,
            "audio_cfg_guidance_scale": defaults.audio_guider.cfg_scale,
        }
        return {
            "name": name,
            "is": entry.name,
            "summary": summary,
            "reason": "",
            "size": entry.size,
            "output": entry.output,
            "settings": [field for field, known in FIELDS.items() if _takes(pipeline, field, known.said.topic)],
            "defaults": {
                "seed": defaults.seed,
                "height": defaults.height,
                "width": defaults.width,
                "num_frames": defaults.num_frames,
                "frame_rate": float(defaults.frame_rate),
                **({} if pipeline.has_fixed_schedule else guidance),
            },
        }

    def check(self, asked: Mapping[str, Any], folder: Path, budget: int) -> dict[str, Any]:
        """What a request comes to: size, length, seed, plan.

        Raises:
            MemoryBudgetError: it does not fit. Ltx2rtError: it cannot work.
        """
        pipeline = self._pipelines.get(asked["pipeline"], asked["loras"])
        settings = call_settings(asked, folder)
        output_options(asked, JobFolder(folder.parent, folder.name), pictures=pipeline.entry.output == "video")
        record = pipeline.record_for(**settings)
        _require_plannable(record.settings)
        plan, assumed = pipeline.plan(
            **settings, memory=budget, rates=self._rates, preview_decoder=self._preview_decoder
        )
        decided = record.settings
        found = {name: decided[name] for name in ("seed", "width", "height", "num_frames") if name in decided}
        if "num_frames" in decided:
            rate = _ratio(decided["frame_rate"])
            found |= {"frame_rate": rate, "seconds": round(decided["num_frames"] / rate, 3)}
        unknown = embedded.unknown_words(asked["settings"].get("prompt") or "") if pipeline.is_embedded else []
        notices = [f"the embedded toy model does not know: {', '.join(unknown)}"] if unknown else []
        return {
            **found,
            "pipeline": pipeline.name,
            "output": pipeline.entry.output,
            "plan": _plan(plan),
            "notices": notices + assumed,
        }

    def unfitting(self, message: Mapping[str, Any], error: MemoryBudgetError) -> dict[str, Any]:
        """The refusal of what does not fit, with the plan in the smallest budget that would do."""
        said = str(error)
        for _ in range(_MOST_STAGES):
            if not error.needed_bytes:
                break
            needed = error.needed_bytes + error.needed_bytes // 50 + _DRIFT_BYTES
            try:
                decided = self.check(message["asked"], Path(message["folder"]), needed)
            except MemoryBudgetError as next_error:
                error = next_error
                continue
            except Ltx2rtError:
                break
            plan = decided["plan"] | {"budget_bytes": message["budget"], "needed_bytes": needed}
            text = (
                f"this does not fit the memory of {format_bytes(message['budget'])} that a job has here: it needs "
                f"{format_bytes(needed)}; ask for a smaller or shorter clip, or start the server with more "
                "--memory."
            )
            return {**_refused(text), "code": "memory", "more": {"plan": plan}}
        return {**_refused(said), "code": "memory"}


def _takes(pipeline: Pipeline, name: str, topic: str) -> bool:
    """Whether a field has a meaning for a pipeline."""
    topics = pipeline.entry.topics
    if FIELDS[name].target == "output":
        return pipeline.entry.output == "video" or name == "speed"
    if pipeline.has_fixed_schedule and (name == "num_inference_steps" or topic in GUIDANCE):
        return False
    return topic in topics or not topic


def _require_plannable(decided: Mapping[str, Any]) -> None:
    """Raise UsageError for a clip so large that its plan alone would take minutes."""
    frames, height, width = (decided.get(name, 1) for name in ("num_frames", "height", "width"))
    cells = ((frames - 1) // 8 + 1) * -(-height // 32) * -(-width // 32)
    if cells > _MOST_CELLS:
        raise UsageError(
            f"{frames} frames of {width}x{height} are {cells} cells of 32x32 pixels and 8 frames, this server takes "
            f"{_MOST_CELLS}; ask for a smaller or shorter clip."
        )


def _plan(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values, with how each stage works."""
    stages = [
        {**stage.as_dict(), "how": "; ".join(f"{what} {how}" for what, how in stage.need.choice.items())}
        for stage in plan.stages
    ]
    return {
        "stages": stages,
        "peak_bytes": plan.peak_bytes,
        "base_bytes": plan.base_bytes,
        "budget_bytes": plan.budget,
        "seconds": round(plan.seconds, 3),
    }


def _refused(message: str) -> dict[str, Any]:
    """A refusal; its field is the one that the message begins with, if it does."""
    word = re.match(r"\w+", message)
    return {
        "message": message,
        "param": word[0] if word is not None and word[0] in FIELDS else None,
        "code": "invalid_value",
        "more": {},
    }


def _ratio(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _model_name(pipeline: Pipeline) -> str:
    path = pipeline.components["transformer"].path
    return path.stem if path.is_file() else path.name


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what is warned of."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    collector, logger = Collector(logging.WARNING), logging.getLogger("ltx2rt")
    logger.addHandler(collector)
    try:
        yield said
    finally:
        logger.removeHandler(collector)


if __name__ == "__main__":
    main()

"""Every pipeline under the name a user gives it. A new one is a module here and a line in `_MODULES`."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import (
    alpha_gen,
    audio_to_video,
    dfr,
    distilled,
    dub_it,
    extend,
    hdr,
    ic_lora,
    keyframe_interpolation,
    one_stage,
    retake,
    text_to_audio,
    two_stage,
    two_stage_hq,
)
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import topic_of
from ltx2rt.spelling import spelled

_MODULES = (
    distilled,
    one_stage,
    two_stage,
    two_stage_hq,
    ic_lora,
    dub_it,
    keyframe_interpolation,
    audio_to_video,
    dfr,
    retake,
    extend,
    text_to_audio,
    alpha_gen,
    hdr,
)
PIPELINES: dict[str, PipelineEntry] = {module.PIPELINE.name: module.PIPELINE for module in _MODULES}

# Chooses among the pipelines by the kind of checkpoint.
AUTOMATIC = "text-to-video"
PIPELINE_NAMES = (AUTOMATIC, *PIPELINES)


def pipeline_name(text: str) -> str:
    """The name of a pipeline that is written with underscores or in the spelling of another program.

    Raises:
        UsageError: no such pipeline; names the nearest one.
    """
    if not isinstance(text, str) or "/" in text or "\\" in text or text.endswith(".safetensors"):
        raise UsageError(
            f"{text!r} is no name of a pipeline; weights are given with {spelled('checkpoint', 'FILE')}, and the "
            f"pipelines are {', '.join(PIPELINE_NAMES)}."
        )
    name = text.replace("_", "-")
    name = next((entry.name for entry in PIPELINES.values() if name in entry.aliases), name)
    if name not in PIPELINE_NAMES:
        near = difflib.get_close_matches(name, PIPELINE_NAMES, n=1)
        hint = f"did you mean {near[0]}? All are" if near else "use one of"
        raise UsageError(f"unknown pipeline {text!r}; {hint} {', '.join(PIPELINE_NAMES)}.")
    return name


def pipeline_for(name: str, variant: str) -> PipelineEntry:
    """The pipeline of that name; ``text-to-video`` is the one for the variant of the checkpoint."""
    if name != AUTOMATIC:
        return PIPELINES[name]
    return next(entry for entry in PIPELINES.values() if entry.automatic and entry.variant == variant)


def pipeline_for_files(variant: str, settings: Collection[str]) -> PipelineEntry:
    """The pipeline of a variant that uses most of these weight files, given by their settings; the first of several."""
    fitting = [e for e in PIPELINES.values() if e.variant == variant and set(e.files) <= set(settings)]
    return max(fitting, key=lambda entry: len(entry.files))


def pipelines_taking(setting: str) -> tuple[str, ...]:
    """The pipelines that take a setting; empty: all of them."""
    topic = topic_of(setting)
    return tuple(entry.name for entry in PIPELINES.values() if topic in entry.topics) if topic else ()

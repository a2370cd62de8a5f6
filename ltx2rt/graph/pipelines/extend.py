"""The extend pipeline: a clip goes on, forwards or backwards. It is a retake of the part that is added."""

from __future__ import annotations

from ltx2rt.graph.pipelines import retake
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import (
    CLIP_COLOURS,
    ENLARGING,
    EXTENSION,
    FITTING,
    FRAMES,
    GUIDANCE,
    HDR_OUTPUT,
    RATE,
    SOURCE,
)
from ltx2rt.graph.stages.edited_clips import open_extension

PIPELINE = PipelineEntry(
    name="extend",
    summary="a clip that goes on, forwards or backwards",
    checkpoint="distilled or dev",
    size="that of the clip",
    example='--pipeline extend --prompt "a red circle moves left" --video-path {clip} --extend-frames 8',
    open_media=open_extension,
    variant=None,
    topics=GUIDANCE | {SOURCE, EXTENSION, FITTING, CLIP_COLOURS, FRAMES, ENLARGING, RATE, HDR_OUTPUT},
    check=retake.check,
    generate=retake.generate,
)

"""The IC-LoRA pipeline: control videos, appended as reference tokens, steer the first of two distilled stages."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.references import check_references, reference_items
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import (
    CLIP_COLOURS,
    CONTROL,
    GENERATED_KEYFRAMES,
    NEW_CLIP,
    REFERENCE_SIZE,
    REFERENCES,
)
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import open_references
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=not inputs.settings.skip_stage_2)
    if not files.loras:
        raise UsageError(f"{PIPELINE.name} needs an IC-LoRA; give {spelled('loras')}.")
    if not inputs.media.references and not inputs.media.images:
        raise UsageError(f"{PIPELINE.name} needs a control video or an image; give {spelled('video_conditioning')}.")
    check_references(inputs, files, smallest=2)
    mask = inputs.media.attention_mask
    if mask is not None and not 0.0 <= mask.strength <= 1.0:
        raise UsageError(f"the attention strength must be between 0 and 1, got {mask.strength}.")


def generate(run: Run) -> GeneratedClip:
    """The second stage refines without any LoRA and without the references.

    Source: Lightricks/LTX-2 ltx_pipelines/ic_lora.py @ v1.2.0.
    """
    conditions = Conditions(positive_context(run))

    def references() -> list[VideoItem]:
        return reference_items(run, "reference encoder", run.inputs.height // 2, run.inputs.width // 2)

    first = first_stage(run, Sampling(distilled_sigmas(), run.files.loras), conditions, references)
    if run.inputs.settings.skip_stage_2:
        return finish(run, first.video, first.audio, keyframes=first.keyframes)
    final = second_stage(run, Sampling(distilled_stage_2_sigmas()), conditions, first)
    return finish(run, final.video, final.audio, keyframes=final.keyframes)


PIPELINE = PipelineEntry(
    name="ic-lora",
    summary="control videos steer the clip",
    checkpoint="distilled, with upscaler and IC-LoRA",
    size="multiples of 64",
    example='--pipeline ic-lora --prompt "a red circle moves left" --video-conditioning {clip}',
    open_media=open_references,
    files=("spatial_upscaler", "loras"),
    variant="distilled",
    two_stage=True,
    topics=NEW_CLIP | {GENERATED_KEYFRAMES, REFERENCES, REFERENCE_SIZE, CONTROL, CLIP_COLOURS},
    check=check,
    generate=generate,
)

"""The high-quality two-stage pipeline: the second-order res_2s sampler and the distilled LoRA in both stages."""

from __future__ import annotations

import logging

from ltx2rt.graph.diffusion.res_2s import Res2s
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas, ltx2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.defaults import high_quality
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import (
    DURATION,
    FIRST_ORDER,
    GENERATED_KEYFRAMES,
    GUIDANCE,
    LORA_STRENGTHS,
    NEW_CLIP,
)
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True, guided=True, distilled_lora=True)
    for lora, strength in files.distilled_lora:
        if strength != 1.0:
            log.warning(
                "%s: its strength here is that of each stage, %s and %s; %g has no effect",
                lora.path,
                spelled("distilled_lora_strength_stage_1", f"{inputs.settings.distilled_lora_strength_stage_1:g}"),
                spelled("distilled_lora_strength_stage_2", f"{inputs.settings.distilled_lora_strength_stage_2:g}"),
                strength,
            )


def generate(run: Run) -> GeneratedClip:
    """The distilled LoRA has a strength of its own in each stage, whatever strength was given with it.

    Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_two_stages_hq.py @ v1.2.0.
    """
    inputs, files = run.inputs, run.files
    conditions = Conditions(*guided_contexts(run))
    video_target, _ = targets(run, inputs.height // 2, inputs.width // 2)
    settings = inputs.settings
    strength_1, strength_2 = settings.distilled_lora_strength_stage_1, settings.distilled_lora_strength_stage_2
    guided = Sampling(
        ltx2_sigmas(inputs.steps, tokens=video_target.shape.tokens),
        (*files.loras, *((lora, strength_1) for lora, _ in files.distilled_lora)),
        sampler=Res2s(),
        video_guider=inputs.video_guider,
        audio_guider=inputs.audio_guider,
    )
    first = first_stage(run, guided, conditions)
    refine = Sampling(
        distilled_stage_2_sigmas(),
        (*files.loras, *((lora, strength_2) for lora, _ in files.distilled_lora)),
        sampler=Res2s(),
    )
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, first.audio, keyframes=final.keyframes)


PIPELINE = PipelineEntry(
    name="two-stage-hq",
    summary="as two-stage, with the second-order sampler res_2s",
    checkpoint="dev, with upscaler and distilled LoRA",
    size="multiples of 64",
    example='--pipeline two-stage-hq --prompt "a red circle moves left"',
    files=("spatial_upscaler", "distilled_lora"),
    two_stage=True,
    adjusted=high_quality,
    aliases=("ti2vid-two-stages-hq",),
    topics=NEW_CLIP | {DURATION, GENERATED_KEYFRAMES, LORA_STRENGTHS} | GUIDANCE - {FIRST_ORDER},
    check=check,
    generate=generate,
)

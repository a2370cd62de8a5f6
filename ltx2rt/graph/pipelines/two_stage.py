"""The two-stage pipeline: guided sampling of a dev checkpoint at half size, refined with the distilled LoRA."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import CHUNKS, DURATION, GENERATED_KEYFRAMES, GUIDANCE, NEW_CLIP
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, guided_sampling
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import in_windows


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True, guided=True, distilled_lora=True)


def generate(run: Run) -> GeneratedClip:
    """The sound is that of the first stage, which the second one sees finished and keeps as it is.

    Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_two_stages.py @ 1.4.
    """
    conditions = Conditions(*guided_contexts(run))
    return in_windows(run, lambda part: _window(part, conditions))


def _window(run: Run, conditions: Conditions) -> GeneratedClip:
    inputs, files = run.inputs, run.files
    guided = guided_sampling(
        inputs,
        files.loras,
        video_guider=inputs.video_guider,
        audio_guider=inputs.audio_guider,
    )
    first = first_stage(run, guided, conditions)
    refine = Sampling(distilled_stage_2_sigmas(), (*files.loras, *files.distilled_lora))
    final = second_stage(run, refine, replace(conditions, sound=first.audio), first)
    return finish(run, final.video, first.audio, keyframes=final.keyframes, carried=final.carried)


PIPELINE = PipelineEntry(
    name="two-stage",
    summary="guided at half size, refined at full size",
    checkpoint="dev, with upscaler and distilled LoRA",
    size="multiples of 64",
    example='--pipeline two-stage --prompt "a red circle moves left"',
    files=("spatial_upscaler", "distilled_lora"),
    two_stage=True,
    aliases=("ti2vid-two-stages",),
    topics=NEW_CLIP | {CHUNKS, DURATION, GENERATED_KEYFRAMES} | GUIDANCE,
    check=check,
    generate=generate,
)

"""The keyframe pipeline: a clip between images that are all shown as appended key frames, in two stages."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import GUIDANCE, NEW_CLIP
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, guided_sampling
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True, guided=True, distilled_lora=True)
    if not inputs.media.images:
        raise UsageError(f"keyframe interpolation needs at least one key frame; give {spelled('images')}.")


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/keyframe_interpolation.py @ v1.2.0."""
    inputs, files = run.inputs, run.files
    conditions = Conditions(*guided_contexts(run), append_all_images=True)
    guided = guided_sampling(
        inputs,
        files.loras,
        video_guider=inputs.video_guider,
        audio_guider=inputs.audio_guider,
    )
    first = first_stage(run, guided, conditions)
    refine = Sampling(distilled_stage_2_sigmas(), (*files.loras, *files.distilled_lora))
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, final.audio)


PIPELINE = PipelineEntry(
    name="keyframe-interpolation",
    summary="a clip between given pictures",
    checkpoint="dev, with upscaler and distilled LoRA",
    size="multiples of 64",
    example='--pipeline keyframe-interpolation --prompt "a red circle moves left" --image {image} 0 --image {image} 24',
    files=("spatial_upscaler", "distilled_lora"),
    two_stage=True,
    aliases=("keyframe",),
    topics=NEW_CLIP | GUIDANCE,
    check=check,
    generate=generate,
)

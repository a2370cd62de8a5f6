"""The distilled pipeline: 8 steps at half size, latent upscaling, 3 steps at full size; no guidance."""

from __future__ import annotations

from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import (
    STAGE_1_SEED,
    STAGE_2_SEED,
    Conditions,
    distilled_sampler,
    first_stage,
    second_stage,
)
from ltx2rt.graph.settings.settings import CHUNKS, DURATION, GENERATED_KEYFRAMES, NEW_CLIP
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import in_windows


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True)


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/distilled.py @ v1.2.0; the sampler of stage 2 as in 1.4."""
    conditions = Conditions(positive_context(run))
    return in_windows(run, lambda part: _window(part, conditions))


def _window(run: Run, conditions: Conditions) -> GeneratedClip:
    loras = run.files.loras
    first = first_stage(run, Sampling(distilled_sigmas(), loras, distilled_sampler(run, STAGE_1_SEED)), conditions)
    final = second_stage(
        run, Sampling(distilled_stage_2_sigmas(), loras, distilled_sampler(run, STAGE_2_SEED)), conditions, first
    )
    return finish(run, final.video, final.audio, keyframes=final.keyframes, carried=final.carried)


PIPELINE = PipelineEntry(
    name="distilled",
    summary="8 steps at half size, latent upscaling, 3 steps at full size",
    checkpoint="distilled, with upscaler",
    size="multiples of 64",
    example='--pipeline distilled --prompt "a red circle moves left"',
    files=("spatial_upscaler",),
    variant="distilled",
    two_stage=True,
    enhancement_seed=42,
    automatic=True,
    topics=NEW_CLIP | {CHUNKS, DURATION, GENERATED_KEYFRAMES},
    check=check,
    generate=generate,
)

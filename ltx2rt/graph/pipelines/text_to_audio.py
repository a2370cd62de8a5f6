"""The text-to-audio pipeline: guided sampling of the audio stream alone."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.diffusion.latent_state import audio_latent
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import AUDIO_MODALITY_GUIDANCE, DURATION, GUIDANCE, LENGTH, RATE, VIDEO_GUIDANCE
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import audio_target
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=0, guided=True)


def generate(run: Run) -> GeneratedClip:
    """The modality scale is 1: there is no video to be isolated from.

    Source: Lightricks/LTX-2 ltx_pipelines/t2a_one_stage.py @ v1.2.0; 19B too, whose audio caption projection that code
    leaves out.
    """
    inputs = run.inputs
    positive, negative = guided_contexts(run)
    target = audio_target(run)
    guider = replace(inputs.audio_guider, modality_scale=1.0)
    sampling = guided_sampling(inputs, run.files.loras, audio_guider=guider)
    start = audio_state(run, target, noise_scale=sampling.noise_scale)
    _, audio = denoise(run, "denoise", sampling, None, start, positive, negative)
    assert audio is not None
    return finish(run, None, audio_latent(audio, target))


PIPELINE = PipelineEntry(
    name="text-to-audio",
    summary="sound alone",
    checkpoint="dev",
    size="",
    example='--pipeline text-to-audio --prompt "a red circle moves left"',
    output="sound",
    aliases=("t2a", "t2a-one-stage"),
    topics=GUIDANCE - {VIDEO_GUIDANCE, AUDIO_MODALITY_GUIDANCE} | {DURATION, LENGTH, RATE},
    check=check,
    generate=generate,
)

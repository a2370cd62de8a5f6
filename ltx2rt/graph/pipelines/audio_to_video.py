"""The audio-to-video pipeline: given sound, kept as it is, drives the video; two stages."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import (
    AUDIO_GUIDANCE,
    AUDIO_MODALITY_GUIDANCE,
    CHUNKS,
    DRIVING_SOUND,
    GENERATED_KEYFRAMES,
    GUIDANCE,
    NEW_CLIP,
)
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, guided_sampling
from ltx2rt.graph.stages.encode.stage import encode_sound
from ltx2rt.graph.stages.inputs import GenerationInputs, PromptContext
from ltx2rt.graph.stages.media_inputs import open_driving_sound
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import audio_target
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import in_windows, window_sound
from ltx2rt.spelling import spelled


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True, guided=True, distilled_lora=True)
    if inputs.media.sound is None:
        raise UsageError(f"{PIPELINE.name} needs sound; give {spelled('audio_path', 'FILE')}.")


def generate(run: Run) -> GeneratedClip:
    """The original waveform accompanies the clip, not the decoded one.

    Source: Lightricks/LTX-2 ltx_pipelines/a2vid_two_stage.py @ v1.2.0.
    """
    inputs = run.inputs
    assert inputs.media.sound is not None
    positive, negative = guided_contexts(run)
    if negative is not None:
        # The sound is not guided; in the unconditional pass it keeps the prompt.
        negative = PromptContext(negative.video, positive.audio)
    tokens = encode_sound(run, inputs.media.sound, audio_target(run).shape.frames)

    def make(part: Run) -> GeneratedClip:
        return _window(part, Conditions(positive, negative, sound=window_sound(part, tokens)))

    # All of the sound has been encoded, also what goes beyond the last frame of a clip that is as long as it.
    given = inputs.media.sound
    heard = given.waveform[: round(inputs.num_frames / inputs.frame_rate * given.sample_rate)]
    return in_windows(run, make, sound=replace(given, waveform=heard))


def _window(run: Run, conditions: Conditions) -> GeneratedClip:
    inputs, files = run.inputs, run.files
    guided = guided_sampling(inputs, files.loras, video_guider=inputs.video_guider)
    first = first_stage(run, guided, conditions)
    refine = Sampling(distilled_stage_2_sigmas(), (*files.loras, *files.distilled_lora))
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, None, keyframes=final.keyframes, carried=final.carried)


PIPELINE = PipelineEntry(
    name="audio-to-video",
    summary="pictures for given sound",
    checkpoint="dev, with upscaler and distilled LoRA",
    size="multiples of 64",
    example='--pipeline audio-to-video --prompt "a red circle moves left" --audio-path {clip}',
    open_media=open_driving_sound,
    files=("spatial_upscaler", "distilled_lora"),
    two_stage=True,
    enhancement_seed=42,
    aliases=("a2v", "a2vid-two-stage"),
    topics=NEW_CLIP
    | {CHUNKS, DRIVING_SOUND, GENERATED_KEYFRAMES}
    | GUIDANCE - {AUDIO_GUIDANCE, AUDIO_MODALITY_GUIDANCE},
    check=check,
    generate=generate,
)

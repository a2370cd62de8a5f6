"""The dub-it pipeline: a clip speaks other words; its pictures and its voice are references of two distilled stages."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import AppendReferenceAudio, positions_before_clip
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.references import check_references, check_windows, reference_items
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import (
    CHUNKS,
    CLIP_COLOURS,
    DUBBED_CLIP,
    ENLARGING,
    FITTING,
    FRAMES,
    GENERATED_KEYFRAMES,
    REDUCTION,
    REFERENCE_SIZE,
    SIZE,
)
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import SoundItem, VideoItem
from ltx2rt.graph.stages.encode.stage import encode_sound
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import open_dubbed_clip
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import audio_target
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import in_windows, window_sound
from ltx2rt.spelling import spelled


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=True)
    if len(files.loras) != 1:
        raise UsageError(
            f"{PIPELINE.name} needs exactly one LoRA, that of Dub-It, got {len(files.loras)}; give it with "
            f"{spelled('loras')}."
        )
    if inputs.media.reference_sound is None:
        raise UsageError(f"{PIPELINE.name} needs a clip to dub; give {spelled('reference_video', 'FILE')}.")
    check_references(inputs, files, smallest=2)
    check_windows(inputs, files)


def generate(run: Run) -> GeneratedClip:
    """Both stages have the LoRA and the pictures of the clip. Its voice is heard before the first stage's sound; the
    second one keeps that sound, and hears it before itself. It is what the clip gets.

    Source: Lightricks/LTX-2 ltx_pipelines/dubit.py @ 1.4.
    """
    assert run.inputs.media.reference_sound is not None
    conditions = Conditions(positive_context(run))
    track = encode_sound(run, run.inputs.media.reference_sound)
    return in_windows(run, lambda part: _window(part, conditions, window_sound(part, track)))


def _window(run: Run, conditions: Conditions, voice: Float32Array) -> GeneratedClip:
    """A window of the clip, or all of it.

    Args:
        run: of the window.
        conditions: of both stages.
        voice: of the original clip in the window, (1, L, 128).
    """
    inputs, loras = run.inputs, run.files.loras
    height, width = inputs.height, inputs.width

    def pictures(stage: int) -> list[VideoItem]:
        smaller = 2 if stage == 1 else 1
        name = f"reference encoder {stage}"
        return reference_items(run, name, height // smaller, width // smaller, Tiling.default())

    def heard_before(sound: Float32Array) -> list[SoundItem]:
        return [AppendReferenceAudio(sound, positions_before_clip(sound.shape[1], audio_target(run)))]

    first = first_stage(
        run, Sampling(distilled_sigmas(), loras), conditions, lambda: pictures(1), lambda: heard_before(voice)
    )
    final = second_stage(
        run,
        Sampling(distilled_stage_2_sigmas(), loras),
        replace(conditions, sound=first.audio),
        first,
        lambda: pictures(2),
        lambda: heard_before(first.audio),
    )
    return finish(run, final.video, final.audio, keyframes=final.keyframes, carried=final.carried)


PIPELINE = PipelineEntry(
    name="dub-it",
    summary="a clip that speaks other words, with its own voice",
    checkpoint="distilled, with upscaler and Dub-It LoRA",
    size="multiples of 64",
    example='--pipeline dub-it --prompt "a green square moves left" --reference-video {clip}',
    open_media=open_dubbed_clip,
    files=("spatial_upscaler", "loras"),
    variant="distilled",
    two_stage=True,
    enhancement_seed=42,
    aliases=("dubit", "dub"),
    topics=frozenset(
        {
            SIZE,
            CHUNKS,
            FITTING,
            REDUCTION,
            FRAMES,
            ENLARGING,
            CLIP_COLOURS,
            DUBBED_CLIP,
            REFERENCE_SIZE,
            GENERATED_KEYFRAMES,
        }
    ),
    check=check,
    generate=generate,
)

"""The retake pipeline: a time range of an existing clip is generated anew, the rest is kept."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import RegenerateTimeRange
from ltx2rt.graph.diffusion.latent_state import audio_latent, video_latent
from ltx2rt.graph.diffusion.schedules import distilled_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import CLIP_COLOURS, FITTING, FRAMES, GUIDANCE, RETAKE_RANGE, SOURCE
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state, video_state
from ltx2rt.graph.stages.encode.stage import encode_pixels, encode_sound
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import open_retake
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts, positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=1, guided=not inputs.fixed_schedule)
    if inputs.media.source is None or inputs.media.region is None:
        raise UsageError(
            f"an edit needs a clip and a time range; give {spelled('video_path')}, {spelled('start_time')} and "
            f"{spelled('end_time')}."
        )
    region, shape = inputs.media.region, inputs.media.source.frames.shape
    if not 0.0 <= region.start_s < region.end_s:
        raise UsageError(
            f"the time range must begin before it ends, got {region.start_s} s to {region.end_s} s; "
            f"give {spelled('start_time')} < {spelled('end_time')}."
        )
    if not region.video and not region.audio:
        raise UsageError("retake with neither video nor audio regenerated changes nothing; choose at least one.")
    expected = (inputs.num_frames, inputs.height, inputs.width, 3)
    if shape != expected:
        raise UsageError(f"the source clip is {shape}, but the run is for {expected}; they must be equal.")


def generate(run: Run) -> GeneratedClip:
    """Distilled checkpoints take their fixed schedule without guidance, dev checkpoints the guided one.

    A source without sound gets its sound generated from scratch.

    Source: Lightricks/LTX-2 ltx_pipelines/retake.py @ v1.2.0.
    """
    inputs = run.inputs
    assert inputs.media.source is not None
    assert inputs.media.region is not None
    positive, negative = (positive_context(run), None) if inputs.fixed_schedule else guided_contexts(run)
    if inputs.fixed_schedule:
        sampling = Sampling(distilled_sigmas(), run.files.loras)
    else:
        sampling = guided_sampling(
            inputs,
            run.files.loras,
            video_guider=inputs.video_guider,
            audio_guider=inputs.audio_guider,
        )
    video_target, audio_target = targets(run, inputs.height, inputs.width)
    (source,) = encode_pixels(run, "video encoder", [inputs.media.source.frames])
    sound = None
    if inputs.media.source.sound is not None:
        sound = encode_sound(run, inputs.media.source.sound, audio_target.shape.frames)
    region = RegenerateTimeRange(inputs.media.region.start_s, inputs.media.region.end_s)
    start = video_state(
        run,
        video_target,
        noise_scale=sampling.noise_scale,
        initial=source,
        items=[region],
        frozen=not inputs.media.region.video,
    )
    audio_items: Sequence[RegenerateTimeRange] = [region] if sound is not None else []
    audio_start = audio_state(
        run,
        audio_target,
        noise_scale=sampling.noise_scale,
        initial=sound,
        items=audio_items,
        frozen=sound is not None and not inputs.media.region.audio,
    )
    video, audio = denoise(run, "denoise", sampling, start, audio_start, positive, negative)
    assert video is not None
    assert audio is not None
    return finish(run, video_latent(video, video_target), audio_latent(audio, audio_target))


PIPELINE = PipelineEntry(
    name="retake",
    summary="one part of a clip made anew",
    checkpoint="distilled or dev",
    size="that of the clip",
    example='--pipeline retake --prompt "a red circle moves left" --video-path {clip} --start-time 0.4 --end-time 0.8',
    open_media=open_retake,
    variant=None,
    topics=GUIDANCE | {SOURCE, RETAKE_RANGE, FITTING, CLIP_COLOURS, FRAMES},
    check=check,
    generate=generate,
)

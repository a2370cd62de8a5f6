"""The retake pipeline: a time range of an existing clip is generated anew, the rest is kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import RegenerateTimeRange
from ltx2rt.graph.diffusion.latent_geometry import frames_shown
from ltx2rt.graph.diffusion.latent_state import VideoTarget, audio_latent, video_latent
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.schedules import distilled_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import (
    CLIP_COLOURS,
    ENLARGING,
    FITTING,
    FRAMES,
    GUIDANCE,
    HDR_OUTPUT,
    RATE,
    RETAKE_RANGE,
    SOURCE,
)
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state, video_state
from ltx2rt.graph.stages.edited_clips import open_retake
from ltx2rt.graph.stages.encode.stage import encode_pixels, encode_sound
from ltx2rt.graph.stages.inputs import Edit, GenerationInputs, SourceClip, TimeRange
from ltx2rt.graph.stages.kept_media import BLEND_SECONDS, blended_frames, finish_edit
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts, positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)


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
    inputs, source, region = run.inputs, run.inputs.media.source, run.inputs.media.region
    assert source is not None
    assert region is not None
    edit, (video_target, _) = source.edit, targets(run, inputs.height, inputs.width)
    anew = _made_anew(region, edit, video_target) if region.video else range(0)
    # A clip without sound gets its sound from scratch; kept as it is, it stays silent.
    new_sound = region.audio or (edit.sound is None and not edit.keeps_sound)
    if not run.planning:
        for line in (*edit.words, _words(edit, anew, float(inputs.frame_rate), new_sound=new_sound)):
            log.warning("%s", line)
    video, audio = _latents(run, source, region)
    return finish_edit(run, source, video, audio, anew=anew, new_sound=new_sound)


def _latents(run: Run, source: SourceClip, region: TimeRange) -> tuple[Float32Array, Float32Array]:
    """Final latents of pictures and sound. What they are made from is free when they are there."""
    inputs = run.inputs
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
    (encoded,) = encode_pixels(run, "video encoder", [source.frames], source.edit.pictures.reading_bytes)
    sound = None
    if source.sound is not None:
        sound = encode_sound(run, source.sound, audio_target.shape.frames)
    times = RegenerateTimeRange(region.start_s, region.end_s)
    start = video_state(
        run,
        video_target,
        noise_scale=sampling.noise_scale,
        initial=encoded,
        items=[times],
        frozen=not region.video,
    )
    sound_times = times if region.sound_range is None else RegenerateTimeRange(*region.sound_range)
    audio_items: Sequence[RegenerateTimeRange] = [sound_times] if sound is not None else []
    audio_start = audio_state(
        run,
        audio_target,
        noise_scale=sampling.noise_scale,
        initial=sound,
        items=audio_items,
        frozen=sound is not None and not region.audio,
    )
    video, audio = denoise(run, "denoise", sampling, start, audio_start, positive, negative)
    assert video is not None
    assert audio is not None
    return video_latent(video, video_target), audio_latent(audio, audio_target)


def _made_anew(region: TimeRange, edit: Edit, target: VideoTarget) -> range:
    """Frames of the result whose latents are generated."""
    inside = RegenerateTimeRange(region.start_s, region.end_s).inside(target)[0]
    latents = inside.reshape(target.shape.frames, -1).any(axis=1).nonzero()[0]
    shown = [frame + edit.model.start for frame in frames_shown(latents[0], latents[-1], target.scale)]
    return range(max(shown[0], 0), min(shown[-1] + 1, edit.num_frames))


def _words(edit: Edit, anew: range, frame_rate: float, *, new_sound: bool) -> str:
    """What is made anew, in frames and seconds."""
    parts, kept, blended = [], [], []
    if anew:
        count = blended_frames(anew)
        if count and (anew.start > 0 or anew.stop < edit.num_frames):
            blended.append("1 frame" if count == 1 else f"{count} frames")
        first, last = anew.start / frame_rate, anew.stop / frame_rate
        parts.append(f"frames {anew.start} to {anew.stop - 1} of {edit.num_frames} ({first:.3f} to {last:.3f} s)")
    else:
        kept.append("all frames")
    if new_sound:
        first, last = edit.sound_range if edit.sound is not None else (0.0, edit.num_frames / frame_rate)
        parts.append(f"the sound from {first:.3f} to {last:.3f} s")
        if edit.keeps_sound and (first > 0 or last < edit.num_frames / frame_rate):
            blended.append(f"{min(BLEND_SECONDS, (last - first) / 2) * 1000:.2g} ms")
    elif edit.sound is not None:
        kept.append("the sound")
    sides = "made anew: " + " and ".join(parts)
    if kept:
        sides += f"; kept: {' and '.join(kept)}"
    if not edit.keeps_pictures:
        return f"{sides}; every frame passes through the VAE"
    return f"{sides}; {' and '.join(blended)} inside each border are blended" if blended else sides


PIPELINE = PipelineEntry(
    name="retake",
    summary="one part of a clip made anew",
    checkpoint="distilled or dev",
    size="that of the clip",
    example='--pipeline retake --prompt "a red circle moves left" --video-path {clip} --start-time 0.4 --end-time 0.8',
    open_media=open_retake,
    variant=None,
    topics=GUIDANCE | {SOURCE, RETAKE_RANGE, FITTING, CLIP_COLOURS, FRAMES, ENLARGING, RATE, HDR_OUTPUT},
    check=check,
    generate=generate,
)

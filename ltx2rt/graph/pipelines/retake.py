"""The retake pipeline: a time range of an existing clip is generated anew, the rest is kept."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import RegenerateTimeRange
from ltx2rt.graph.diffusion.latent_state import audio_latent, video_latent
from ltx2rt.graph.diffusion.schedules import distilled_sigmas
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state, video_state
from ltx2rt.graph.stages.encode.stage import encode_pixels, encode_sound
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts, positive_context


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=32, guided=not request.distilled)
    if request.source is None or request.region is None:
        raise UsageError("retake needs a clip and a time range; give --video-path, --start-time and --end-time.")
    region, shape = request.region, request.source.frames.shape
    if not 0.0 <= region.start_s < region.end_s:
        raise UsageError(
            f"the time range must begin before it ends, got {region.start_s} s to {region.end_s} s; "
            "give --start-time < --end-time."
        )
    if not region.video and not region.audio:
        raise UsageError("retake with neither video nor audio regenerated changes nothing; choose at least one.")
    expected = (request.num_frames, request.height, request.width, 3)
    if shape != expected:
        raise UsageError(f"the source clip is {shape}, but the request is for {expected}; they must be equal.")


def generate(run: Run) -> GeneratedClip:
    """Distilled checkpoints take their fixed schedule without guidance, dev checkpoints the guided one.

    A source without sound gets its sound generated from scratch.

    Source: Lightricks/LTX-2 ltx_pipelines/retake.py @ v1.2.0.
    """
    request = run.request
    assert request.source is not None
    assert request.region is not None
    positive, negative = (positive_context(run), None) if request.distilled else guided_contexts(run)
    if request.distilled:
        sampling = Sampling(distilled_sigmas(), run.files.loras)
    else:
        sampling = guided_sampling(
            request,
            run.files.loras,
            video_guider=request.video_guider,
            audio_guider=request.audio_guider,
        )
    video_target, audio_target = targets(request, request.height, request.width)
    (source,) = encode_pixels(run, "video encoder", [request.source.frames])
    sound = None
    if request.source.sound is not None:
        sound = encode_sound(run, request.source.sound, audio_target.shape.frames)
    region = RegenerateTimeRange(request.region.start_s, request.region.end_s)
    start = video_state(
        run,
        video_target,
        noise_scale=sampling.noise_scale,
        initial=source,
        items=[region],
        frozen=not request.region.video,
    )
    audio_items: Sequence[RegenerateTimeRange] = [region] if sound is not None else []
    audio_start = audio_state(
        run,
        audio_target,
        noise_scale=sampling.noise_scale,
        initial=sound,
        items=audio_items,
        frozen=sound is not None and not request.region.audio,
    )
    video, audio = denoise(run, "denoise", sampling, start, audio_start, positive, negative)
    assert video is not None
    assert audio is not None
    return finish(run, video_latent(video, video_target), audio_latent(audio, audio_target))

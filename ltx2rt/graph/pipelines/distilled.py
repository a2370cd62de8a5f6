"""The distilled pipeline: 8 steps at half size, latent upscaling, 3 steps at full size; no guidance."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_geometry import check_resolution
from ltx2rt.graph.diffusion.latent_state import audio_latent, video_latent
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines import stages
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.request import Request
from ltx2rt.graph.pipelines.run import GeneratedClip, Run
from ltx2rt.graph.pipelines.targets import targets


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, two_stage=True, guided=False)
    check_resolution(request.height, request.width, multiple=64)


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/distilled.py @ v1.2.0."""
    request = run.request
    context = request.context or stages.encode_prompts(run, [request.prompt])[0]
    half = (request.height // 2, request.width // 2)

    video_target, audio_target = targets(request, *half)
    sigmas = distilled_sigmas()
    images = stages.encode_images(run, "image encoder 1", request.images, *half)
    video, audio = stages.prepare_states(run, video_target, audio_target, noise_scale=float(sigmas[0]), images=images)
    video, audio = stages.denoise(run, "denoise 1", sigmas, video, audio, context)
    upscaled = stages.upscale_latent(run, video_latent(video, video_target))

    video_target, audio_target = targets(request, request.height, request.width)
    sigmas = distilled_stage_2_sigmas()
    images = stages.encode_images(run, "image encoder 2", request.images, request.height, request.width)
    video, audio = stages.prepare_states(
        run,
        video_target,
        audio_target,
        noise_scale=float(sigmas[0]),
        images=images,
        initial_video=upscaled,
        initial_audio=audio_latent(audio, audio_target),
    )
    video, audio = stages.denoise(run, "denoise 2", sigmas, video, audio, context)
    return stages.finish(run, video_latent(video, video_target), audio_latent(audio, audio_target))

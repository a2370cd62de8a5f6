"""The one-stage pipeline: guided sampling of a dev checkpoint at full size."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_geometry import check_resolution
from ltx2rt.graph.diffusion.latent_state import audio_latent, video_latent
from ltx2rt.graph.diffusion.schedules import ltx2_sigmas
from ltx2rt.graph.pipelines import stages
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext
from ltx2rt.graph.pipelines.request import Request
from ltx2rt.graph.pipelines.run import GeneratedClip, Run
from ltx2rt.graph.pipelines.targets import targets


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, two_stage=False, guided=True)
    check_resolution(request.height, request.width, multiple=32)


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_one_stage.py @ v1.2.0."""
    request = run.request
    positive, negative = contexts(run)
    video_target, audio_target = targets(request, request.height, request.width)
    sigmas = ltx2_sigmas(request.num_inference_steps)
    images = stages.encode_images(run, "image encoder", request.images, request.height, request.width)
    video, audio = stages.prepare_states(run, video_target, audio_target, noise_scale=float(sigmas[0]), images=images)
    video, audio = stages.denoise(
        run, "denoise", sigmas, video, audio, positive, negative, request.video_guider, request.audio_guider
    )
    return stages.finish(run, video_latent(video, video_target), audio_latent(audio, audio_target))


def contexts(run: Run) -> tuple[PromptContext, PromptContext | None]:
    """Contexts of the prompt and the negative prompt, from the request or from the text encoder."""
    request = run.request
    if request.context is not None:
        return request.context, request.negative_context
    positive, negative = stages.encode_prompts(run, [request.prompt, request.negative_prompt])
    return positive, negative

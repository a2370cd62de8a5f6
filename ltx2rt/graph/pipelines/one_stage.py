"""The one-stage pipeline: guided sampling of a dev checkpoint at full size."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_state import audio_latent, video_latent
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state, image_items, video_state
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=32, guided=True)


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_one_stage.py @ v1.2.0."""
    request = run.request
    positive, negative = guided_contexts(run)
    video_target, audio_target = targets(request, request.height, request.width)
    sampling = guided_sampling(
        request,
        run.files.loras,
        video_guider=request.video_guider,
        audio_guider=request.audio_guider,
    )
    images = encode_images(run, "image encoder", request.height, request.width)
    items = image_items(request.images, images)
    start = video_state(run, video_target, noise_scale=sampling.noise_scale, items=items)
    sound = audio_state(run, audio_target, noise_scale=sampling.noise_scale)
    video, audio = denoise(run, "denoise", sampling, start, sound, positive, negative)
    assert video is not None
    assert audio is not None
    return finish(run, video_latent(video, video_target), audio_latent(audio, audio_target))

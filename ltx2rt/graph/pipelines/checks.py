"""Checks of a request against its files, made before anything is loaded."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import check_frame_rate, check_num_frames
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.request import Request


def check_request(request: Request, files: ModelFiles, *, two_stage: bool, guided: bool) -> None:
    """What every pipeline requires.

    Raises:
        UsageError: a value or a combination cannot work; the message says what to give.
    """
    request.check()
    check_num_frames(request.num_frames)
    check_frame_rate(float(request.frame_rate))
    if request.context is None and files.text_encoder is None:
        raise UsageError("the text encoder is missing; give the Gemma folder with --gemma-root, or --embedding.")
    if two_stage and files.spatial_upscaler is None:
        raise UsageError("this pipeline works in two stages; give the upscaler with --spatial-upsampler-path.")
    if guided:
        needs_negative = request.video_guider.needs_uncond or request.audio_guider.needs_uncond
        if request.context is not None and request.negative_context is None and needs_negative:
            raise UsageError(
                "the embedding holds no negative prompt, which classifier-free guidance needs; encode it with one, "
                "or turn guidance off with scales of 1."
            )

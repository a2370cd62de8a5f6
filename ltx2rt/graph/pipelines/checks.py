"""Checks of a request against its files, made before anything is loaded."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import check_frame_rate, check_num_frames, check_resolution
from ltx2rt.graph.models.upscaler.model import LatentUpscalerConfig
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request


def check_request(
    request: Request,
    files: ModelFiles,
    *,
    multiple: int | None,
    upscaler: bool = False,
    guided: bool = False,
    distilled_lora: bool = False,
) -> None:
    """What every pipeline requires.

    Args:
        request, files: what is asked for and what is there.
        multiple: of which height and width must be multiples; None: no video.
        upscaler: a spatial upscaler is needed.
        guided: a negative context is needed where classifier-free guidance is on.
        distilled_lora: the distilled LoRA is needed.

    Raises:
        UsageError: a value or a combination cannot work; the message says what to give.
    """
    request.check()
    check_num_frames(request.num_frames)
    check_frame_rate(float(request.frame_rate))
    if multiple is not None:
        check_resolution(request.height, request.width, multiple=multiple)
    if request.context is None and files.text_encoder is None:
        raise UsageError("the text encoder is missing; give the Gemma folder with --gemma-root, or --embedding.")
    if upscaler and files.spatial_upscaler is None:
        raise UsageError("this pipeline works in two stages; give the upscaler with --spatial-upsampler-path.")
    if upscaler and files.spatial_upscaler is not None:
        config = LatentUpscalerConfig.from_dict(files.spatial_upscaler.section("upscaler"))
        if (config.up, config.down) != (2, 1):
            raise UsageError(
                f"this pipeline doubles the size between its stages, but {files.spatial_upscaler.path} enlarges "
                f"{config.up / config.down:g} times; give the x2 upscaler."
            )
    for wanted, file, axis in (
        (request.upscale_spatial, files.spatial_upscaler, "spatial"),
        (request.upscale_temporal, files.temporal_upscaler, "temporal"),
    ):
        if wanted and file is None:
            raise UsageError(f"--upscale-{axis} needs its upscaler; give it with --{axis}-upsampler-path.")
    if distilled_lora and not files.distilled_lora:
        raise UsageError("the second stage of this pipeline needs the distilled LoRA; give it with --distilled-lora.")
    if guided:
        needs_negative = request.video_guider.needs_uncond or request.audio_guider.needs_uncond
        if request.context is not None and request.negative_context is None and needs_negative:
            raise UsageError(
                "the embedding holds no negative prompt, which classifier-free guidance needs; encode it with one, "
                "or turn guidance off with scales of 1."
            )

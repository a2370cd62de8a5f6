"""The IC-LoRA pipeline: control videos, appended as reference tokens, steer the first of two distilled stages."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.attention_masks import mask_video_to_tokens
from ltx2rt.graph.diffusion.conditioning import (
    AppendReferenceVideo,
    WithAttentionStrength,
    reference_frame_indices,
)
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import positive_context


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=64, upscaler=not request.skip_stage_2)
    if not files.loras:
        raise UsageError("ic-lora needs an IC-LoRA; give --lora FILE STRENGTH.")
    if not request.references and not request.images:
        raise UsageError("ic-lora needs a control video or an image; give --video-conditioning FILE STRENGTH.")
    downscale, _ = reference_factors(files)
    if (request.height // 2) % (32 * downscale) or (request.width // 2) % (32 * downscale):
        raise UsageError(
            f"this IC-LoRA takes references at 1/{downscale} of the size: height and width must be multiples of "
            f"{64 * downscale}, got {request.height}x{request.width}."
        )
    mask = request.attention_mask
    if mask is not None and not 0.0 <= mask.strength <= 1.0:
        raise UsageError(f"the attention strength must be between 0 and 1, got {mask.strength}.")


def generate(run: Run) -> GeneratedClip:
    """The second stage refines without any LoRA and without the references.

    Source: Lightricks/LTX-2 ltx_pipelines/ic_lora.py @ v1.2.0.
    """
    conditions = Conditions(positive_context(run))
    first = first_stage(run, Sampling(distilled_sigmas(), run.files.loras), conditions, lambda: reference_items(run))
    if run.request.skip_stage_2:
        return finish(run, first.video, first.audio)
    final = second_stage(run, Sampling(distilled_stage_2_sigmas()), conditions, first)
    return finish(run, final.video, final.audio)


def reference_factors(files: ModelFiles) -> tuple[int, int]:
    """(spatial downscale, temporal scale) of the references, as the LoRAs' metadata says; they must agree."""
    factors = []
    for name in ("reference_downscale_factor", "reference_temporal_scale_factor"):
        values = {getattr(lora, name) for lora, _ in files.loras} - {1}
        if len(values) > 1:
            raise UsageError(f"the LoRAs state different {name} values, {sorted(values)}; use one of them at a time.")
        factors.append(values.pop() if values else 1)
    return factors[0], factors[1]


def reference_items(run: Run) -> list[VideoItem]:
    """The control videos, encoded at the reference size of the first stage."""
    request = run.request
    downscale, temporal_scale = reference_factors(run.files)
    height, width = request.height // 2, request.width // 2
    small = (height // downscale, width // downscale)
    clips = []
    for reference in request.references:
        frames = reference.frames(*small, request.num_frames)
        if temporal_scale != 1:
            frames = frames[reference_frame_indices(len(frames), temporal_scale)]
        clips.append(frames[: (len(frames) - 1) // 8 * 8 + 1])
    items: list[VideoItem] = []
    for reference, latent in zip(request.references, encode_pixels(run, "reference encoder", clips), strict=True):
        item = AppendReferenceVideo(latent, downscale, temporal_scale, reference.strength)
        mask = request.attention_mask
        if mask is None or (mask.weights is None and mask.strength == 1.0):
            items.append(item)
        elif mask.weights is None:
            items.append(WithAttentionStrength(item, mask.strength))
        else:
            _, f, h, w, _ = latent.shape
            weights = mask.weights(*small, request.num_frames)[None]
            tokens = mask_video_to_tokens(weights, VideoLatentShape(f, h, w)) * mask.strength
            items.append(WithAttentionStrength(item, tokens))
    return items

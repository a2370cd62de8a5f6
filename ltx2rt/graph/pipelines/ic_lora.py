"""The IC-LoRA pipeline: control videos, appended as reference tokens, steer the first of two distilled stages."""

from __future__ import annotations

import logging

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.attention_masks import mask_video_to_tokens
from ltx2rt.graph.diffusion.conditioning import (
    AppendReferenceVideo,
    WithAttentionStrength,
    reference_frame_indices,
)
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.settings.settings import CLIP_COLOURS, GENERATED_KEYFRAMES, NEW_CLIP, REFERENCES
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import open_references
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=2, upscaler=not inputs.settings.skip_stage_2)
    if not files.loras:
        raise UsageError(f"{PIPELINE.name} needs an IC-LoRA; give {spelled('loras')}.")
    if not inputs.media.references and not inputs.media.images:
        raise UsageError(f"{PIPELINE.name} needs a control video or an image; give {spelled('video_conditioning')}.")
    downscale, _ = reference_factors(inputs, files)
    stated = inputs.settings.reference_downscale_factor or any(lora.stated_factor("spatial") for lora, _ in files.loras)
    if inputs.media.references and not stated:
        log.warning(
            "%s: states no reference_downscale_factor; 1 is assumed, references of the full size (%s says otherwise)",
            ", ".join(str(lora.path) for lora, _ in files.loras),
            spelled("reference_downscale_factor", "N"),
        )
    multiple = 2 * files.config(VIDEO_VAE).spatial_factor * downscale
    if inputs.height % multiple or inputs.width % multiple:
        raise UsageError(
            f"this IC-LoRA takes references at 1/{downscale} of the size: height and width must be multiples of "
            f"{multiple}, got {inputs.height}x{inputs.width}."
        )
    mask = inputs.media.attention_mask
    if mask is not None and not 0.0 <= mask.strength <= 1.0:
        raise UsageError(f"the attention strength must be between 0 and 1, got {mask.strength}.")


def generate(run: Run) -> GeneratedClip:
    """The second stage refines without any LoRA and without the references.

    Source: Lightricks/LTX-2 ltx_pipelines/ic_lora.py @ v1.2.0.
    """
    conditions = Conditions(positive_context(run))
    first = first_stage(run, Sampling(distilled_sigmas(), run.files.loras), conditions, lambda: reference_items(run))
    if run.inputs.settings.skip_stage_2:
        return finish(run, first.video, first.audio, keyframes=first.keyframes)
    final = second_stage(run, Sampling(distilled_stage_2_sigmas()), conditions, first)
    return finish(run, final.video, final.audio, keyframes=final.keyframes)


def reference_factors(inputs: GenerationInputs, files: WeightSet) -> tuple[int, int]:
    """(spatial downscale, temporal scale) of the references: as given, or as the LoRAs' metadata say, which must agree.

    Raises:
        UsageError: they do not.
    """
    given = inputs.settings.reference_downscale_factor
    spatial = _stated(files, "spatial") if given is None else given
    return spatial, _stated(files, "temporal")


def _stated(files: WeightSet, axis: str) -> int:
    """What the LoRAs state; 1 where none states anything."""
    values = {lora.stated_factor(axis) or 1 for lora, _ in files.loras} - {1}
    if len(values) > 1:
        raise UsageError(
            f"the LoRAs state different {axis} factors of the references, {sorted(values)}; use one of them at a time."
        )
    return values.pop() if values else 1


def reference_items(run: Run) -> list[VideoItem]:
    """The control videos, encoded at the reference size of the first stage."""
    inputs, vae = run.inputs, run.files.config(VIDEO_VAE)
    downscale, temporal_scale = reference_factors(inputs, run.files)
    height, width = inputs.height // 2, inputs.width // 2
    small = (height // downscale, width // downscale)
    clips = []
    for reference in inputs.media.references:
        frames = reference.frames(*small, inputs.num_frames)
        count = frames.shape[0]
        chosen = range(count) if temporal_scale == 1 else reference_frame_indices(count, temporal_scale)
        clips.append(frames.selected(chosen[: vae.pixel_frames(vae.latent_frames(len(chosen)))]))
    reading = max((reference.reading_bytes for reference in inputs.media.references), default=0)
    latents = encode_pixels(run, "reference encoder", clips, reading)
    items: list[VideoItem] = []
    for reference, latent in zip(inputs.media.references, latents, strict=True):
        item = AppendReferenceVideo(latent, downscale, temporal_scale, reference.strength)
        mask = inputs.media.attention_mask
        if mask is None or (mask.weights is None and mask.strength == 1.0):
            items.append(item)
        elif mask.weights is None:
            items.append(WithAttentionStrength(item, mask.strength))
        else:
            _, f, h, w, _ = latent.shape
            weights = mask.weights(*small, inputs.num_frames)[None]
            tokens = mask_video_to_tokens(weights, VideoLatentShape(f, h, w)) * mask.strength
            items.append(WithAttentionStrength(item, tokens))
    return items


PIPELINE = PipelineEntry(
    name="ic-lora",
    summary="control videos steer the clip",
    checkpoint="distilled, with upscaler and IC-LoRA",
    size="multiples of 64",
    example='--pipeline ic-lora --prompt "a red circle moves left" --video-conditioning {clip}',
    open_media=open_references,
    files=("spatial_upscaler", "loras"),
    variant="distilled",
    two_stage=True,
    topics=NEW_CLIP | {GENERATED_KEYFRAMES, REFERENCES, CLIP_COLOURS},
    check=check,
    generate=generate,
)

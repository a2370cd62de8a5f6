"""The alpha-gen pipeline: pictures without sound, made of reference videos by a dev checkpoint with an IC-LoRA."""

from __future__ import annotations

import logging
from dataclasses import replace

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_state import video_latent
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.defaults import GenerationDefaults
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.references import check_references, reference_items
from ltx2rt.graph.settings.settings import (
    AUDIO_GUIDANCE,
    AUDIO_MODALITY_GUIDANCE,
    CLIP_COLOURS,
    DURATION,
    GUIDANCE,
    NEW_CLIP,
    REFERENCE_SIZE,
    REFERENCES,
)
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import image_items, video_state
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import open_references
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import video_target
from ltx2rt.graph.stages.text.stage import guided_contexts, positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)

# Up to where the model card says that it works.
_LARGEST_PIXELS = 1920 * 1088
_MOST_FRAMES = 145


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=1, guided=True, needs_prompt=False)
    if files.checkpoint.variant == "distilled":
        raise UsageError(
            f"{PIPELINE.name} runs on a dev checkpoint, as the release does; {files.checkpoint.path} is a distilled "
            "one, with which the LoRA's card says it is used as well, but not with which steps and noise levels. Give "
            "the dev checkpoint."
        )
    if not files.loras:
        raise UsageError(f"{PIPELINE.name} needs its IC-LoRA; give {spelled('loras')}.")
    if not inputs.media.references:
        raise UsageError(
            f"{PIPELINE.name} needs at least one reference video; give {spelled('video_conditioning', 'FILE')}."
        )
    check_references(inputs, files, smallest=1)
    if inputs.height * inputs.width > _LARGEST_PIXELS or inputs.num_frames > _MOST_FRAMES:
        log.warning(
            "%s is described for up to 1920x1088 pixels and %d frames; this clip is %dx%d with %d",
            PIPELINE.name,
            _MOST_FRAMES,
            inputs.width,
            inputs.height,
            inputs.num_frames,
        )


def generate(run: Run) -> GeneratedClip:
    """There is no sound, neither beside the pictures in the transformer nor in the clip.

    Source: Lightricks/LTX-2 ltx_pipelines/alpha_gen.py @ 1.4.2, by its description.
    """
    inputs = run.inputs
    guided = inputs.video_guider.needs_uncond
    positive, negative = guided_contexts(run) if guided else (positive_context(run), None)
    target = video_target(run, inputs.height, inputs.width)
    sampling = guided_sampling(inputs, run.files.loras, video_guider=inputs.video_guider)
    images = encode_images(run, "image encoder", inputs.height, inputs.width)
    items = [
        *image_items(inputs.media.images, images),
        *reference_items(run, "reference encoder", inputs.height, inputs.width),
    ]
    start = video_state(run, target, noise_scale=1.0, items=items)
    video, _ = denoise(run, "denoise", sampling, start, None, positive, negative)
    assert video is not None
    return finish(run, video_latent(video, target), None)


def _defaults(defaults: GenerationDefaults) -> GenerationDefaults:
    """Of the release: without guidance, and with a negative prompt of its own."""
    video = replace(defaults.video_guider, cfg_scale=1.0, stg_scale=0.0, rescale_scale=0.7, modality_scale=1.0)
    return replace(
        defaults,
        video_guider=video,
        negative_prompt="worst quality, inconsistent motion, blurry, jittery, distorted",
    )


PIPELINE = PipelineEntry(
    name="alpha-gen",
    summary="pictures that an IC-LoRA makes of a reference video, without sound",
    checkpoint="dev, with alpha LoRA",
    size="multiples of 32",
    example='--pipeline alpha-gen --prompt "a red circle moves left" --video-conditioning {clip}',
    open_media=open_references,
    files=("loras",),
    silent=True,
    adjusted=_defaults,
    aliases=("alphagen",),
    topics=NEW_CLIP
    | {DURATION, REFERENCES, REFERENCE_SIZE, CLIP_COLOURS}
    | GUIDANCE - {AUDIO_GUIDANCE, AUDIO_MODALITY_GUIDANCE},
    check=check,
    generate=generate,
)

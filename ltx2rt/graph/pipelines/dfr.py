"""The DFR pipeline (Diffusion Fidelity Rendering): two distilled stages held together by key frames, then rounds that
double the frame rate, and one that doubles the size."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TEMPORAL_UPSCALER, VIDEO_VAE
from ltx2rt.graph.diffusion.conditioning import AppendReferenceVideo, GeneratedKeyframes
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_inputs, check_planes, no_keyframes
from ltx2rt.graph.pipelines.dfr_epilogue import MOST_TILES, OVERLAP, doubled_size
from ltx2rt.graph.pipelines.dfr_pass import (
    DETAIL_STRENGTH,
    Film,
    carrying,
    played_rate,
    reference_scale,
    sound_target,
    video_target,
    with_detail,
)
from ltx2rt.graph.pipelines.dfr_plan import CELL_FRAMES, Canvas, canvas_of, doubled
from ltx2rt.graph.pipelines.dfr_rounds import STEPS_OF_PART, doubled_rate
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.refinement import STAGE_1_SEED, STAGE_2_SEED, Latents, distilled_sampler, sample_both
from ltx2rt.graph.settings.settings import DURATION, ENLARGING, FIDELITY, NEW_CLIP
from ltx2rt.graph.stages.decode.stage import KeyFramePlanes, finish, upscale_latents
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem, image_items
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.events import StepsCounted
from ltx2rt.graph.stages.inputs import GenerationInputs, PromptContext
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import video_shape
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.tile_splits import fitting_count
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    settings = inputs.settings
    if said := no_keyframes(files):
        raise UsageError(f"{PIPELINE.name} holds the clip together with key frames: {said}; give its checkpoint.")
    check_inputs(inputs, files, stages=1 + settings.spatial_upscalings, upscaler=True, detailing_lora=True)
    if inputs.num_frames < 2:
        raise UsageError(f"{spelled('num_frames')}: the canvas needs at least 2 pixel frames, got {inputs.num_frames}.")
    if settings.temporal_upscalings and not files.has(TEMPORAL_UPSCALER):
        raise UsageError(
            f"{spelled('temporal_upscalings', str(settings.temporal_upscalings))} requires the temporal upscaler; give "
            f"{spelled('temporal_upscaler', 'FILE')}."
        )
    factor = files.config(VIDEO_VAE).temporal_factor
    if factor != CELL_FRAMES:
        raise UsageError(
            f"{files.source(VIDEO_VAE).path} has {factor} frames to a latent frame, {PIPELINE.name} is made for "
            f"{CELL_FRAMES}; give the video VAE of LTX-2.5."
        )
    for lora, strength in files.detailing_lora:
        if strength not in (1.0, DETAIL_STRENGTH):
            log.warning("%s: its strength here is always %g, not %g", lora.path, DETAIL_STRENGTH, strength)
        if lora.stated_factor("spatial") is None:
            log.warning(
                "%s: states no reference_downscale_factor; 1 is assumed, references of the full size", lora.path
            )
    if settings.spatial_upscalings == 2:
        _say_tiles(inputs, files)
    if not settings.latents_only:
        check_planes(
            files,
            "the clip is decoded without them",
            f"give the video VAE of LTX-2.5 as published, or {spelled('video_decoder', 'conv')}",
        )


def _say_tiles(inputs: GenerationInputs, files: WeightSet) -> None:
    """Say where the round at full size has fewer tiles than usual, or such that share less."""
    factor = files.config(VIDEO_VAE).spatial_factor
    for name, side in (("height", inputs.height), ("width", inputs.width)):
        tiles, overlap = fitting_count(side // factor, MOST_TILES, OVERLAP)
        if (tiles, overlap) != (MOST_TILES, OVERLAP):
            log.warning(
                "%s of %d is little for the tiles of the round at full size: %d of them share %d cells, not %d that "
                "share %d",
                name,
                side,
                tiles,
                overlap,
                MOST_TILES,
                OVERLAP,
            )


def generate(run: Run) -> GeneratedClip:
    """The sound is that of the first stage.

    Source: Lightricks/LTX-2 ltx_pipelines/dfr_pipeline.py @ 1.4.
    """
    settings = run.inputs.settings
    run.emit(StepsCounted(sampler_steps(run.inputs)))
    context = positive_context(run)
    film = _refined(run, context, canvas_of(run.inputs.num_frames))
    for _ in range(settings.temporal_upscalings):
        film = doubled_rate(run, context, film)
    if settings.spatial_upscalings == 2:
        film = doubled_size(run, context, film)
    return _finished(run, film)


def first_shape(inputs: GenerationInputs, files: WeightSet) -> VideoLatentShape:
    """The canvas at the size of the first stage."""
    canvas, stages = canvas_of(inputs.num_frames), inputs.settings.spatial_upscalings
    longer = replace(inputs, num_frames=canvas.frames)
    return video_shape(files, longer, inputs.height >> stages, inputs.width >> stages)


def sampler_steps(inputs: GenerationInputs) -> int:
    """Of all stages, rounds and parts."""
    rounds = inputs.settings.temporal_upscalings
    segments = len(canvas_of(inputs.num_frames).slots)
    # A round begins with twice the segments of the one before, but for the first.
    parts = [min(1 << number, segments << (number - 1)) for number in range(1, rounds + 1)]
    steps = len(distilled_sigmas()) - 1 + len(distilled_stage_2_sigmas()) - 1 + STEPS_OF_PART * sum(parts)
    if inputs.settings.spatial_upscalings == 2:
        steps += (len(distilled_stage_2_sigmas()) - 1) * (parts[-1] if parts else 1)
    return steps


def _refined(run: Run, context: PromptContext, canvas: Canvas) -> Film:
    """The canvas after the first two stages."""
    height, width = (side >> run.inputs.settings.spatial_upscalings for side in (run.inputs.height, run.inputs.width))
    images = encode_images(run, "image encoder 1", height, width)
    stage_1 = Sampling(distilled_sigmas(), run.files.loras, distilled_sampler(run, STAGE_1_SEED))
    slots = GeneratedKeyframes(canvas.slots)
    first = _stage(run, "denoise 1", stage_1, context, canvas, (height, width), [*_shown(run, images), slots])
    with carrying(run, first.video, first.audio) as carry:
        video, keyframes = upscale_latents(run, first.video, first.keyframes)
        height, width = 2 * height, 2 * width
        images = encode_images(run, "image encoder 2", height, width)
        carry(video, keyframes, *images)
        stage_2 = Sampling(distilled_stage_2_sigmas(), with_detail(run), distilled_sampler(run, STAGE_2_SEED))
        items = [
            *_shown(run, images),
            GeneratedKeyframes(canvas.slots, keyframes),
            AppendReferenceVideo(first.video, reference_scale(run)),
        ]
        upscaled = Latents(video, first.audio)
        second = _stage(run, "denoise 2", stage_2, context, canvas, (height, width), items, upscaled)
    assert second.keyframes is not None
    planes = {frame: second.keyframes[:, index : index + 1] for index, frame in enumerate(canvas.slots)}
    return Film(canvas, 0, second.video, planes, first.audio, images)


def _shown(run: Run, images: list[Float32Array]) -> list[VideoItem]:
    return image_items(run.inputs.media.images, images)


def _stage(
    run: Run,
    name: str,
    sampling: Sampling,
    context: PromptContext,
    canvas: Canvas,
    size: tuple[int, int],
    items: list[VideoItem],
    initial: Latents | None = None,
) -> Latents:
    """The canvas at ``size`` pixels after one stage."""
    vae = run.files.config(VIDEO_VAE)
    rows, columns = (side // vae.spatial_factor for side in size)
    video = video_target(run, (vae.latent_frames(canvas.frames), rows, columns), 0)
    targets = (video, sound_target(run, canvas.frames, run.inputs.frame_rate))
    return sample_both(
        run,
        name,
        sampling,
        (context, None),
        targets,
        items,
        video=None if initial is None else initial.video,
        sound=None if initial is None else initial.audio,
    )


def _finished(run: Run, film: Film) -> GeneratedClip:
    """The frames and the sound that were asked for; what lies behind them is left away."""
    frames = doubled(run.inputs.num_frames, film.rounds)
    video = film.video[:, : run.files.config(VIDEO_VAE).latent_frames(frames)]
    positions = [frame for frame in film.keyframes if frame < frames]
    planes = None
    if positions:
        planes = KeyFramePlanes(np.concatenate([film.keyframes[frame] for frame in positions], axis=1), positions)
    clip = finish(run, video, film.sound, planes=planes)
    rate = played_rate(run, film.rounds)
    samples = round(frames / rate * clip.sample_rate)
    return replace(clip, frame_rate=rate, audio=None if clip.audio is None else clip.audio[:samples])


PIPELINE = PipelineEntry(
    name="dfr",
    summary="distilled stages that key frames hold together; up to four times the frame rate and 4K",
    checkpoint="distilled, of LTX-2.5, with upscalers and detailing LoRA",
    size="multiples of 64 or 128",
    example='--prompt "a red circle moves left" --upscale-temporal',
    example_shows="the temporal upscaler alone: the embedded model is of LTX-2",
    instead={"upscale_spatial": "spatial_upscalings", "upscale_temporal": "temporal_upscalings"},
    files=("spatial_upscaler", "detailing_lora"),
    variant="distilled",
    two_stage=True,
    first_shape=first_shape,
    enhancement_seed=42,
    aliases=("dfr-pipeline",),
    topics=NEW_CLIP - {ENLARGING} | {DURATION, FIDELITY},
    check=check,
    generate=generate,
)

"""The IC-LoRA pipeline: control videos, appended as reference tokens, steer the first or all of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.samplers import check_sigmas
from ltx2rt.graph.diffusion.schedules import distilled_sigmas, distilled_stage_2_sigmas
from ltx2rt.graph.diffusion.tiles import TileGrid
from ltx2rt.graph.models.video_vae.tiling import Tiling, encode_plan
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.references import check_references, check_windows, reference_clip, reference_items
from ltx2rt.graph.pipelines.refinement import Conditions, Latents, sample
from ltx2rt.graph.settings.inputs import IcLoraStage
from ltx2rt.graph.settings.settings import (
    CHUNKS,
    CLIP_COLOURS,
    CONTROL,
    GENERATED_KEYFRAMES,
    NEW_CLIP,
    REFERENCE_SIZE,
    REFERENCES,
    STAGES,
    Settings,
)
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.graph.stages.decode.stage import finish, upscale_latents
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.inputs import GenerationInputs, ReferenceVideo
from ltx2rt.graph.stages.media_inputs import open_references
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import video_shape
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import in_windows
from ltx2rt.spelling import spelled

_TILE = (1024, 1536)  # (height, width) in pixels where nothing else is said


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    _check_options(inputs.settings)
    stages = _stages(inputs)
    _check_ladder(inputs, stages)
    halvings = stages[0].divisor.bit_length() - 1
    check_inputs(inputs, files, stages=halvings + 1, upscaler=len({stage.divisor for stage in stages}) > 1)
    if not files.loras:
        raise UsageError(f"{PIPELINE.name} needs an IC-LoRA; give {spelled('loras')}.")
    if not inputs.media.references and not inputs.media.images:
        raise UsageError(f"{PIPELINE.name} needs a control video or an image; give {spelled('video_conditioning')}.")
    seen = [stage.divisor for stage in stages if stage.with_reference]
    check_references(inputs, files, smallest=max(seen, default=1))
    _check_tiles(inputs, files, stages)
    if seen:
        check_windows(inputs, files)
    mask = inputs.media.attention_mask
    if mask is not None and not 0.0 <= mask.strength <= 1.0:
        raise UsageError(f"conditioning_attention_strength must be in [0.0, 1.0], got {mask.strength}.")


def generate(run: Run) -> GeneratedClip:
    """Stages from small to full size, window by window. Where a stage has no reference, it has no LoRA either.

    Source: Lightricks/LTX-2 ltx_pipelines/ic_lora.py @ 1.4.
    """
    conditions = Conditions(positive_context(run))
    return in_windows(run, lambda part: _window(part, conditions))


def _window(run: Run, conditions: Conditions) -> GeneratedClip:
    made: Latents | None = None
    divisor = 0
    for number, stage in enumerate(_stages(run.inputs), 1):
        height, width = run.inputs.height // stage.divisor, run.inputs.width // stage.divisor
        if made is not None and stage.divisor != divisor:
            name = "spatial upscaler" if number == 2 else f"spatial upscaler {number - 1}"
            video, keyframes = upscale_latents(run, made.video, made.keyframes, name)
            made = replace(made, video=video, keyframes=keyframes)
        divisor = stage.divisor
        images = encode_images(run, f"image encoder {number}", height, width)
        items = []
        if stage.with_reference:
            tiling = _encoder_tiling(run.inputs, run.files, stage)
            items = reference_items(run, f"reference encoder {number}", height, width, tiling)
        sampling = Sampling(
            _sigmas(stage, number),
            run.files.loras if stage.with_reference else (),
            tiles=_tile_grid(stage, video_shape(run.files, run.inputs, height, width), run.files),
            advice=f"give {spelled('tile')}" if stage.tile is None else smaller("tile_height", "tile_width"),
        )
        made = sample(run, f"denoise {number}", sampling, conditions, height, width, images, items, (), made)
    assert made is not None
    return finish(run, made.video, made.audio, keyframes=made.keyframes, carried=made.carried)


def _stages(inputs: GenerationInputs) -> tuple[IcLoraStage, ...]:
    """The stages that the settings ask for."""
    settings = inputs.settings
    if settings.stages:
        return settings.stages
    tile = (settings.tile_height or _TILE[0], settings.tile_width or _TILE[1]) if settings.tile else None
    first = IcLoraStage(2, tile=tile)
    if settings.skip_stage_2:
        return (first,)
    return first, IcLoraStage(1, settings.stage_2_ic_lora, tile=tile)


def _sigmas(stage: IcLoraStage, number: int) -> Float32Array:
    if stage.sigmas is not None:
        return check_sigmas(stage.sigmas)
    return distilled_sigmas() if number == 1 else distilled_stage_2_sigmas()


def _tile_grid(stage: IcLoraStage, shape: VideoLatentShape, files: WeightSet) -> TileGrid | None:
    """The tiles of a stage, which overlap by half in whole cells; None: one would see everything."""
    if stage.tile is None:
        return None
    cell = files.config(VIDEO_VAE).spatial_factor
    height, width = stage.tile
    grid = TileGrid.by_size(shape, (height // cell, width // cell), (height // 2 // cell, width // 2 // cell))
    return grid if len(grid) > 1 else None


def _check_options(settings: Settings) -> None:
    """Raise UsageError for options that contradict each other."""
    given = settings.given()
    sizes = f"{spelled('tile_height')} and {spelled('tile_width')}"
    if not settings.tile and ("tile_height" in given or "tile_width" in given):
        raise UsageError(f"{sizes} require {spelled('tile')}; give it, too, or leave them out.")
    usual = ("skip_stage_2", "stage_2_ic_lora", "tile")
    if settings.stages and (both := [spelled(name) for name in usual if name in given]):
        raise UsageError(f"{', '.join(both)}: {spelled('stages')} say that themselves; give one of them.")
    if settings.skip_stage_2 and settings.stage_2_ic_lora:
        raise UsageError(
            f"{spelled('stage_2_ic_lora')} is for the stage that {spelled('skip_stage_2')} leaves out; give one of the "
            "two."
        )


def _check_ladder(inputs: GenerationInputs, stages: Sequence[IcLoraStage]) -> None:
    """Raise UsageError unless sizes rise to the full one, by twice or not at all, with schedules that fall."""
    divisors, named = [stage.divisor for stage in stages], spelled("stages")
    steps = [(before, after) for before, after in pairwise(divisors) if after not in (before, before / 2)]
    if divisors[-1] < 1 or steps or (divisors[-1] != 1 and not inputs.settings.skip_stage_2):
        raise UsageError(
            f"{named}: each divisor is that of the stage before or half of it, and the last one is 1; got {divisors}."
        )
    for number, stage in enumerate(stages, 1):
        try:
            _sigmas(stage, number)
        except ValueError as error:
            raise UsageError(f"{named}: stage {number}: {error}") from error


def _check_tiles(inputs: GenerationInputs, files: WeightSet, stages: Sequence[IcLoraStage]) -> None:
    """Raise UsageError for tiles of a size that cannot be, or without what keeps them together."""
    sizes = f"{spelled('tile_height')} and {spelled('tile_width')}"
    cell = files.config(VIDEO_VAE).spatial_factor
    for stage in stages:
        if stage.tile is None:
            continue
        height, width = stage.tile
        if min(height, width) < 2 * cell:
            raise UsageError(f"{sizes} must be at least {2 * cell} pixels, got {height}x{width}.")
        if height % cell or width % cell:
            raise UsageError(f"{sizes} must be divisible by {cell}, got {height}x{width}.")
        if stage.divisor == 1 and not stage.with_reference and (inputs.height > height or inputs.width > width):
            raise UsageError(
                f"Tiled full-resolution stages need IC-LoRA on that stage. Pass {spelled('stage_2_ic_lora')}."
            )
        if stage.with_reference:
            for reference in inputs.media.references:
                _check_encoding(inputs, files, stage, reference)


def _check_encoding(inputs: GenerationInputs, files: WeightSet, stage: IcLoraStage, reference: ReferenceVideo) -> None:
    """Raise UsageError for decoder tiles in which a reference cannot be encoded."""
    height, width = inputs.height // stage.divisor, inputs.width // stage.divisor
    vae, clip = files.config(VIDEO_VAE), reference_clip(inputs, files, height, width, reference)
    tiling = _encoder_tiling(inputs, files, stage)
    if tiling is not None and clip.shape[0] > 1:
        factors = {"temporal_factor": vae.temporal_factor, "spatial_factor": vae.spatial_factor}
        encode_plan(clip.shape[:3], tiling, **factors)


def _encoder_tiling(inputs: GenerationInputs, files: WeightSet, stage: IcLoraStage) -> Tiling | None:
    """Tiles in which the references of a stage are encoded: where the stage has tiles, those of the final decoding."""
    tiling = inputs.settings.tiling
    if stage.tile is None or tiling == "none":
        return None
    if isinstance(tiling, Tiling):
        return tiling
    return Tiling.auto(inputs.height, inputs.width, files.config(VIDEO_VAE).spatial_factor)


PIPELINE = PipelineEntry(
    name="ic-lora",
    summary="control videos steer the clip, in tiles where it is large",
    checkpoint="distilled, with upscaler and IC-LoRA",
    size="multiples of 64",
    example='--pipeline ic-lora --prompt "a red circle moves left" --video-conditioning {clip}',
    open_media=open_references,
    files=("spatial_upscaler", "loras"),
    variant="distilled",
    two_stage=True,
    topics=NEW_CLIP | {CHUNKS, GENERATED_KEYFRAMES, REFERENCES, REFERENCE_SIZE, CONTROL, CLIP_COLOURS, STAGES},
    check=check,
    generate=generate,
)

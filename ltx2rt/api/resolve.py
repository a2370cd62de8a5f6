"""Fills in what a user left open, and turns settings into the request that a pipeline checks and runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt.api.media_inputs import (
    attention_mask,
    driving_sound,
    extended,
    image_condition,
    reference_video,
    retake_range,
    source_clip,
)
from ltx2rt.api.settings import AUDIO_GUIDED, EDITING, GUIDED, VIDEO_GUIDED, Settings, pipelines_of
from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import ApgOptions, GuiderParams
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.models.transformer.model import TransformerConfig
from ltx2rt.graph.pipelines.defaults import GenerationDefaults
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import PromptContext, Request
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.media.video_reader import probe_video
from ltx2rt.media.video_writer import exact_frame_rate
from ltx2rt.weights.embedding_file import read_embedding

DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurry, noisy, flickering, washed-out colours, wrong exposure, distorted faces and hands, "
    "unnatural motion, frozen picture, text overlays, watermarks, muffled or crackling sound, sound out of sync"
)

# The official code does not hand the user's seed to the enhancement in these pipelines.
_FIXED_ENHANCE_SEED = 42
_ENHANCED_WITH_FIXED_SEED = ("distilled", "audio-to-video")
_LARGEST_STEPS = 1000


def resolve(settings: Settings, pipeline: str, defaults: GenerationDefaults, *, distilled: bool) -> Settings:
    """Settings with everything decided.

    Args:
        settings: as the user gave them.
        pipeline: its name.
        defaults: of the checkpoint's generation and the pipeline.
        distilled: the run takes the fixed distilled schedule.

    Raises:
        UsageError: settings without a meaning here, or that contradict each other.
    """
    settings.require_meaning(pipeline)
    if distilled:
        meaningless = sorted({*settings.given()} & {*guidance_settings()})
        if meaningless:
            raise UsageError(
                f"{', '.join(meaningless)}: guidance has no meaning for a distilled checkpoint; leave it out or use a "
                "dev checkpoint."
            )
    _check_steps(settings, distilled)
    _check_text(settings)
    settings = settings.with_defaults(seed=defaults.seed)
    if pipeline in EDITING:
        if settings.video_path is None:
            raise UsageError(f"{pipeline} needs a clip; give --video-path FILE.")
    else:
        settings = settings.with_defaults(num_frames=defaults.num_frames, frame_rate=defaults.frame_rate)
        settings = replace(settings, frame_rate=exact_frame_rate(settings.frame_rate or 0))
        if pipeline != "text-to-audio":
            settings = settings.with_defaults(height=defaults.height, width=defaults.width)
    if settings.images:
        crf = defaults.image_crf
        settings = replace(
            settings, images=tuple(replace(i, crf=crf if i.crf is None else i.crf) for i in settings.images)
        )
    if settings.enhance_prompt:
        fixed = pipeline in _ENHANCED_WITH_FIXED_SEED
        settings = settings.with_defaults(enhance_seed=_FIXED_ENHANCE_SEED if fixed else settings.seed)
    if distilled:
        return settings
    return _with_guidance(settings, pipeline, defaults)


def _with_guidance(settings: Settings, pipeline: str, defaults: GenerationDefaults) -> Settings:
    if pipeline not in GUIDED:
        return settings
    settings = settings.with_defaults(num_inference_steps=defaults.num_inference_steps)
    if settings.embedding is None and not settings.no_gemma:
        settings = settings.with_defaults(negative_prompt=DEFAULT_NEGATIVE_PROMPT)
    video, audio = defaults.video_guider, defaults.audio_guider
    if pipeline in VIDEO_GUIDED:
        settings = settings.with_defaults(
            video_cfg_guidance_scale=video.cfg_scale,
            video_stg_guidance_scale=video.stg_scale,
            video_rescale_scale=video.rescale_scale,
            video_stg_blocks=video.stg_blocks,
            a2v_guidance_scale=video.modality_scale,
            video_skip_step=video.skip_step,
        )
    if pipeline in AUDIO_GUIDED:
        settings = settings.with_defaults(
            audio_cfg_guidance_scale=audio.cfg_scale,
            audio_stg_guidance_scale=audio.stg_scale,
            audio_rescale_scale=audio.rescale_scale,
            audio_stg_blocks=audio.stg_blocks,
            audio_skip_step=audio.skip_step,
        )
        if pipeline in pipelines_of("v2a_guidance_scale"):
            settings = settings.with_defaults(v2a_guidance_scale=audio.modality_scale)
    return settings


def guidance_settings() -> list[str]:
    """Names of the settings that only guided sampling uses."""
    guided = {GUIDED, VIDEO_GUIDED, AUDIO_GUIDED, pipelines_of("ge_gamma"), pipelines_of("v2a_guidance_scale")}
    return [entry.name for entry in fields(Settings) if pipelines_of(entry.name) in guided]


def _check_steps(settings: Settings, distilled: bool) -> None:
    steps = settings.num_inference_steps
    if steps is None:
        return
    if distilled and steps != 8:
        raise UsageError(
            f"the distilled schedule is fixed at 8 + 3 steps, got {steps}; leave --num-inference-steps out."
        )
    if not 1 <= steps <= _LARGEST_STEPS:
        raise UsageError(f"num_inference_steps must be 1 to {_LARGEST_STEPS}, got {steps}.")


def _check_text(settings: Settings) -> None:
    if settings.embedding is not None and settings.no_gemma:
        raise UsageError("--embedding and --no-gemma contradict each other; give one of them.")
    without_encoder = settings.embedding is not None or settings.no_gemma
    named = "--embedding" if settings.embedding is not None else "--no-gemma"
    if without_encoder and settings.enhance_prompt:
        raise UsageError(f"--enhance-prompt rewrites a prompt, but {named} stands in its place; leave one out.")
    if without_encoder and settings.negative_prompt is not None:
        raise UsageError(f"--negative-prompt has no effect with {named}, which brings its own; leave one out.")


def build_request(settings: Settings, pipeline: str, files: ModelFiles, *, distilled: bool, dtype: mx.Dtype) -> Request:
    """The request of resolved settings; media are probed, and read where a pipeline needs them whole.

    Raises:
        UsageError, CheckpointError, MediaError: as the inputs.
    """
    context, negative = _contexts(settings, files)
    source = region = None
    height, width = settings.height or 64, settings.width or 64
    num_frames, frame_rate = settings.num_frames or 9, settings.frame_rate or Fraction(24)
    if pipeline in EDITING:
        assert settings.video_path is not None
        info = probe_video(settings.video_path)
        source, frame_rate = source_clip(settings.video_path, info), info.frame_rate
        if pipeline == "extend":
            source, region = extended(source, settings, frame_rate)
        else:
            region = retake_range(settings, info.num_frames / float(frame_rate))
        num_frames, height, width = (int(n) for n in source.frames.shape[:3])
    video, audio = _guiders(settings, files)
    return Request(
        prompt=settings.prompt or "",
        negative_prompt=settings.negative_prompt or "",
        seed=settings.seed or 0,
        height=height,
        width=width,
        num_frames=num_frames,
        frame_rate=Fraction(frame_rate),
        num_inference_steps=settings.num_inference_steps or 8,
        video_guider=video,
        audio_guider=audio,
        images=tuple(image_condition(image, image.crf or 0) for image in settings.images),
        references=tuple(reference_video(video, settings) for video in settings.video_conditioning),
        attention_mask=attention_mask(settings),
        skip_stage_2=settings.skip_stage_2,
        sound=driving_sound(settings) if pipeline == "audio-to-video" else None,
        source=source,
        region=region,
        distilled=distilled,
        distilled_lora_strengths=(settings.distilled_lora_strength_stage_1, settings.distilled_lora_strength_stage_2),
        context=context,
        negative_context=negative,
        gradient_gamma=_in_range("ge_gamma", settings.ge_gamma, 0.0, 10.0),
        max_batch_size=int(_in_range("max_batch_size", settings.max_batch_size, 1, 8)),
        upscale_spatial=settings.upscale_spatial,
        upscale_temporal=settings.upscale_temporal,
        decode=not settings.skip_vae,
        tiling=None if settings.tiling == "none" else settings.tiling,
        dtype=dtype,
    )


def enhancement_options(settings: Settings) -> SamplingOptions:
    """How the prompt enhancement writes."""
    return SamplingOptions(
        temperature=settings.enhance_temperature,
        top_k=settings.enhance_top_k,
        top_p=settings.enhance_top_p,
        seed=settings.enhance_seed or 0,
        max_new_tokens=settings.enhance_max_tokens,
    )


def input_files(settings: Settings) -> list[Path]:
    """Every media and embedding file that the settings name."""
    single = (
        settings.embedding,
        settings.conditioning_attention_mask,
        settings.audio_path,
        settings.video_path,
    )
    named: Sequence[Any] = (*settings.images, *settings.video_conditioning)
    return [path for path in single if path is not None] + [item.path for item in named]


def _guiders(settings: Settings, files: ModelFiles) -> tuple[GuiderParams, GuiderParams]:
    layers = TransformerConfig.from_dict(files.checkpoint.section("transformer")).num_layers
    for name in ("video_stg_blocks", "audio_stg_blocks"):
        for block in getattr(settings, name) or ():
            if not 0 <= block < layers:
                raise UsageError(f"{name} must name blocks 0 to {layers - 1} of this transformer, got {block}.")
    apg = None
    cfg = {"video": settings.video_cfg_guidance_scale, "audio": settings.audio_cfg_guidance_scale}
    if not math.isclose(settings.apg_scale, 1.0):
        apg = ApgOptions(settings.apg_eta, settings.apg_norm_threshold, settings.apg_momentum)
        cfg = dict.fromkeys(cfg, settings.apg_scale)
    elif (settings.apg_eta, settings.apg_norm_threshold, settings.apg_momentum) != (1.0, 0.0, 0.0):
        raise UsageError("--apg-eta, --apg-norm-threshold and --apg-momentum need --apg-scale other than 1.")
    video = GuiderParams(
        cfg_scale=_or(cfg["video"], 1.0),
        stg_scale=_or(settings.video_stg_guidance_scale, 0.0),
        rescale_scale=_or(settings.video_rescale_scale, 0.0),
        modality_scale=_or(settings.a2v_guidance_scale, 1.0),
        skip_step=settings.video_skip_step or 0,
        stg_blocks=settings.video_stg_blocks or (),
        apg=apg,
    )
    audio = GuiderParams(
        cfg_scale=_or(cfg["audio"], 1.0),
        stg_scale=_or(settings.audio_stg_guidance_scale, 0.0),
        rescale_scale=_or(settings.audio_rescale_scale, 0.0),
        modality_scale=_or(settings.v2a_guidance_scale, 1.0),
        skip_step=settings.audio_skip_step or 0,
        stg_blocks=settings.audio_stg_blocks or (),
        apg=apg,
    )
    return video, audio


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise UsageError(f"{name} must be {low:g} to {high:g}, got {value}.")
    return value


def _contexts(settings: Settings, files: ModelFiles) -> tuple[PromptContext | None, PromptContext | None]:
    """Contexts that stand in place of the text encoder, checked against the checkpoint."""
    if settings.no_gemma:
        zeros = zero_context(files.checkpoint)
        return zeros, zeros
    if settings.embedding is None:
        return None, None
    checkpoint = files.checkpoint
    config = TransformerConfig.from_dict(checkpoint.section("transformer"))
    saved = read_embedding(settings.embedding)
    saved.require_match(
        str(settings.embedding),
        generation=checkpoint.generation or "19b",
        video_width=config.caption_channels or config.video.context_dim,
        audio_width=config.caption_channels or config.audio.context_dim,
    )
    assert saved.audio_context is not None  # require_match has refused a file without it
    positive = PromptContext(saved.video_context, saved.audio_context)
    if saved.negative_video_context is None or saved.negative_audio_context is None:
        return positive, None
    return positive, PromptContext(saved.negative_video_context, saved.negative_audio_context)

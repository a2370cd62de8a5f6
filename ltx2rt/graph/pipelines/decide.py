"""Fills in what a user left open: defaults of the pipeline and of the checkpoint's generation."""

from __future__ import annotations

import logging
import math
import secrets
from dataclasses import replace
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import counted_from_start
from ltx2rt.graph.diffusion.windows import DEFAULT_CARRY, DEFAULT_WINDOW
from ltx2rt.graph.pipelines.defaults import GenerationDefaults
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.kinds import RANDOM_SEED
from ltx2rt.graph.settings.settings import (
    AUDIO_GUIDANCE,
    AUDIO_MODALITY_GUIDANCE,
    DURATION,
    GUIDANCE,
    LENGTH,
    SIZE,
    VIDEO_GUIDANCE,
    Settings,
    names_of,
    topic_of,
)
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)

FIXED_STEPS = 8
# Shortest and longest clip in seconds where only the model decides.
USUAL_DURATION = (1.0, 20.0)


def decide(
    settings: Settings,
    entry: PipelineEntry,
    defaults: GenerationDefaults,
    *,
    fixed_schedule: bool,
    no_length: str = "",
    frames_per_latent: int,
) -> Settings:
    """Settings with everything decided.

    Args:
        settings: as the user gave them.
        entry: the pipeline.
        defaults: of the checkpoint's generation and the pipeline.
        fixed_schedule: the run takes the fixed distilled schedule.
        no_length: why the model cannot predict the length of a clip; empty: it can.
        frames_per_latent: of the video VAE.

    Raises:
        UsageError: settings without a meaning here, or that contradict each other.
    """
    _require_meaning(settings, entry)
    _require_pictures(settings)
    _require_edges(settings)
    settings = with_prompt_of_file(settings)
    if fixed_schedule:
        _require_no_guidance(settings)
    _check_text(settings)
    _check_noise(settings)
    settings = with_drawn_seed(with_defaults(settings, seed=defaults.seed))
    if LENGTH in entry.topics:
        settings = with_defaults(settings, frame_rate=defaults.frame_rate)
        settings = _with_duration(settings, frames_per_latent)
        settings = _with_length(settings, entry, defaults, no_length)
    settings = _with_windows(settings)
    if SIZE in entry.topics:
        settings = with_defaults(settings, height=defaults.height, width=defaults.width)
    if settings.images:
        settings = _with_placed_images(settings)
        images = (replace(i, crf=defaults.image_crf if i.crf is None else i.crf) for i in settings.images)
        settings = replace(settings, images=tuple(images))
    if settings.enhance_prompt:
        own = entry.enhancement_seed
        settings = with_defaults(settings, enhance_seed=settings.seed if own is None else own)
    return settings if fixed_schedule else _with_guidance(settings, entry, defaults)


def with_defaults(settings: Settings, **defaults: Any) -> Settings:
    """The settings, with ``defaults`` in place of what is None."""
    return replace(settings, **{name: value for name, value in defaults.items() if getattr(settings, name) is None})


def with_drawn_seed(settings: Settings) -> Settings:
    """The settings with a seed in place of one that is to be random."""
    if settings.seed != RANDOM_SEED:
        return settings
    return replace(settings, seed=secrets.randbelow(2**31))


def _with_duration(settings: Settings, step: int) -> Settings:
    """The settings with a number of frames in place of a duration."""
    seconds = settings.duration
    if seconds is None:
        return settings
    for name in ("num_frames", "auto_duration", "audio_max_duration"):
        if getattr(settings, name) is not None:
            raise UsageError(
                f"{spelled('duration')} and {spelled(name)} both say how long the clip is; give one of them."
            )
    if seconds <= 0:
        raise UsageError(f"{spelled('duration')} must be more than 0 seconds, got {seconds:g}.")
    assert settings.frame_rate is not None
    rate = float(settings.frame_rate)
    if not math.isfinite(seconds * rate):
        raise UsageError(f"{spelled('duration')} {seconds:g} s at {rate:g} frames/s is more than any clip; give less.")
    frames = max(round((seconds * rate - 1) / step), 0) * step + 1
    if abs(frames - seconds * rate) > 0.5:
        log.warning("%g s at %g frames/s become %d frames, %.3f s", seconds, rate, frames, frames / rate)
    return replace(settings, num_frames=frames, duration=None)


def _with_windows(settings: Settings) -> Settings:
    """The settings with the sizes of windows, where a clip is made in some: any of the sizes asks for them."""
    sizes = (settings.chunk_pixel_frames, settings.chunk_carry_frames, settings.chunk_blend_frames)
    if not settings.chunked and all(size is None for size in sizes):
        return settings
    settings = with_defaults(
        replace(settings, chunked=True), chunk_pixel_frames=DEFAULT_WINDOW, chunk_carry_frames=DEFAULT_CARRY
    )
    return with_defaults(settings, chunk_blend_frames=settings.chunk_carry_frames)


def _with_placed_images(settings: Settings) -> Settings:
    """The settings with images at frames counted from the beginning, where the length is known: -1 is the last one."""
    count = settings.num_frames
    if count is None:
        return settings
    images = (replace(i, frame_index=counted_from_start(i.frame_index, count)) for i in settings.images)
    return replace(settings, images=tuple(images))


def _require_meaning(settings: Settings, entry: PipelineEntry) -> None:
    """Raise UsageError for a setting that the pipeline does not take."""
    for name in settings.given():
        topic = topic_of(name)
        if topic and topic not in entry.topics:
            instead = entry.instead.get(name)
            cure = "leave it out" if instead is None else f"give {spelled(instead)} in its place"
            raise UsageError(f"{spelled(name)} has no meaning for the pipeline {entry.name}; {cure}.")


def _require_pictures(settings: Settings) -> None:
    """Raise UsageError for how pictures are fitted where none are given."""
    clips = (settings.video_path, settings.reference_video)
    if settings.images or settings.video_conditioning or any(clip is not None for clip in clips):
        return
    for name in ("fit", "antialias"):
        if name in settings.given():
            raise UsageError(f"{spelled(name)} concerns images and clips that are read; give one, or leave it out.")


def _require_edges(settings: Settings) -> None:
    """Raise UsageError for thresholds of edges that nobody looks for."""
    for name in ("canny_low", "canny_high"):
        if name in settings.given() and settings.control_type != "canny":
            raise UsageError(f"{spelled(name)} goes with {spelled('control_type', 'canny')}; give it, too.")


def _with_length(settings: Settings, entry: PipelineEntry, defaults: GenerationDefaults, no_length: str) -> Settings:
    """The settings with a number of frames, or with the range of a length that is still to be predicted."""
    asked, named = settings.auto_duration, spelled("auto_duration")
    if asked is not None and asked[0] > asked[1]:
        raise UsageError(
            f"{named}: the shortest clip comes first, got {asked[0]:g} s and {asked[1]:g} s; exchange them."
        )
    if settings.audio_max_duration is not None:
        if settings.num_frames is not None:
            raise UsageError(
                f"{spelled('num_frames')} and {spelled('audio_max_duration')} contradict each other: the clip is as "
                "long as the sound that is used; give one of them."
            )
        return settings
    if settings.num_frames is not None:
        if asked is not None:
            log.warning("%s has no effect: %s says how long the clip is", named, spelled("num_frames"))
        return replace(settings, auto_duration=None)
    if settings.zero_text:
        no_length = f"it is predicted from a prompt, and {spelled('zero_text')} stands in its place"
    elif settings.latents is not None:
        no_length = f"{spelled('latents')} are for one length"
    if asked is not None and no_length:
        raise UsageError(f"{named}: {no_length}; give {spelled('num_frames')} in its place.")
    if DURATION in entry.topics and not no_length:
        return with_defaults(settings, auto_duration=USUAL_DURATION)
    return replace(settings, num_frames=defaults.num_frames)


def with_prompt_of_file(settings: Settings) -> Settings:
    """The settings with the text of the prompt's file; records then hold the text and not the file."""
    file = settings.prompt_file
    if file is None:
        return settings
    if settings.prompt is not None:
        raise UsageError(f"{spelled('prompt')} and {spelled('prompt_file')} are both given; give one of them.")
    return replace(settings, prompt=file.read(), prompt_file=None)


def _with_guidance(settings: Settings, entry: PipelineEntry, defaults: GenerationDefaults) -> Settings:
    settings = with_defaults(settings, num_inference_steps=defaults.num_inference_steps)
    if settings.embedding is None and not settings.zero_text:
        settings = with_defaults(settings, negative_prompt=defaults.negative_prompt)
    video, audio = defaults.video_guider, defaults.audio_guider
    if VIDEO_GUIDANCE in entry.topics:
        settings = with_defaults(
            settings,
            video_cfg_guidance_scale=video.cfg_scale,
            video_stg_guidance_scale=video.stg_scale,
            video_rescale_scale=video.rescale_scale,
            video_stg_blocks=video.stg_blocks,
            a2v_guidance_scale=video.modality_scale,
            video_skip_step=video.skip_step,
        )
    if AUDIO_GUIDANCE in entry.topics:
        settings = with_defaults(
            settings,
            audio_cfg_guidance_scale=audio.cfg_scale,
            audio_stg_guidance_scale=audio.stg_scale,
            audio_rescale_scale=audio.rescale_scale,
            audio_stg_blocks=audio.stg_blocks,
            audio_skip_step=audio.skip_step,
        )
    if AUDIO_MODALITY_GUIDANCE in entry.topics:
        settings = with_defaults(settings, v2a_guidance_scale=audio.modality_scale)
    return settings


def _require_no_guidance(settings: Settings) -> None:
    meaningless = [spelled(name) for name in names_of(GUIDANCE) if name in settings.given()]
    if meaningless:
        raise UsageError(
            f"{', '.join(meaningless)}: guidance has no meaning for a distilled checkpoint; leave it out or use a "
            "dev checkpoint."
        )
    if settings.num_inference_steps not in (None, FIXED_STEPS):
        raise UsageError(
            f"the distilled schedule is fixed at {FIXED_STEPS} + 3 steps, got {settings.num_inference_steps}; leave "
            f"{spelled('num_inference_steps')} out."
        )


def _check_noise(settings: Settings) -> None:
    if settings.noise is None:
        return
    for name in ("seed", "latents"):
        if getattr(settings, name) is not None:
            raise UsageError(f"{spelled('noise')} and {spelled(name)} contradict each other; give one of them.")


def _check_text(settings: Settings) -> None:
    if settings.embedding is not None and settings.zero_text:
        raise UsageError(f"{spelled('embedding')} and {spelled('zero_text')} contradict each other; give one of them.")
    if not settings.enhance_prompt:
        _require_no_enhancement(settings)
    without_encoder = settings.embedding is not None or settings.zero_text
    named = spelled("zero_text") if settings.embedding is None else spelled("embedding")
    if without_encoder and settings.enhance_prompt:
        raise UsageError(
            f"{spelled('enhance_prompt')} rewrites a prompt, but {named} stands in its place; leave one out."
        )
    if without_encoder and settings.negative_prompt is not None:
        raise UsageError(
            f"{spelled('negative_prompt')} has no effect with {named}, which brings its own; leave one out."
        )


def _require_no_enhancement(settings: Settings) -> None:
    """Raise UsageError for settings of a rewriting that was not asked for."""
    alone = [name for name in settings.given() if name.startswith("enhance_")]
    if alone:
        raise UsageError(
            f"{', '.join(map(spelled, alone))}: no prompt is rewritten; give {spelled('enhance_prompt')}, too, or "
            "leave it out."
        )

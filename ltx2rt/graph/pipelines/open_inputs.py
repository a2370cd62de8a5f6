"""Opens what decided settings name: media, text contexts, guidance, and where encoded prompts are kept."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TRANSFORMER, VIDEO_VAE
from ltx2rt.graph.diffusion.guidance import ApgOptions, GuiderParams
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.inputs import DurationRange, GenerationInputs, PromptContext
from ltx2rt.graph.stages.targets import video_shape
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.proof_store import cache_folder
from ltx2rt.memory.limits import parse_bytes
from ltx2rt.spelling import spelled
from ltx2rt.weights.embedding_file import TextEmbedding, read_embedding
from ltx2rt.weights.kept_prompts import MOST_BYTES, KeptPrompts

log = logging.getLogger(__name__)

PROMPT_CACHE_VARIABLE = "LTX2RT_PROMPT_CACHE"

# Of what has no pictures; legal and small.
_NO_SIDE = 64
_NO_FRAMES = 9
_NO_RATE = Fraction(24)
# Of every published video VAE.
_USUAL_FRAMES_PER_LATENT = 8


def frames_per_latent(files: WeightSet) -> int:
    """Of the video VAE; sound without pictures, which has none, is as long as a clip could be, too."""
    return files.config(VIDEO_VAE).temporal_factor if files.has(VIDEO_VAE) else _USUAL_FRAMES_PER_LATENT


def open_inputs(
    settings: Settings, entry: PipelineEntry, files: WeightSet, *, fixed_schedule: bool, dtype: mx.Dtype
) -> GenerationInputs:
    """The inputs of decided settings; media are probed, and read where a pipeline needs them whole.

    Raises:
        UsageError, CheckpointError, MediaError: as the inputs.
    """
    context, negative = _contexts(settings, files, silent=entry.silent)
    media = entry.open_media(settings, files)
    num_frames, height, width = settings.num_frames or media.num_frames, settings.height, settings.width
    frame_rate = settings.frame_rate or media.frame_rate
    if media.source is not None:
        num_frames, height, width = (int(n) for n in media.source.frames.shape[:3])
        frame_rate = media.source.frame_rate
    if media.hdr is not None:
        num_frames, height, width = (int(n) for n in media.hdr.frames.shape[:3])
    duration = None
    if settings.auto_duration is not None:
        duration = DurationRange(*settings.auto_duration, frames_per_latent(files))
        num_frames = duration.frames(duration.longest_s, frame_rate or _NO_RATE)
    elif num_frames is not None:
        media = media.placed(num_frames)
    video, audio = _guiders(settings, files)
    inputs = GenerationInputs(
        settings,
        height=height or _NO_SIDE,
        width=width or _NO_SIDE,
        num_frames=_NO_FRAMES if num_frames is None else num_frames,
        frame_rate=frame_rate or _NO_RATE,
        media=media,
        context=context,
        negative_context=negative,
        video_guider=video,
        audio_guider=audio,
        fixed_schedule=fixed_schedule,
        duration=duration,
        dtype=dtype,
        frames_per_latent=frames_per_latent(files),
    )
    entry.check(inputs, files)
    if settings.latents is not None:
        _check_latents(settings.latents.shape, inputs, entry, files)
    encodes = context is None and settings.prompt_cache
    return replace(inputs, kept_prompts=prompt_cache()) if encodes else inputs


def prompt_cache(environ: Mapping[str, str] = os.environ) -> KeptPrompts | None:
    """Where encoded prompts are kept for later runs; None: nowhere.

    Args:
        environ: ``LTX2RT_PROMPT_CACHE`` is the size of the folder, ``0`` for none.

    Raises:
        UsageError: the variable is not a size.
    """
    asked = environ.get(PROMPT_CACHE_VARIABLE) or str(MOST_BYTES)
    if asked == "0":
        return None
    try:
        most = parse_bytes(asked)
    except UsageError as error:
        raise UsageError(f"{PROMPT_CACHE_VARIABLE}: {error}") from error
    try:
        folder = cache_folder(environ) / "prompts"
    except RuntimeError:
        log.warning("the encoded prompt is not kept: this user has no home folder; LTX2RT_CACHE names another one")
        return None
    return KeptPrompts(folder, most)


def input_files(settings: Settings) -> list[Path]:
    """Every media and embedding file that the settings name."""
    named = (
        settings.embedding,
        settings.conditioning_attention_mask,
        settings.audio_path,
        settings.video_path,
        settings.reference_video,
        settings.input,
    )
    media = (*(image.image for image in settings.images), *(video.video for video in settings.video_conditioning))
    return [Path(path) for path in (*named, *media) if isinstance(path, os.PathLike)]


def _check_latents(shape: tuple[int, ...], inputs: GenerationInputs, entry: PipelineEntry, files: WeightSet) -> None:
    """Raise UsageError for noise that is not of the shape of the first stage."""
    if entry.first_shape is not None:
        wanted = entry.first_shape(inputs, files).array_shape
    else:
        smaller = 2 if entry.two_stage else 1
        if inputs.settings.stages:
            smaller = inputs.settings.stages[0].divisor
        wanted = video_shape(files, inputs, inputs.height // smaller, inputs.width // smaller).array_shape
    if shape != wanted:
        raise UsageError(
            f"{spelled('latents')} must be the noise of the first stage, {wanted}, got {shape}; channels come last: "
            "diffusers' (1, 128, f, h, w) is given as latents.transpose(0, 2, 3, 4, 1)."
        )


def _contexts(
    settings: Settings, files: WeightSet, *, silent: bool
) -> tuple[PromptContext | None, PromptContext | None]:
    """Contexts that stand in place of the text encoder, checked against the checkpoint; that of sound may be missing
    where there is none."""
    if settings.zero_text:
        zeros = zero_context(files)
        return zeros, zeros
    if settings.embedding is None:
        return None, None
    config = files.config(TRANSFORMER)
    given = settings.embedding
    origin = spelled("embedding") if isinstance(given, TextEmbedding) else str(given)
    if isinstance(given, TextEmbedding):
        given.check(origin)
    saved = given if isinstance(given, TextEmbedding) else read_embedding(given)
    audio_width = config.caption_channels or config.audio.context_dim
    saved.require_match(
        origin,
        generation=files.generation.name,
        video_width=config.caption_channels or config.video.context_dim,
        audio_width=None if silent else audio_width,
    )

    def context(video: mx.array | None, audio: mx.array | None) -> PromptContext | None:
        if video is None or (audio is None and not silent):
            return None
        return PromptContext(video, mx.zeros((1, 0, audio_width), video.dtype) if audio is None else audio)

    return (
        context(saved.video_context, saved.audio_context),
        context(saved.negative_video_context, saved.negative_audio_context),
    )


def _guiders(settings: Settings, files: WeightSet) -> tuple[GuiderParams, GuiderParams]:
    layers = files.config(TRANSFORMER).num_layers
    for name in ("video_stg_blocks", "audio_stg_blocks"):
        for block in getattr(settings, name) or ():
            if not 0 <= block < layers:
                raise UsageError(
                    f"{spelled(name)} must name blocks 0 to {layers - 1} of this transformer, got {block}."
                )
    apg = None
    cfg = {"video": settings.video_cfg_guidance_scale, "audio": settings.audio_cfg_guidance_scale}
    if not math.isclose(settings.apg_scale, 1.0):
        apg = ApgOptions(settings.apg_eta, settings.apg_norm_threshold, settings.apg_momentum)
        cfg = dict.fromkeys(cfg, settings.apg_scale)
    elif (settings.apg_eta, settings.apg_norm_threshold, settings.apg_momentum) != (1.0, 0.0, 0.0):
        names = ", ".join(spelled(name) for name in ("apg_eta", "apg_norm_threshold", "apg_momentum"))
        raise UsageError(f"{names}: they need {spelled('apg_scale')} other than 1.")
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

"""Every setting of a run with its type, its default and the pipelines that use it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ltx2rt.api.inputs import ImageInput, VideoInput
from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae.tiling import TileSize, Tiling

TWO_STAGE = ("distilled", "two-stage", "two-stage-hq", "ic-lora", "keyframe-interpolation", "audio-to-video")
DEV_TWO_STAGE = ("two-stage", "two-stage-hq", "keyframe-interpolation", "audio-to-video")
EDITING = ("retake", "extend")
VIDEO_GUIDED = ("one-stage", *DEV_TWO_STAGE, *EDITING)
AUDIO_GUIDED = ("one-stage", "two-stage", "two-stage-hq", "keyframe-interpolation", *EDITING, "text-to-audio")
GUIDED = (*VIDEO_GUIDED, "text-to-audio")
WITH_IMAGES = ("one-stage", *TWO_STAGE)
WITH_VIDEO = (*WITH_IMAGES, *EDITING)
SIZED = WITH_IMAGES
FIRST_ORDER = tuple(name for name in GUIDED if name != "two-stage-hq")

CONTROL_TYPES = ("raw", "canny", "depth", "pose")
DIRECTIONS = ("after", "before")


# ruff: noqa: RUF009  (the calls make dataclass fields)
def _only(pipelines: tuple[str, ...], default: Any = None) -> Any:
    """A field that has a meaning in these pipelines only."""
    return field(default=default, metadata={"pipelines": pipelines})


@dataclass(frozen=True)
class Settings:
    """What a pipeline call can be given. None means: decided by the pipeline and the checkpoint's generation.

    Attributes:
        prompt: what to generate; may be missing when ``embedding`` or ``no_gemma`` is given.
        negative_prompt: what to avoid; default `DEFAULT_NEGATIVE_PROMPT`.
        seed: of the noise; any integer, its low 32 bits count.
        height, width: final size in pixels.
        num_frames: 8*k + 1.
        frame_rate: frames per second.
        embedding: text embedding file in place of the text encoder.
        no_gemma: zeros in place of what the text encoder would give; for tests of everything else.
        enhance_prompt: let the text encoder's language model rewrite the prompt first.
        enhance_temperature, enhance_top_k, enhance_top_p, enhance_seed, enhance_max_tokens: how it writes.
        num_inference_steps: sampler steps of the (first) stage.
        video_cfg_guidance_scale ... audio_skip_step: guidance of each stream.
        max_batch_size: how many guidance passes go through the model together.
        ge_gamma: gradient estimation in place of Euler steps, 0 = off.
        apg_scale, apg_eta, apg_norm_threshold, apg_momentum: adaptive projected guidance in place of CFG; 1 = off.
        images: conditions.
        video_conditioning: reference (control) videos.
        control_type: what is made of the reference videos: ``canny`` edges, or nothing (``raw``, ``depth``, ``pose``:
            the videos are such maps already).
        canny_low, canny_high: thresholds of the edges, 0 to 255.
        conditioning_attention_mask: video (or picture) whose brightness weighs how much the clip attends to the
            references.
        conditioning_attention_strength: factor of these weights.
        skip_stage_2: stop after the half-size stage.
        distilled_lora_strength_stage_1, distilled_lora_strength_stage_2: of two-stage-hq.
        audio_path: sound that drives the video.
        audio_start_time: seconds; where in the sound to begin.
        audio_max_duration: seconds; default: the length of the clip.
        video_path: the clip that is edited.
        start_time, end_time: seconds; the range of it that is generated anew.
        regenerate_video, regenerate_audio: which streams are.
        extend_frames: how many frames to append, a multiple of 8.
        direction: ``after`` or ``before``: where.
        upscale_spatial, upscale_temporal: enlarge the final latent before it is decoded, without refinement.
        skip_vae: make latents only.
        tiling: of the video decoder: ``auto`` (by size), a `Tiling`, or ``none``.
    """

    prompt: str | None = None
    negative_prompt: str | None = _only(GUIDED)
    seed: int | None = None
    height: int | None = _only(SIZED)
    width: int | None = _only(SIZED)
    num_frames: int | None = _only((*SIZED, "text-to-audio"))
    frame_rate: float | Fraction | None = _only((*SIZED, "text-to-audio"))
    embedding: Path | None = None
    no_gemma: bool = False
    enhance_prompt: bool = False
    enhance_temperature: float = 0.7
    enhance_top_k: int = 64
    enhance_top_p: float = 0.95
    enhance_seed: int | None = None
    enhance_max_tokens: int = 512
    num_inference_steps: int | None = None
    video_cfg_guidance_scale: float | None = _only(VIDEO_GUIDED)
    video_stg_guidance_scale: float | None = _only(VIDEO_GUIDED)
    video_rescale_scale: float | None = _only(VIDEO_GUIDED)
    video_stg_blocks: tuple[int, ...] | None = _only(VIDEO_GUIDED)
    a2v_guidance_scale: float | None = _only(VIDEO_GUIDED)
    video_skip_step: int | None = _only(VIDEO_GUIDED)
    audio_cfg_guidance_scale: float | None = _only(AUDIO_GUIDED)
    audio_stg_guidance_scale: float | None = _only(AUDIO_GUIDED)
    audio_rescale_scale: float | None = _only(AUDIO_GUIDED)
    audio_stg_blocks: tuple[int, ...] | None = _only(AUDIO_GUIDED)
    v2a_guidance_scale: float | None = _only(tuple(name for name in AUDIO_GUIDED if name != "text-to-audio"))
    audio_skip_step: int | None = _only(AUDIO_GUIDED)
    max_batch_size: int = _only(GUIDED, 1)
    ge_gamma: float = _only(FIRST_ORDER, 0.0)
    apg_scale: float = _only(GUIDED, 1.0)
    apg_eta: float = _only(GUIDED, 1.0)
    apg_norm_threshold: float = _only(GUIDED, 0.0)
    apg_momentum: float = _only(GUIDED, 0.0)
    images: tuple[ImageInput, ...] = _only(WITH_IMAGES, ())
    video_conditioning: tuple[VideoInput, ...] = _only(("ic-lora",), ())
    control_type: str = _only(("ic-lora",), "raw")
    canny_low: int = _only(("ic-lora",), 100)
    canny_high: int = _only(("ic-lora",), 200)
    conditioning_attention_mask: Path | None = _only(("ic-lora",))
    conditioning_attention_strength: float = _only(("ic-lora",), 1.0)
    skip_stage_2: bool = _only(("ic-lora",), False)
    distilled_lora_strength_stage_1: float = _only(("two-stage-hq",), 0.25)
    distilled_lora_strength_stage_2: float = _only(("two-stage-hq",), 0.5)
    audio_path: Path | None = _only(("audio-to-video",))
    audio_start_time: float = _only(("audio-to-video",), 0.0)
    audio_max_duration: float | None = _only(("audio-to-video",))
    video_path: Path | None = _only(EDITING)
    start_time: float | None = _only(("retake",))
    end_time: float | None = _only(("retake",))
    regenerate_video: bool = _only(("retake",), True)
    regenerate_audio: bool = _only(("retake",), True)
    extend_frames: int = _only(("extend",), 48)
    direction: str = _only(("extend",), "after")
    upscale_spatial: bool = _only(WITH_VIDEO, False)
    upscale_temporal: bool = _only(WITH_VIDEO, False)
    skip_vae: bool = False
    tiling: Tiling | Literal["auto", "none"] = _only(WITH_VIDEO, "auto")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from named values; lists and plain paths are accepted where tuples and `Path` are stored.

        Raises:
            UsageError: a name that does not exist; the message names the nearest one.
        """
        known = {entry.name: entry for entry in fields(cls)}
        converted = {}
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}."
                raise UsageError(f"unknown setting {name!r}; {hint}")
            converted[name] = _stored(known[name], value)
        return cls(**converted)

    def given(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {e.name: getattr(self, e.name) for e in fields(self) if getattr(self, e.name) != e.default}

    def require_meaning(self, pipeline: str, spelling: Mapping[str, str] | None = None) -> None:
        """Raise UsageError for a setting that the pipeline does not use; ``spelling`` is how the user writes names."""
        for name in self.given():
            pipelines = pipelines_of(name)
            if pipelines and pipeline not in pipelines:
                shown = (spelling or {}).get(name, name)
                raise UsageError(
                    f"{shown} has no meaning for the pipeline {pipeline}; leave it out or use {pipelines[0]}."
                )

    def with_defaults(self, **defaults: Any) -> Settings:
        """These settings, with ``defaults`` in place of what is None."""
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def as_dict(self, pipeline: str, without: Collection[str] = ()) -> dict[str, Any]:
        """Every decided setting with a meaning for the pipeline, but those in ``without``, as JSON values."""
        values = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in without and pipeline in (pipelines_of(entry.name) or (pipeline,))
        }
        return {name: _plain(value) for name, value in values.items() if value is not None}


def pipelines_of(name: str) -> tuple[str, ...]:
    """The pipelines in which a setting has a meaning; empty = all."""
    entry: Field[Any] = next(entry for entry in fields(Settings) if entry.name == name)
    return tuple(entry.metadata.get("pipelines", ()))


def _stored(entry: Field[Any], value: Any) -> Any:
    if value is None:
        return entry.default
    if str(entry.type).startswith("Path") and isinstance(value, str):
        return Path(value)
    if str(entry.type).startswith("tuple") and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Tiling):
        return tiling_text(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [_plain(getattr(value, entry.name)) for entry in fields(value)]
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def tiling_text(tiling: Tiling) -> str:
    """``512/64,64/24`` as the command line takes it: pixels, then frames."""
    parts = [f"{axis.tile}/{axis.overlap}" for axis in (tiling.height, tiling.frames) if isinstance(axis, TileSize)]
    return ",".join(parts)

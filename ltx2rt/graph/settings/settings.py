"""Every setting of a pipeline call: the one place that says its type, default, range, help and flags."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.settings.in_memory import digest
from ltx2rt.graph.settings.inputs import IcLoraStage, ImageInput, PromptFile, VideoInput
from ltx2rt.graph.settings.kinds import (
    Blocks,
    EmbeddingKind,
    FilePath,
    FrameRate,
    IcLoraStages,
    Images,
    KeyframePlaces,
    LatentArray,
    MaskFile,
    NoiseKind,
    Number,
    PromptFileKind,
    SecondsRange,
    Seed,
    SourceColor,
    SpaceName,
    Switch,
    Text,
    TilesKind,
    Videos,
    Whole,
)
from ltx2rt.graph.settings.setting import plain_values, setting, settings_of, stored_values
from ltx2rt.media.colour import SOURCE_COLORS
from ltx2rt.media.fit import FITS
from ltx2rt.media.hdr import HDR_SPACES
from ltx2rt.types import Activations
from ltx2rt.weights.embedding_file import TextEmbedding

DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurry, noisy, flickering, washed-out colours, wrong exposure, distorted faces and hands, "
    "unnatural motion, frozen picture, text overlays, watermarks, muffled or crackling sound, sound out of sync"
)

# What pipelines take, besides the settings without a topic, which all of them take.
NEGATIVE = "negative prompt and guidance"
FIRST_ORDER = "first-order sampler"
SIZE = "size"
LENGTH = "length"
RATE = "frame rate"
VIDEO_GUIDANCE = "guidance of the video"
AUDIO_GUIDANCE = "guidance of the sound"
AUDIO_MODALITY_GUIDANCE = "modality guidance of the sound"
IMAGES = "images"
REFERENCES = "reference videos"
REFERENCE_SIZE = "size of reference videos"
CONTROL = "control by reference videos"
DUBBED_CLIP = "clip to dub"
STAGES = "stages of IC-LoRA"
LORA_STRENGTHS = "strengths of the distilled LoRA"
DRIVING_SOUND = "driving sound"
SOURCE = "source clip"
RETAKE_RANGE = "range of a retake"
EXTENSION = "extension"
FRAMES = "frames"
ENLARGING = "enlarging of the final latent"
DURATION = "predicted length"
GENERATED_KEYFRAMES = "generated key frames"
FIDELITY = "rounds of DFR"
CHUNKS = "chunks of long clips"
FITTING = "fitting of pictures"
REDUCTION = "reduction of large pictures"
CLIP_COLOURS = "colours of clips"
HDR_OUTPUT = "high dynamic range"
HDR_INPUT = "conversion to high dynamic range"
# Several together: of pipelines that make a clip of a given size, and of those that sample with guidance.
NEW_CLIP = frozenset({SIZE, LENGTH, RATE, IMAGES, FITTING, REDUCTION, FRAMES, ENLARGING, HDR_OUTPUT})
GUIDANCE = frozenset({NEGATIVE, FIRST_ORDER, VIDEO_GUIDANCE, AUDIO_GUIDANCE, AUDIO_MODALITY_GUIDANCE})

# Of what is converted: the signal of usual clips; the others are of EXR frames, srgb of both.
INPUT_COLORSPACES = ("srgb_gamma", "srgb", "acescg", "acescct")
CONTROL_TYPES = ("raw", "canny", "depth", "pose")
DIRECTIONS = ("after", "before")
KEPT_FROM = ("source", "vae")

# ruff: noqa: RUF009  (the calls make dataclass fields)
_SECONDS = Number("SECONDS")
_CONTROL = {"topic": CONTROL}
_STAGES = {"topic": STAGES}
_MODEL = {"shown_default": "model"}
_WRITER = {"shown_default": "usual for the language model, see docs/pipelines/ltx-2.5.md"}


@dataclass(frozen=True)
class Settings:
    """What a pipeline call can be given. None means: decided by the pipeline and the checkpoint's generation.

    The fields say everything else: `setting_docs` prints it.
    """

    # Request
    prompt: str | None = setting(
        None, Text(), "what to generate; may also be given without the option's name", "Request"
    )
    prompt_file: PromptFile | None = setting(
        None, PromptFileKind(), "text file that holds the prompt, in place of it", "Request"
    )
    height: int | None = setting(
        None,
        Whole(),
        "final height in pixels, a multiple of 64 (one stage: 32)",
        "Request",
        topic=SIZE,
        low=32,
        **_MODEL,
    )
    width: int | None = setting(
        None,
        Whole(),
        "final width in pixels, a multiple of 64 (one stage: 32)",
        "Request",
        topic=SIZE,
        low=32,
        **_MODEL,
    )
    num_frames: int | None = setting(
        None,
        Whole(),
        "number of frames, 8*k + 1",
        "Request",
        topic=LENGTH,
        low=1,
        flags=("--num-frames", "--frames"),
        **_MODEL,
    )
    duration: float | None = setting(
        None, _SECONDS, "length in seconds in place of a number of frames: the nearest 8*k + 1", "Request", topic=LENGTH
    )
    chunked: bool = setting(
        False,
        Switch(),
        "make a long clip in windows, one after the other, each of which goes on from the one before",
        "Request",
        topic=CHUNKS,
    )
    chunk_pixel_frames: int | None = setting(
        None,
        Whole(),
        "frames of a window, 8*k + 1; turns --chunked on",
        "Request",
        topic=CHUNKS,
        low=1,
        shown_default="97",
    )
    chunk_carry_frames: int | None = setting(
        None,
        Whole(),
        "frames that a window has from the one before, 8*k + 1, 17 or more; turns --chunked on",
        "Request",
        topic=CHUNKS,
        low=0,
        shown_default="25",
    )
    chunk_blend_frames: int | None = setting(
        None,
        Whole(),
        "of these, the last ones in which one window is blended into the next; 0 = a cut; turns --chunked on",
        "Request",
        topic=CHUNKS,
        low=0,
        shown_default="as many as are carried",
    )
    auto_duration: tuple[float, float] | None = setting(
        None,
        SecondsRange(),
        "shortest and longest clip in seconds, of a length that LTX-2.5 predicts from the prompt",
        "Request",
        topic=DURATION,
        shown_default="1 20 where --num-frames is left out and the model has a duration head",
    )
    frame_rate: Fraction | None = setting(
        None,
        FrameRate(),
        "frames per second, 24 or 23.976 or 30000/1001",
        "Request",
        topic=RATE,
        flags=("--frame-rate", "--fps"),
        **_MODEL,
    )
    seed: int | None = setting(
        None,
        Seed(),
        "seed of the noise, the same as in the official code on a CPU; random (or -1) draws one, which is shown",
        "Request",
        **_MODEL,
    )

    noise: NoiseSource | None = setting(
        None,
        NoiseKind(),
        "the draws themselves in place of a seed: arrays in the order in which a run asks for them, or a source",
        "Request",
        for_python=True,
    )
    latents: np.ndarray[Any, np.dtype[Any]] | None = setting(
        None,
        LatentArray(),
        "noise of the video in the first stage, (1, f, h, w, 128), in place of the first draw",
        "Request",
        topic=SIZE,
        for_python=True,
    )

    # Text
    negative_prompt: str | None = setting(
        None, Text(), "what to avoid; the default is in docs/options.md", "Text", topic=NEGATIVE, **_MODEL
    )
    embedding: Path | TextEmbedding | None = setting(
        None,
        EmbeddingKind(),
        "text embedding file in place of the text encoder",
        "Text",
        flags=("--embedding", "--text-embeddings"),
    )
    zero_text: bool = setting(
        False,
        Switch(),
        "zeros in place of the text encoder's output, to test everything else",
        "Text",
        flags=("--no-gemma",),
    )
    prompt_cache: bool = setting(
        True,
        Switch(),
        "neither keep the encoded prompt on disk for later runs nor take it from there",
        "Text",
        flags=("--no-prompt-cache",),
        turns_off=True,
    )
    enhance_prompt: bool = setting(
        False,
        Switch(),
        "let a language model rewrite the prompt first: the text encoder, or --prompt-enhancer-gemma-root",
        "Text",
    )
    enhance_temperature: float | None = setting(
        None, Number(), "how freely it writes; 0 = always the likeliest word", "Text", low=0, **_WRITER
    )
    enhance_top_k: int | None = setting(
        None, Whole(), "it chooses among so many words; 0 = all", "Text", low=0, **_WRITER
    )
    enhance_top_p: float | None = setting(
        None, Number(), "and among those that together have this probability", "Text", low=0, high=1, **_WRITER
    )
    enhance_seed: int | None = setting(
        None,
        Whole(),
        "seed of its choices; where the official code hands on no seed it is 42",
        "Text",
        shown_default="seed",
    )
    enhance_max_tokens: int | None = setting(None, Whole(), "longest text it writes", "Text", low=1, **_WRITER)

    # Conditions
    images: tuple[ImageInput, ...] = setting(
        (),
        Images(),
        "condition on an image at a pixel frame (default 0) with a strength (default 1.0)",
        "Conditions",
        topic=IMAGES,
        flags=("--image",),
    )
    num_generated_keyframes: int | tuple[int, ...] = setting(
        0,
        KeyframePlaces(),
        "single frames that LTX-2.5 makes besides the clip and keeps it close to: how many, or their places as 24,48",
        "Conditions",
        topic=GENERATED_KEYFRAMES,
    )
    decode_with_keyframes: bool = setting(
        False,
        Switch(),
        "let the diffusion decoder look at the generated key frames",
        "Conditions",
        topic=GENERATED_KEYFRAMES,
    )
    video_conditioning: tuple[VideoInput, ...] = setting(
        (), Videos(), "reference (control) video with a strength", "Conditions", topic=REFERENCES
    )
    control_type: str = setting(
        "raw",
        Text(),
        "what is made of the control videos: canny finds edges, the others take them as they are",
        "Conditions",
        choices=CONTROL_TYPES,
        **_CONTROL,
    )
    canny_low: int = setting(100, Whole(), "gradient down to which an edge continues", "Conditions", low=0, **_CONTROL)
    canny_high: int = setting(200, Whole(), "gradient from which an edge begins", "Conditions", low=0, **_CONTROL)
    conditioning_attention_mask: Path | None = setting(
        None,
        MaskFile(),
        "gray video (or picture): white attends to the references, black does not; a strength may follow",
        "Conditions",
        **_CONTROL,
    )
    conditioning_attention_strength: float = setting(
        1.0, Number(), "how strongly the clip attends to the references", "Conditions", low=0, high=1, **_CONTROL
    )
    reference_downscale_factor: int | None = setting(
        None,
        Whole(),
        "how many times smaller than the clip the references are read, where the IC-LoRA states nothing or another one",
        "Conditions",
        topic=REFERENCE_SIZE,
        low=1,
        shown_default="as the LoRA states, else 1",
    )
    skip_stage_2: bool = setting(False, Switch(), "stop after the half-size stage", "Conditions", **_STAGES)
    stage_2_ic_lora: bool = setting(
        False, Switch(), "LoRAs and references in the full-size stage, too", "Conditions", **_STAGES
    )
    tile: bool = setting(
        False,
        Switch(),
        "show the model one tile of the video after the other in every step, which takes less memory",
        "Conditions",
        **_STAGES,
    )
    tile_height: int | None = setting(
        None,
        Whole(),
        "height of a tile in pixels, a multiple of 32, 64 or more",
        "Conditions",
        shown_default="1024",
        **_STAGES,
    )
    tile_width: int | None = setting(
        None,
        Whole(),
        "width of a tile in pixels, a multiple of 32, 64 or more",
        "Conditions",
        shown_default="1536",
        **_STAGES,
    )
    stages: tuple[IcLoraStage, ...] = setting(
        (),
        IcLoraStages(),
        "the stages themselves, from small to full size, in place of the usual two",
        "Conditions",
        for_python=True,
        **_STAGES,
    )
    reference_video: Path | None = setting(
        None,
        FilePath(),
        "the clip to dub, with its sound; size aside, the result is like it",
        "Conditions",
        topic=DUBBED_CLIP,
    )
    reference_strength: float = setting(
        1.0, Number(), "how closely its pictures are followed", "Conditions", topic=DUBBED_CLIP, low=0, high=1
    )
    audio_path: Path | None = setting(
        None, FilePath(), "sound that drives the video", "Conditions", topic=DRIVING_SOUND
    )
    audio_start_time: float = setting(0.0, _SECONDS, "where in the sound to begin", "Conditions", topic=DRIVING_SOUND)
    audio_max_duration: float | None = setting(
        None,
        _SECONDS,
        "how much of it to use; the clip is then as long as that, and --num-frames is left out",
        "Conditions",
        topic=DRIVING_SOUND,
    )
    temporal_upscalings: int = setting(
        0,
        Whole(),
        "how often DFR doubles the frame rate, sampling the new frames: 0, 1 or 2",
        "Conditions",
        topic=FIDELITY,
        low=0,
        high=2,
    )
    spatial_upscalings: int = setting(
        1,
        Whole(),
        "how often DFR doubles the size: 2 adds a round at full size, in tiles",
        "Conditions",
        topic=FIDELITY,
        low=1,
        high=2,
    )
    video_path: Path | None = setting(None, FilePath(), "the clip to edit", "Conditions", topic=SOURCE)
    fit: str | None = setting(
        None,
        Text(),
        "how pictures of other proportions come to the size of the clip",
        "Conditions",
        topic=FITTING,
        choices=FITS,
        shown_default="images and control videos: crop; edited clips: pad",
    )
    antialias: bool = setting(
        True,
        Switch(),
        "reduce large images and control videos as the official code does, which leaves pixels out",
        "Conditions",
        topic=REDUCTION,
        flags=("--no-antialias",),
        turns_off=True,
    )
    source_color: str | None = setting(
        None,
        SourceColor(),
        f"what the colours of clips that are read are: {', '.join(SOURCE_COLORS)}; -limited or -full behind it says "
        "the range, too",
        "Conditions",
        topic=CLIP_COLOURS,
        shown_default="as tagged",
    )
    input: Path | None = setting(
        None,
        FilePath("PATH"),
        "what is converted to high dynamic range: an MP4 or MOV file, or a folder of EXR frames",
        "Conditions",
        topic=HDR_INPUT,
    )
    input_colorspace: str = setting(
        "srgb_gamma",
        SpaceName(),
        "what its colours are; the first one of clips, the last two of EXR frames",
        "Conditions",
        topic=HDR_INPUT,
        choices=INPUT_COLORSPACES,
    )
    high_quality: bool = setting(
        False,
        Switch(),
        "work on twice the frames, of which every second one is kept: less flicker, twice the time",
        "Conditions",
        topic=HDR_INPUT,
    )
    seam_keyframes: bool = setting(
        True,
        Switch(),
        "convert without key frames at fixed distances",
        "Conditions",
        topic=HDR_INPUT,
        flags=("--no-keyframes",),
        turns_off=True,
    )
    keyframe_strength: float = setting(
        0.95, Number(), "how firmly these keep to what is converted", "Conditions", topic=HDR_INPUT, low=0, high=1
    )
    kept_from: str = setting(
        "source",
        Text(),
        "where what an edit keeps comes from: the clip itself, or through the VAE as all else (the official behaviour)",
        "Conditions",
        topic=SOURCE,
        choices=KEPT_FROM,
    )
    start_time: float | None = setting(
        None, _SECONDS, "where the part begins that is generated anew", "Conditions", topic=RETAKE_RANGE
    )
    end_time: float | None = setting(None, _SECONDS, "where it ends", "Conditions", topic=RETAKE_RANGE)
    keep_video: bool = setting(False, Switch(), "leave the pictures as they are", "Conditions", topic=RETAKE_RANGE)
    keep_audio: bool = setting(False, Switch(), "leave the sound as it is", "Conditions", topic=RETAKE_RANGE)
    extend_frames: int = setting(48, Whole(), "how many frames to add, a multiple of 8", "Conditions", topic=EXTENSION)
    direction: str = setting("after", Text(), "where to add them", "Conditions", topic=EXTENSION, choices=DIRECTIONS)

    # Guidance
    num_inference_steps: int | None = setting(
        None,
        Whole(),
        "sampler steps; distilled pipelines always take 8 + 3",
        "Guidance",
        flags=("--num-inference-steps", "--steps", "--steps-stage1"),
        low=1,
        high=1000,
        **_MODEL,
    )
    video_cfg_guidance_scale: float | None = setting(
        None,
        Number(),
        "classifier-free guidance of the video",
        "Guidance",
        topic=VIDEO_GUIDANCE,
        flags=("--video-cfg-guidance-scale", "--cfg", "--cfg-stage1"),
        **_MODEL,
    )
    video_stg_guidance_scale: float | None = setting(
        None, Number(), "spatio-temporal guidance of the video", "Guidance", topic=VIDEO_GUIDANCE, **_MODEL
    )
    video_rescale_scale: float | None = setting(
        None,
        Number(),
        "share of the deviation that guidance gives back to the video",
        "Guidance",
        topic=VIDEO_GUIDANCE,
        **_MODEL,
    )
    video_stg_blocks: tuple[int, ...] | None = setting(
        None,
        Blocks(),
        "transformer blocks of the video's spatio-temporal guidance",
        "Guidance",
        topic=VIDEO_GUIDANCE,
        **_MODEL,
    )
    a2v_guidance_scale: float | None = setting(
        None, Number(), "modality guidance of the video", "Guidance", topic=VIDEO_GUIDANCE, **_MODEL
    )
    video_skip_step: int | None = setting(
        None,
        Whole(),
        "reuse the video's prediction for N steps after each computed one",
        "Guidance",
        topic=VIDEO_GUIDANCE,
        low=0,
        **_MODEL,
    )
    audio_cfg_guidance_scale: float | None = setting(
        None, Number(), "classifier-free guidance of the sound", "Guidance", topic=AUDIO_GUIDANCE, **_MODEL
    )
    audio_stg_guidance_scale: float | None = setting(
        None, Number(), "spatio-temporal guidance of the sound", "Guidance", topic=AUDIO_GUIDANCE, **_MODEL
    )
    audio_rescale_scale: float | None = setting(
        None,
        Number(),
        "share of the deviation that guidance gives back to the sound",
        "Guidance",
        topic=AUDIO_GUIDANCE,
        **_MODEL,
    )
    audio_stg_blocks: tuple[int, ...] | None = setting(
        None,
        Blocks(),
        "transformer blocks of the sound's spatio-temporal guidance",
        "Guidance",
        topic=AUDIO_GUIDANCE,
        **_MODEL,
    )
    v2a_guidance_scale: float | None = setting(
        None, Number(), "modality guidance of the sound", "Guidance", topic=AUDIO_MODALITY_GUIDANCE, **_MODEL
    )
    audio_skip_step: int | None = setting(
        None,
        Whole(),
        "reuse the sound's prediction for N steps after each computed one",
        "Guidance",
        topic=AUDIO_GUIDANCE,
        low=0,
        **_MODEL,
    )
    max_batch_size: int | None = setting(
        None,
        Whole(),
        "most guidance passes that go through a block together; without it as many as are fastest and fit",
        "Guidance",
        topic=NEGATIVE,
        low=1,
        high=8,
    )
    ge_gamma: float = setting(
        0.0,
        Number("GE_GAMMA"),
        "gradient estimation in place of Euler steps, 2 is usual; 0 = off",
        "Guidance",
        topic=FIRST_ORDER,
        low=0,
        high=10,
    )
    apg_scale: float = setting(
        1.0, Number(), "adaptive projected guidance in place of CFG; 1 = off", "Guidance", topic=NEGATIVE
    )
    apg_eta: float = setting(1.0, Number(), "weight of its part along the prediction", "Guidance", topic=NEGATIVE)
    apg_norm_threshold: float = setting(
        0.0,
        Number("APG_NORM_THRESHOLD"),
        "largest norm of its difference; 0 = no limit",
        "Guidance",
        topic=NEGATIVE,
    )
    apg_momentum: float = setting(
        0.0, Number(), "weight of the differences of earlier steps", "Guidance", topic=NEGATIVE
    )
    distilled_lora_strength_stage_1: float = setting(
        0.25, Number(), "strength of the distilled LoRA in the first stage", "Guidance", topic=LORA_STRENGTHS
    )
    distilled_lora_strength_stage_2: float = setting(
        0.5, Number(), "strength of the distilled LoRA in the second stage", "Guidance", topic=LORA_STRENGTHS
    )

    # Weights
    activations: Activations = setting(
        "float",
        Text(),
        "what 8-bit weights of the transformer are multiplied with: activations as they are, or rows of them as 8-bit "
        "codes, which is faster where processors have such products",
        "Weights",
        choices=get_args(Activations),
    )

    # Output
    latents_only: bool = setting(
        False, Switch(), "make latents only, see --save-latents", "Output", flags=("--skip-vae",)
    )
    hdr: str | None = setting(
        None,
        SpaceName(),
        "take the frames as ACEScct: the clip becomes an HLG master with EXR frames of this colour space beside it, in "
        "which EXR frames that are read are, too",
        "Output",
        topic=HDR_OUTPUT,
        choices=tuple(HDR_SPACES),
    )
    exr_colorspace: str = setting(
        "acescg",
        SpaceName(),
        "colour space of the EXR frames beside the master",
        "Output",
        topic=HDR_INPUT,
        choices=tuple(HDR_SPACES),
    )
    upscale_spatial: bool = setting(
        False, Switch(), "enlarge the final latent with the spatial upscaler, unrefined", "Output", topic=ENLARGING
    )
    upscale_temporal: bool = setting(
        False, Switch(), "double the frame rate with the temporal upscaler, unrefined", "Output", topic=ENLARGING
    )
    tiling: Tiling | Literal["auto", "none"] = setting(
        "auto",
        TilesKind(),
        "video decoder tiles: auto (by size), none, or SPATIAL/OVERLAP[,FRAMES/OVERLAP]",
        "Output",
        topic=FRAMES,
    )

    @classmethod
    def of(cls, values: Mapping[str, Any], hints: Mapping[str, str] | None = None) -> Settings:
        """Settings from named values, each converted and checked.

        Args:
            values: name -> value; None stands for the default.
            hints: what to say about names that other programs use.

        Raises:
            UsageError: a name that does not exist, or a value that does not fit.
        """
        return cls(**stored_values(cls, values, hints))

    def given(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {
            name: getattr(self, name)
            for name, (entry, _) in settings_of(Settings).items()
            if not _is_default(getattr(self, name), entry.default)
        }

    def as_dict(self, topics: Collection[str]) -> dict[str, Any]:
        """Every decided setting of these topics, and those without one, as JSON values."""
        return {name: value for name, value in plain_values(self).items() if topic_of(name) in ("", *topics)}

    @property
    def hdr_space(self) -> str | None:
        """The colour space of the EXR frames of a result of high dynamic range; None: a usual clip is made."""
        return self.hdr if self.input is None else self.exr_colorspace

    @property
    def enhancement(self) -> dict[str, Any]:
        """How the prompt enhancement writes, as far as it is said: names and values of `SamplingOptions`."""
        values = {
            "temperature": self.enhance_temperature,
            "top_k": self.enhance_top_k,
            "top_p": self.enhance_top_p,
            "seed": self.enhance_seed,
            "max_new_tokens": self.enhance_max_tokens,
        }
        return {name: value for name, value in values.items() if value is not None}

    def inputs_in_memory(self) -> dict[str, str]:
        """SHA-256 of everything that was given in memory, by the names of the settings: ``images[0]``."""
        return {
            f"{name}[{index}]" if said.kind.repeats else name: digest(held)
            for name, (_, said) in settings_of(Settings).items()
            if (value := getattr(self, name)) is not None
            for index, held in enumerate(said.kind.in_memory(value))
        }


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, np.ndarray) and bool(value == default))


def topic_of(name: str) -> str:
    """The topic of a setting; empty: all pipelines take it."""
    return settings_of(Settings)[name][1].topic


def names_of(topics: Iterable[str]) -> list[str]:
    """The settings of these topics."""
    wanted = set(topics)
    return [name for name, (_, said) in settings_of(Settings).items() if said.topic in wanted]

"""Checks of a run's inputs against its files, made before anything is loaded."""

from __future__ import annotations

import logging

import mlx.core as mx

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import (
    AUDIO_VAE,
    CONNECTORS,
    DURATION_HEAD,
    PROMPT_ENHANCER,
    SPATIAL_UPSCALER,
    TEMPORAL_UPSCALER,
    TEXT_ENCODER,
    TEXT_PROJECTION,
    TRANSFORMER,
    VIDEO_VAE,
    VOCODER,
)
from ltx2rt.graph.diffusion.latent_geometry import check_frame_rate, check_num_frames, check_resolution
from ltx2rt.graph.models.transformer.model import param_specs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import DURATION, Settings
from ltx2rt.graph.stages.fitting_loras import text_modules
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.targets import audio_shape, video_scale, video_shape
from ltx2rt.graph.stages.text.models import text_writer
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.host import to_numpy
from ltx2rt.spelling import spelled
from ltx2rt.types import ParamSpec

log = logging.getLogger(__name__)

# MLX counts the values of an array in 32 bits.
_MOST_VALUES = 2**31 - 1

# Of the diffusion decoder: what marks latents of key frames among those of the clip.
_KEYFRAME_MARK = "decoder.type_emb"


def require_parts(files: WeightSet, settings: Settings, entry: PipelineEntry) -> None:
    """Raise CheckpointError when parts of the model that a run reads are missing, or are not whole.

    Of missing parts the error names all.
    """
    encodes = settings.embedding is None and not settings.zero_text
    hears = not settings.latents_only and not entry.silent
    needed = {
        "connectors": encodes,
        "text_projection": encodes,
        "video_vae": entry.output == "video",
        "audio_vae": hears,
        "vocoder": hears,
    }
    files.require(*(name for name, wanted in needed.items() if wanted))
    if encodes and settings.enhance_prompt and (files.has(TEXT_ENCODER) or files.has(PROMPT_ENHANCER)):
        text_writer(files)
    text = (TEXT_ENCODER, TEXT_PROJECTION, *CONNECTORS) if encodes else ()
    sound = (AUDIO_VAE, VOCODER) if hears else ()
    pictures = (VIDEO_VAE,) if entry.output == "video" else ()
    files.require_whole(TRANSFORMER, *text, *pictures, *sound)
    open_length = DURATION in entry.topics and settings.num_frames is None and settings.duration is None
    if open_length and files.has(DURATION_HEAD) and (said := no_length(files)):
        log.warning("the length is not predicted: %s", said)


def no_length(files: WeightSet) -> str:
    """Why a model cannot predict how long a clip should be; empty: it can."""
    if files.has(DURATION_HEAD):
        head, model = files.config(DURATION_HEAD), files.config(TRANSFORMER)
        widths = (model.video.context_dim, model.audio.context_dim)
        if (head.video_width, head.audio_width) == widths:
            return ""
        return (
            f"the duration head {files.source(DURATION_HEAD).path.name} reads contexts of {head.video_width} and "
            f"{head.audio_width} channels, this model has {widths[0]} and {widths[1]}"
        )
    if files.config(TRANSFORMER).keyframe_embedding:
        return f"the duration head, which {spelled('duration_head', 'FILE')} names, is missing"
    return f"LTX-2.5 alone predicts the length, and this model is of {files.generation.name}"


def check_inputs(
    inputs: GenerationInputs,
    files: WeightSet,
    *,
    stages: int,
    upscaler: bool = False,
    guided: bool = False,
    distilled_lora: bool = False,
    detailing_lora: bool = False,
    needs_prompt: bool = True,
) -> None:
    """What every pipeline requires.

    Args:
        inputs, files: what is asked for and what is there.
        stages: of sampling, each at twice the size of the one before; 0: no video.
        upscaler: a spatial upscaler is needed.
        guided: a negative context is needed where classifier-free guidance is on.
        distilled_lora: the distilled LoRA is needed; where it is not, it is refused.
        detailing_lora: the same of the detailing LoRA.
        needs_prompt: an empty prompt says nothing.

    Raises:
        UsageError: a value or a combination cannot work; the message says what to give.
    """
    if needs_prompt and inputs.context is None and not inputs.prompt.strip():
        raise UsageError(
            f"the prompt is empty; say what to generate with {spelled('prompt')}, or give {spelled('embedding')}."
        )
    inputs.check()
    check_frame_rate(float(inputs.frame_rate))
    if stages or files.has(VIDEO_VAE):
        check_num_frames(inputs.num_frames, video_scale(files.config(VIDEO_VAE)))
    if stages:
        multiple = files.config(VIDEO_VAE).spatial_factor << (stages - 1)
        check_resolution(inputs.height, inputs.width, multiple=multiple)
        least, settings = files.config(VIDEO_VAE).least_side, inputs.settings
        if min(inputs.height, inputs.width) < least and not settings.latents_only and not settings.upscale_spatial:
            raise UsageError(
                f"the video decoder mirrors at the borders: {spelled('height')} and {spelled('width')} must be {least} "
                f"or more, got {inputs.height}x{inputs.width}."
            )
    _check_amount(inputs, files, video=stages > 0)
    if inputs.context is None and not files.has(TEXT_ENCODER):
        found = files.gaps.get("text_encoder", "")
        raise UsageError(
            f"the text encoder is missing; give {spelled('text_encoder', 'PATH')}, or {spelled('embedding', 'FILE')}."
            + (f" Not taken: {found}" if found and not found.startswith("no ") else "")
        )
    if upscaler and not files.has(SPATIAL_UPSCALER):
        raise UsageError(f"this pipeline works in two stages; give the upscaler with {spelled('spatial_upscaler')}.")
    if upscaler:
        config = files.config(SPATIAL_UPSCALER)
        if (config.up, config.down) != (2, 1):
            raise UsageError(
                f"this pipeline doubles the size between its stages, but {files.source(SPATIAL_UPSCALER).path} "
                f"enlarges {config.up / config.down:g} times; give the x2 upscaler."
            )
    for wanted, component, axis in (
        (inputs.settings.upscale_spatial, SPATIAL_UPSCALER, "spatial"),
        (inputs.settings.upscale_temporal, TEMPORAL_UPSCALER, "temporal"),
    ):
        if wanted and not files.has(component):
            raise UsageError(
                f"{spelled(f'upscale_{axis}')} needs its upscaler; give it with {spelled(f'{axis}_upscaler')}."
            )
    _check_windows(inputs)
    _check_keyframes(inputs, files)
    _check_activations(inputs, files)
    for lora, _ in files.loras:
        if inputs.context is not None and (modules := text_modules(lora)):
            log.warning(
                "%s: what it changes in connectors and text projection is not applied, %d modules (%s%s): the text "
                "embedding was made without it",
                lora.path,
                len(modules),
                modules[0],
                ", ..." if len(modules) > 1 else "",
            )
    if files.distilled_lora and not distilled_lora:
        raise UsageError(
            f"this pipeline has no use for the distilled LoRA; leave {spelled('distilled_lora')} out, or give the file "
            f"with {spelled('loras')} to add it to every stage."
        )
    if files.detailing_lora and not detailing_lora:
        raise UsageError(
            f"this pipeline has no use for the detailing LoRA; leave {spelled('detailing_lora')} out, or give the file "
            f"with {spelled('loras')} to add it to every stage."
        )
    if detailing_lora and not files.detailing_lora:
        raise UsageError(f"{spelled('detailing_lora', 'FILE')} is required by this pipeline; give it.")
    if distilled_lora and not files.distilled_lora:
        raise UsageError(
            f"the second stage of this pipeline needs the distilled LoRA; give it with {spelled('distilled_lora')}."
        )
    if guided:
        needs_negative = inputs.video_guider.needs_uncond or inputs.audio_guider.needs_uncond
        if inputs.context is not None and inputs.negative_context is None and needs_negative:
            raise UsageError(
                "the embedding holds no negative prompt, which classifier-free guidance needs; encode it with one, "
                "or turn guidance off with scales of 1."
            )


def _check_activations(inputs: GenerationInputs, files: WeightSet) -> None:
    """Activations as 8-bit codes need weights of that kind, and a processor's kernel."""
    if inputs.settings.activations == "float":
        return
    if mx.default_device() != mx.cpu:
        raise UsageError(
            f"{spelled('activations', 'int8')} is for processors: on the GPU 8-bit weights are multiplied with "
            "activations as they are; leave it out."
        )
    source = files.source(TRANSFORMER)
    if not source.loaded_bytes("transformer", param_specs(files.config(TRANSFORMER))).int8:
        raise UsageError(
            f"{spelled('activations', 'int8')} needs a transformer of 8-bit integers, and {source.path} has none; "
            "leave it out, or convert the file: ltx2rt convert --format int8-convrot."
        )


def _check_windows(inputs: GenerationInputs) -> None:
    """What has no meaning for a clip that is made in several windows."""
    if len(inputs.windows) == 1:
        return
    if inputs.settings.latents is not None:
        raise UsageError(
            f"{spelled('latents')} are the noise of a clip that is made at once; leave them out, or "
            f"{spelled('chunked')} with its sizes."
        )
    if inputs.settings.upscale_temporal:
        raise UsageError(
            f"{spelled('upscale_temporal')} would double what the windows of {spelled('chunked')} share; make the "
            "clip first and enlarge it with ltx2rt upscale."
        )


def _check_amount(inputs: GenerationInputs, files: WeightSet, *, video: bool) -> None:
    """Raise UsageError for a clip whose latent no array can hold."""
    amounts = []
    if video:
        shape = video_shape(files, inputs, inputs.height, inputs.width)
        size = (f"{spelled(name)} {value}" for name, value in (("height", inputs.height), ("width", inputs.width)))
        amounts.append((shape.tokens * shape.channels, [*size, f"{spelled('num_frames')} {inputs.num_frames}"]))
    if files.has(AUDIO_VAE):
        sound = audio_shape(files, inputs)
        length = [f"{spelled('num_frames')} {inputs.num_frames}", f"{spelled('frame_rate')} {inputs.frame_rate}"]
        amounts.append((sound.tokens * sound.features, length))
    for values, words in amounts:
        if values > _MOST_VALUES:
            raise UsageError(
                f"the clip is too large: with {', '.join(words)} its latent has {values:.2g} values, and an array "
                f"holds {_MOST_VALUES:.2g}; make it smaller or shorter."
            )


def _check_keyframes(inputs: GenerationInputs, files: WeightSet) -> None:
    """Key frames that are generated besides the clip: whether the model can, and where they stand."""
    settings, places = inputs.settings, inputs.keyframe_positions
    asked = spelled("num_generated_keyframes")
    if settings.decode_with_keyframes and not places:
        raise UsageError(f"{spelled('decode_with_keyframes')} needs key frames to look at; give {asked}.")
    if not places:
        return
    if said := no_keyframes(files):
        raise UsageError(f"{asked}: {said}; leave it out.")
    if not settings.decode_with_keyframes:
        return
    if settings.latents_only:
        log.warning("%s has no effect: %s decodes nothing", spelled("decode_with_keyframes"), spelled("latents_only"))
    for name in ("upscale_spatial", "upscale_temporal"):
        if getattr(settings, name):
            raise UsageError(
                f"{spelled(name)} changes the latent that {spelled('decode_with_keyframes')} decodes together with the "
                "key frames; give one of them."
            )
    named = spelled("decode_with_keyframes")
    check_planes(files, f"{named} has no effect", f"leave {named} out, or give the video VAE of LTX-2.5 as published")


def no_keyframes(files: WeightSet) -> str:
    """Why a model cannot generate key frames; empty: it can."""
    if files.config(TRANSFORMER).keyframe_embedding:
        return ""
    return (
        f"{files.source(TRANSFORMER).path.name} ({files.generation.name}) was not made to generate key frames, only "
        "LTX-2.5 was"
    )


def check_planes(files: WeightSet, without: str, remedy: str) -> None:
    """Whether the video decoder can look at key frames: one that was not trained to would only lose by it.

    Args:
        files: hold the decoder.
        without: what a convolutional decoder, which never does, means to the user.
        remedy: against a decoder that was not trained to.

    Raises:
        CheckpointError: it was not.
    """
    source = files.source(VIDEO_VAE)
    if files.config(VIDEO_VAE).decoder is not None:
        log.warning("%s: its convolutional decoder does not look at key frames; %s", source.path.name, without)
        return
    stated = source.names(VIDEO_VAE.stored_name).get(_KEYFRAME_MARK)
    marked = stated is not None and (source.is_manifest or _is_marked(files, stated.shape))
    if not marked:
        lacking = "is missing" if stated is None else "is zero"
        raise CheckpointError(
            f"{source.path}: {_KEYFRAME_MARK} {lacking}: this decoder was not trained to look at key frames (the "
            f"official code goes on without a word); {remedy}."
        )


def _is_marked(files: WeightSet, shape: tuple[int, ...]) -> bool:
    """Whether what the decoder adds to key frames is anything but zeros."""
    spec = ParamSpec(_KEYFRAME_MARK, shape)
    loaded = files.source(VIDEO_VAE).load(VIDEO_VAE.stored_name, [spec])[_KEYFRAME_MARK]
    assert isinstance(loaded, mx.array)
    return bool(to_numpy((loaded != 0).any()))

"""Opens the weight files of a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import mlx.core as mx

from ltx2rt.api.diffusers_names import LOADING_NAMES
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.api.pipeline_files import Lora, PipelineFiles
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import AUTOMATIC, PIPELINES, pipeline_for, pipeline_name
from ltx2rt.graph.settings.setting import stored_values
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled
from ltx2rt.types import FilePath

log = logging.getLogger(__name__)

MLX_DTYPES: Mapping[str, mx.Dtype] = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


def load(
    pipeline: str = AUTOMATIC,
    *,
    checkpoint: FilePath | None = None,
    transformer: FilePath | None = None,
    text_encoder: FilePath | None = None,
    tokenizer: FilePath | None = None,
    prompt_enhancer: FilePath | None = None,
    connectors: FilePath | None = None,
    text_projection: FilePath | None = None,
    video_vae: FilePath | Sequence[FilePath] | None = None,
    video_decoder: str | None = None,
    audio_vae: FilePath | None = None,
    vocoder: FilePath | None = None,
    duration_head: FilePath | None = None,
    spatial_upscaler: FilePath | None = None,
    temporal_upscaler: FilePath | None = None,
    loras: Sequence[Lora] = (),
    distilled_lora: Lora | None = None,
    detailing_lora: Lora | None = None,
    dtype: str = "bfloat16",
    model_variant: str | None = None,
    keep_loaded: bool | None = None,
    **unknown: NoReturn,
) -> Pipeline:
    """Open the files of a pipeline; only headers are read.

    Args:
        pipeline: one of `PIPELINE_NAMES`; ``text-to-video`` is ``one-stage`` for a dev checkpoint, else ``distilled``.
        checkpoint: the model: a weight file, a folder with all its parts (ComfyUI's models folder, a diffusers
            repository, an MLX pack, one folder of files), or a file with some of them, beside which the others lie.
            None, and no ``transformer`` either: the small embedded model with all its parts.
        transformer, connectors, text_projection, video_vae, audio_vae, vocoder, duration_head: files or folders that
            bring one part, before any other place where it may be found. Both video VAEs of LTX-2.5 may be given.
        video_decoder: ``conv`` or ``diffusion``, where LTX-2.5 is there with both; None: the diffusion decoder.
        text_encoder: folder or file of the Gemma text encoder; may be missing when every call gives an embedding.
        tokenizer: of the text encoder, where it is neither in its file nor beside it.
        prompt_enhancer: folder of another Gemma that rewrites prompts; that of LTX-2.5 cannot.
        spatial_upscaler: latent upscaler x2, for two-stage pipelines and ``upscale_spatial``.
        temporal_upscaler: for ``upscale_temporal``.
        loras: files, or folders with one, with strengths (default 1).
        distilled_lora: the LoRA of the second stage of dev pipelines, with a strength (default 1).
        detailing_lora: the LoRA that the pipeline ``dfr`` adds detail with; a strength has no effect, it is 0.5.
        dtype: of activations: ``bfloat16``, ``float16`` or ``float32``.
        model_variant: ``distilled`` or ``dev``; None: as the checkpoint's file name says, else distilled, with a
            warning where it matters: nothing inside of a file tells.
        keep_loaded: whether weights stay in memory for later stages and calls; see `Pipeline`.
        unknown: refused, with what the argument of another program is called here.

    Raises:
        UsageError: unknown pipeline, dtype or variant, or files that do not go together.
        CheckpointError: a file is missing, damaged or of the wrong kind, or a LoRA is for another model.
    """
    given = {
        "checkpoint": checkpoint,
        "transformer": transformer,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "prompt_enhancer": prompt_enhancer,
        "connectors": connectors,
        "text_projection": text_projection,
        "video_vae": video_vae,
        "video_decoder": video_decoder,
        "audio_vae": audio_vae,
        "vocoder": vocoder,
        "duration_head": duration_head,
        "spatial_upscaler": spatial_upscaler,
        "temporal_upscaler": temporal_upscaler,
        "loras": loras,
        "distilled_lora": distilled_lora,
        "detailing_lora": detailing_lora,
        "dtype": dtype,
        "model_variant": model_variant,
        **unknown,
    }
    return open_pipeline(pipeline, WeightFiles(**stored_values(WeightFiles, given, LOADING_NAMES)), keep_loaded)


def open_pipeline(pipeline: str, given: WeightFiles, keep_loaded: bool | None = None) -> Pipeline:
    """The same from checked settings; see `load`."""
    if not (keep_loaded is None or isinstance(keep_loaded, bool)):
        raise UsageError(f"keep_loaded must be True, False or None, got {keep_loaded!r}.")
    name = pipeline_name(pipeline)
    is_embedded = not given.has_model
    if is_embedded:
        given.require_no_parts("temporal_upscaler")
    entry = None if name == AUTOMATIC else PIPELINES[name]
    origin = PipelineFiles(entry, given)
    used = origin.used
    files = WeightSet.open(used)
    variant = used.model_variant or files.checkpoint.variant
    if variant is None:
        variant = "distilled"
        if not is_embedded and (entry is None or entry.variant is None):
            log.warning(
                "the file name of %s says neither dev nor distilled: it is taken as distilled, with fixed steps and no "
                "guidance; %s says otherwise",
                files.checkpoint.path,
                spelled("model_variant", "dev"),
            )
    entry = pipeline_for(name, variant)
    dtype = MLX_DTYPES[used.dtype]
    return Pipeline(entry, files, dtype, replace(origin, entry=entry), variant, keep_loaded)

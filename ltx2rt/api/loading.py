"""Opens the weight files of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt import embedded
from ltx2rt.api.pipeline import Pipeline, PipelineFiles
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.stages.model_files import ModelFiles

PathLike = str | Path

DTYPES: Mapping[str, mx.Dtype] = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
VARIANTS = ("distilled", "dev")
AUTOMATIC = "text-to-video"
PIPELINE_NAMES = (AUTOMATIC, *PIPELINES)
# Other spellings, of the official modules and of other programs.
PIPELINE_ALIASES = {
    "ti2vid-one-stage": "one-stage",
    "ti2vid-two-stages": "two-stage",
    "ti2vid-two-stages-hq": "two-stage-hq",
    "a2v": "audio-to-video",
    "a2vid-two-stage": "audio-to-video",
    "keyframe": "keyframe-interpolation",
    "t2a": "text-to-audio",
    "t2a-one-stage": "text-to-audio",
}


def load(
    pipeline: str = AUTOMATIC,
    *,
    checkpoint: PathLike | None = None,
    text_encoder: PathLike | None = None,
    spatial_upscaler: PathLike | None = None,
    temporal_upscaler: PathLike | None = None,
    loras: Sequence[tuple[PathLike, float]] = (),
    distilled_lora: tuple[PathLike, float] | PathLike | None = None,
    dtype: str = "bfloat16",
    model_variant: str | None = None,
) -> Pipeline:
    """Open the files of a pipeline; only headers are read.

    Args:
        pipeline: one of `PIPELINE_NAMES`; ``text-to-video`` is ``one-stage`` for a dev checkpoint, else ``distilled``.
        checkpoint: the model's single .safetensors file. None: the small embedded model with all its parts.
        text_encoder: Gemma folder; may be missing when every call gives an embedding.
        spatial_upscaler: latent upscaler x2, for two-stage pipelines and ``upscale_spatial``.
        temporal_upscaler: for ``upscale_temporal``.
        loras: files with strengths, -2 to 2.
        distilled_lora: the LoRA of the second stage of dev pipelines, with a strength (default 1).
        dtype: of activations: ``bfloat16``, ``float16`` or ``float32``.
        model_variant: ``distilled`` or ``dev``; None: as the checkpoint's file name says, else distilled.

    Raises:
        UsageError: unknown pipeline, dtype or variant, or files that do not go together.
        CheckpointError: a file is missing, damaged or of the wrong kind, or a LoRA is for another model.
    """
    name = PIPELINE_ALIASES.get(pipeline.replace("_", "-"), pipeline.replace("_", "-"))
    if name not in PIPELINE_NAMES:
        raise UsageError(f"unknown pipeline {pipeline!r}; use one of {', '.join(PIPELINE_NAMES)}.")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}.")
    if model_variant is not None and model_variant not in VARIANTS:
        raise UsageError(f"unknown model variant {model_variant!r}; use one of {', '.join(VARIANTS)}.")
    if checkpoint is None and (text_encoder is not None or spatial_upscaler is not None):
        raise UsageError("text_encoder and spatial_upscaler need a checkpoint; give the model's file.")
    refinement = (distilled_lora, 1.0) if isinstance(distilled_lora, (str, Path)) else distilled_lora
    lora_paths = tuple((Path(path), float(strength)) for path, strength in loras)
    refinement_paths = () if refinement is None else ((Path(refinement[0]), float(refinement[1])),)
    paths = {
        "checkpoint": embedded.CHECKPOINT if checkpoint is None else Path(checkpoint),
        "text_encoder": embedded.TEXT_ENCODER if checkpoint is None else _path(text_encoder),
        "spatial_upscaler": embedded.SPATIAL_UPSCALER if checkpoint is None else _path(spatial_upscaler),
        "temporal_upscaler": _path(temporal_upscaler),
    }
    assert paths["checkpoint"] is not None
    files = ModelFiles.open(
        paths["checkpoint"],
        paths["text_encoder"],
        paths["spatial_upscaler"],
        lora_paths,
        refinement_paths,
        paths["temporal_upscaler"],
    )
    variant = model_variant or files.checkpoint.variant or "distilled"
    if name == AUTOMATIC:
        name = "one-stage" if variant == "dev" else "distilled"
    given: dict[str, Any] = {"pipeline": name}
    if checkpoint is not None:
        given |= {key: str(path.absolute()) for key, path in paths.items() if path is not None}
    elif temporal_upscaler is not None:
        given["temporal_upscaler"] = str(Path(temporal_upscaler).absolute())
    given |= {"loras": [[str(path.absolute()), strength] for path, strength in lora_paths]} if lora_paths else {}
    if refinement_paths:
        given["distilled_lora"] = [str(refinement_paths[0][0].absolute()), refinement_paths[0][1]]
    given |= {"dtype": dtype} if dtype != "bfloat16" else {}
    given |= {"model_variant": model_variant} if model_variant is not None else {}
    weights = (
        *(path for path in paths.values() if path is not None),
        *(p for p, _ in (*lora_paths, *refinement_paths)),
    )
    return Pipeline(
        name,
        files,
        DTYPES[dtype],
        PipelineFiles(given, weights),
        is_embedded=checkpoint is None,
        distilled_checkpoint=variant == "distilled",
    )


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)

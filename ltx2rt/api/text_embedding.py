"""Encodes prompts once, for runs without the text encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt import embedded
from ltx2rt.api.loading import DTYPES
from ltx2rt.api.record import Record, sidecar_path, write_record
from ltx2rt.api.resolve import DEFAULT_NEGATIVE_PROMPT
from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.graph.stages.text.stage import encode_prompts
from ltx2rt.weights.embedding_file import TextEmbedding, write_embedding

PathLike = str | Path


def encode(
    prompt: str,
    *,
    output: PathLike | None = None,
    negative_prompt: str | None = None,
    checkpoint: PathLike | None = None,
    text_encoder: PathLike | None = None,
    dtype: str = "bfloat16",
    enhancement: SamplingOptions | None = None,
    has_image: bool = False,
    observer: Callable[[Event], None] | None = None,
) -> TextEmbedding:
    """The contexts of a prompt and of a negative prompt.

    Args:
        prompt: what to generate.
        output: where to write them, ``.safetensors`` or ``.npz``, with what they were made from in FILE.json beside;
            None: nowhere.
        negative_prompt: what to avoid; None: `DEFAULT_NEGATIVE_PROMPT`.
        checkpoint: the model whose connectors and projection are used; None: the embedded model.
        text_encoder: its Gemma folder.
        dtype: of activations.
        enhancement: rewrite the prompt first, with these options.
        has_image: the rewritten prompt will continue a picture.
        observer: called with every event; raise `Cancelled` from it to stop.

    Raises:
        UsageError: an empty prompt, an unknown dtype, or a missing text encoder.
        CheckpointError: a file is missing, damaged or of the wrong kind.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}.")
    if not prompt.strip():
        raise UsageError("the prompt is empty; say what to generate with --prompt.")
    if checkpoint is None:
        files = ModelFiles.open(embedded.CHECKPOINT, embedded.TEXT_ENCODER)
    elif text_encoder is None:
        raise UsageError("the text encoder is missing; give the Gemma folder with --gemma-root.")
    else:
        files = ModelFiles.open(Path(checkpoint), Path(text_encoder))
    negative = DEFAULT_NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
    run = Run(files, _text_request(prompt, negative, DTYPES[dtype]), observer)
    if enhancement is not None:
        prompt = enhance_prompt(run, prompt, enhancement, has_image=has_image)
        run.request = replace(run.request, prompt=prompt)
    assert files.tokenizer is not None
    assert files.text_encoder is not None
    positive, avoided = encode_prompts(run, [prompt, negative])
    config = files.text_encoder.section("text_encoder")
    embedding = TextEmbedding(
        generation=files.checkpoint.generation or "19b",
        video_context=positive.video,
        audio_context=positive.audio,
        negative_video_context=avoided.video,
        negative_audio_context=avoided.audio,
        model_version=files.checkpoint.metadata.get("model_version", ""),
        encoder_id=str(config.get("gemma_version") or files.text_encoder.path.name),
        prompt=prompt,
        negative_prompt=negative,
        num_tokens=len(files.tokenizer.encode(prompt)),
    )
    if output is not None:
        write_embedding(output, embedding)
        settings: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative, "dtype": dtype}
        settings |= {} if enhancement is None else {"enhanced": asdict(enhancement), "has_image": has_image}
        paths = (files.checkpoint.path, files.text_encoder.path)
        given = {"checkpoint": str(paths[0].absolute()), "text_encoder": str(paths[1].absolute())}
        write_record(sidecar_path(Path(output)), Record.of({"pipeline": "encode", **given}, settings, paths, []))
    return embedding


def _text_request(prompt: str, negative_prompt: str, dtype: mx.Dtype) -> Request:
    """A request of which only the text is used."""
    return Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=0,
        height=64,
        width=64,
        num_frames=1,
        frame_rate=Fraction(24),
        num_inference_steps=1,
        video_guider=GuiderParams(),
        audio_guider=GuiderParams(),
        dtype=dtype,
    )

"""Encodes prompts once, for runs without the text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltx2rt import embedded
from ltx2rt.api.loading import MLX_DTYPES
from ltx2rt.api.output_files import check_files, check_folder, embedding_files
from ltx2rt.api.planning import ledger
from ltx2rt.api.planning import rates as measured_rates
from ltx2rt.api.record import Record, sidecar_path, write_record
from ltx2rt.errors import UsageError
from ltx2rt.graph.components import PROMPT_ENHANCER, TEXT_ENCODER, TEXT_PROJECTION, VIDEO_CONNECTOR
from ltx2rt.graph.pipelines.decide import with_defaults
from ltx2rt.graph.pipelines.plan import Plan, Rates, plan
from ltx2rt.graph.settings.settings import DEFAULT_NEGATIVE_PROMPT, Settings
from ltx2rt.graph.settings.weight_files import MODEL, TEXT, files_of
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.inputs import GenerationInputs, PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.graph.stages.text.stage import encode_prompts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.output_lock import held
from ltx2rt.paths import expanded
from ltx2rt.spelling import spelled
from ltx2rt.types import FilePath
from ltx2rt.weights.embedding_file import TextEmbedding, write_embedding
from ltx2rt.weights.sets import parts as roles


def encode(
    prompt: str,
    *,
    output: FilePath | None = None,
    overwrite: bool = True,
    negative_prompt: str | None = None,
    checkpoint: FilePath | None = None,
    text_encoder: FilePath | None = None,
    dtype: str = "bfloat16",
    enhancement: Mapping[str, Any] | None = None,
    has_image: bool = False,
    memory: str | int | None = None,
    observer: Callable[[Event], None] | None = None,
    on_taken: Callable[[Mapping[str, Path]], None] | None = None,
    **parts: FilePath | None,
) -> TextEmbedding:
    """The contexts of a prompt and of a negative prompt.

    Args:
        prompt: what to generate.
        output: where to write them, ``.safetensors`` or ``.npz``, with what they were made from in FILE.json beside;
            None: nowhere.
        overwrite: replace files that exist; those that the embedding is made from never are.
        negative_prompt: what to avoid; None: `DEFAULT_NEGATIVE_PROMPT`.
        checkpoint: the model whose connectors and projection are used; None: the embedded model.
        text_encoder: its Gemma text encoder, a folder or a file.
        dtype: of activations.
        enhancement: rewrite the prompt first; with ``temperature``, ``top_k``, ``top_p``, ``seed`` and
            ``max_new_tokens`` where they shall not be those that are usual for the model.
        has_image: the rewritten prompt will continue a picture.
        memory: what the process may take, ``12GB`` or bytes; None: most of what is free. It does not change the result.
        observer: called with every event; raise `Cancelled` from it to stop.
        on_taken: called once with the files that are taken without having been named: setting -> path.
        parts: ``transformer``, ``connectors``, ``text_projection``, ``tokenizer``, ``prompt_enhancer``,
            ``model_variant``: as for `load`.

    Raises:
        UsageError: an empty prompt, an unknown dtype, a missing text encoder, or an output of another kind, that is an
            input, that exists, or that another run is writing.
        CheckpointError: a file is missing, damaged or of the wrong kind.
        MemoryBudgetError: a stage does not fit; before anything is loaded, unless the system refuses memory later.
    """
    given = {"checkpoint": checkpoint, "text_encoder": text_encoder, "dtype": dtype, **parts}
    written = [] if output is None else embedding_files(expanded(output))
    for file in written:
        check_folder(file)
    files, inputs, work = _prepare(prompt, negative_prompt, given, enhancement, on_taken, has_image=has_image)
    with held(file.path for file in written):
        check_files(written, [source.path for source in files.sources.values()], overwrite=overwrite)
        return _encoded(files, inputs, work, memory, observer, output, dtype, enhancement, has_image=has_image)


def _encoded(
    files: WeightSet,
    inputs: GenerationInputs,
    work: Callable[[Run], list[PromptContext]],
    memory: str | int | None,
    observer: Callable[[Event], None] | None,
    output: FilePath | None,
    dtype: str,
    enhancement: Mapping[str, Any] | None,
    *,
    has_image: bool,
) -> TextEmbedding:
    """Encode, and write what is to be written."""
    accounts = ledger(memory)
    plan(work, files, inputs, accounts.unused())
    run = Run(files, inputs, observer, ledger=accounts)
    positive, avoided = work(run)
    prompt, negative = run.inputs.prompt, run.inputs.settings.negative_prompt or ""
    assert files.tokenizer is not None
    encoder = files.source(TEXT_ENCODER)
    config = encoder.section("text_encoder")
    embedding = TextEmbedding(
        generation=files.generation.name,
        video_context=positive.video,
        audio_context=positive.audio,
        negative_video_context=avoided.video,
        negative_audio_context=avoided.audio,
        model_version=files.checkpoint.metadata.get("model_version", ""),
        encoder_id=str(config.get("gemma_version") or encoder.path.name),
        prompt=prompt,
        negative_prompt=negative,
        num_tokens=len(files.tokenizer.encode(prompt)),
    )
    if output is not None:
        output = expanded(output)
        write_embedding(output, embedding)
        settings: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative, "dtype": dtype}
        settings |= {} if enhancement is None else {"enhanced": dict(enhancement), "has_image": has_image}
        paths = {"checkpoint": files.checkpoint.path, "text_encoder": encoder.path}
        for name, part in (("connectors", VIDEO_CONNECTOR), ("text_projection", TEXT_PROJECTION)):
            if (path := files.source(part).path) not in paths.values():
                paths[name] = path
        if enhancement is not None and files.has(PROMPT_ENHANCER):
            paths["prompt_enhancer"] = files.source(PROMPT_ENHANCER).path
        named = {name: str(path.absolute()) for name, path in paths.items()}
        write_record(sidecar_path(output), Record.of({"pipeline": "encode", **named}, settings, [*paths.values()], []))
    return embedding


def plan_encode(
    prompt: str,
    *,
    negative_prompt: str | None = None,
    checkpoint: FilePath | None = None,
    text_encoder: FilePath | None = None,
    dtype: str = "bfloat16",
    enhancement: Mapping[str, Any] | None = None,
    has_image: bool = False,
    memory: str | int | None = None,
    rates: Rates | None = None,
    on_taken: Callable[[Mapping[str, Path]], None] | None = None,
    **parts: FilePath | None,
) -> Plan:
    """What `encode` would take; loads nothing.

    Args:
        prompt, negative_prompt, checkpoint, text_encoder, dtype, enhancement, has_image, memory, on_taken, parts: as
            for `encode`.
        rates: speeds to predict seconds with; default: measured and assumed ones.

    Raises:
        UsageError, CheckpointError, MemoryBudgetError: as `encode`.
    """
    given = {"checkpoint": checkpoint, "text_encoder": text_encoder, "dtype": dtype, **parts}
    files, inputs, work = _prepare(prompt, negative_prompt, given, enhancement, on_taken, has_image=has_image)
    return plan(work, files, inputs, ledger(memory), measured_rates() if rates is None else rates)


def _prepare(
    prompt: str,
    negative_prompt: str | None,
    files_given: Mapping[str, Any],
    enhancement: Mapping[str, Any] | None,
    on_taken: Callable[[Mapping[str, Path]], None] | None,
    *,
    has_image: bool,
) -> tuple[WeightSet, GenerationInputs, Callable[[Run], list[PromptContext]]]:
    """The opened files, the inputs, and what is done with a run, planned or real."""
    given = files_of((MODEL, TEXT), files_given)
    settings = Settings.of({"prompt": prompt, "negative_prompt": negative_prompt})
    settings = with_defaults(settings, prompt="", negative_prompt=DEFAULT_NEGATIVE_PROMPT)
    if not settings.prompt or not settings.prompt.strip():
        raise UsageError(f"the prompt is empty; say what to generate with {spelled('prompt')}.")
    if not given.has_model:
        given.require_no_parts()
        given = replace(given, checkpoint=embedded.CHECKPOINT, text_encoder=embedded.TEXT_ENCODER)

    def work(run: Run) -> list[PromptContext]:
        settings = run.inputs.settings
        if enhancement is not None:
            text = enhance_prompt(run, run.inputs.prompt, enhancement, has_image=has_image)
            settings = replace(settings, prompt=text)
            run.inputs = replace(run.inputs, settings=settings)
        return encode_prompts(run, [settings.prompt or "", settings.negative_prompt or ""])

    files = WeightSet.open(given, roles.TEXT)
    files.require("connectors", "text_projection")
    if not files.has(TEXT_ENCODER):
        raise UsageError(f"the text encoder is missing; give {spelled('text_encoder', 'PATH')}.")
    if on_taken is not None:
        on_taken(files.taken)
    return files, GenerationInputs.without_clip(settings, dtype=MLX_DTYPES[given.dtype]), work

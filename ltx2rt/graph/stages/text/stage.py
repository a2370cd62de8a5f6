"""Stages that turn prompts into contexts: the text encoder, the text projection, then the connectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import CONNECTORS, TEXT_ENCODER, TEXT_PROJECTION, TRANSFORMER
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.encoding import connect
from ltx2rt.graph.stages.text.kept_contexts import context_key, keep_context, kept_context
from ltx2rt.graph.stages.text.models import encoding_model, whole_model
from ltx2rt.graph.stages.text.needs import (
    connector_options,
    encoder_options,
    projection_options,
)
from ltx2rt.graph.stages.weight_set import WeightSet, fuse_dtype
from ltx2rt.memory.stage import Stage
from ltx2rt.spelling import spelled
from ltx2rt.types import Array
from ltx2rt.weights.kept_weights import StageWeights
from ltx2rt.weights.tokenizer import MAX_TOKENS, GemmaTokenizer

log = logging.getLogger(__name__)

# Of a text that is too long, in the warning about it.
_SHOWN_CHARACTERS = 60
# Length of a prompt in a plan that knows no tokenizer.
_ASSUMED_TOKENS = 256


def positive_context(run: Run) -> PromptContext:
    """Context of the prompt, from the request or from the text encoder."""
    return run.inputs.context or encode_prompts(run, [run.inputs.prompt])[0]


def guided_contexts(run: Run) -> tuple[PromptContext, PromptContext | None]:
    """Contexts of the prompt and the negative prompt, from the request or from the text encoder."""
    inputs = run.inputs
    if inputs.context is not None:
        return inputs.context, inputs.negative_context
    positive, negative = encode_prompts(run, [inputs.prompt, inputs.settings.negative_prompt or ""])
    return positive, negative


def zero_context(files: WeightSet) -> PromptContext:
    """A context of zeros, for tests of everything but the text encoder."""
    config = files.config(TRANSFORMER)
    widths = (config.caption_channels or stream.context_dim for stream in (config.video, config.audio))
    return PromptContext(*(mx.zeros((1, MAX_TOKENS, width), mx.bfloat16) for width in widths))


def encode_prompts(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    """Contexts of each prompt: stages "text encoder", "text projection" and "connectors", or from an earlier run."""

    def compute() -> dict[str, mx.array]:
        contexts = _contexts(run, prompts)
        return {f"{index}.{name}": value for index, c in enumerate(contexts) for name, value in c._asdict().items()}

    arrays = run.remember("text contexts", compute)
    run.ledger.carried += sum(array.nbytes for array in arrays.values())
    return [PromptContext(arrays[f"{index}.video"], arrays[f"{index}.audio"]) for index in range(len(prompts))]


class _TextPath(NamedTuple):
    """What follows the text encoder: how the projection reads its states, and the weights of projection and
    connectors."""

    extractor: feature_extractor.FeatureExtractorConfig
    projection: StageWeights
    connections: list[StageWeights]


def _text_path(run: Run) -> _TextPath:
    files, dtype = run.files, run.inputs.dtype
    kind = files.config(TEXT_ENCODER)
    extractor = replace(files.config(TEXT_PROJECTION), encoder_width=kind.hidden_size, encoder_states=kind.num_states)
    projection = files.weights(
        TEXT_PROJECTION, feature_extractor.param_specs(extractor), files.loras, fuse_dtype(dtype)
    )
    connections = [
        files.weights(component, connector.param_specs(files.config(component)), files.loras, fuse_dtype(dtype))
        for component in CONNECTORS
    ]
    return _TextPath(extractor, projection, connections)


def _contexts(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    """Contexts of each prompt; those that no earlier run has left are encoded."""
    files, tokenizer = run.files, run.files.tokenizer
    if not files.has(TEXT_ENCODER) or (tokenizer is None and not run.planning):
        raise UsageError("the text encoder is missing; give the Gemma folder or a text embedding.")
    if tokenizer is None:
        return _encode(run, [np.zeros(_ASSUMED_TOKENS, np.int32) for _ in prompts])
    ids = [tokenizer.encode(text) for text in prompts]
    if not run.planning:
        _warn_of_long_prompts(tokenizer, prompts)
    kept = run.inputs.kept_prompts
    if kept is None:
        return _encode(run, ids)
    _, projection, connections = _text_path(run)
    keys = [context_key(run, *prompt, [projection, *connections]) for prompt in zip(prompts, ids, strict=True)]
    if run.planning:
        # The first prompt is the one that enhancement rewrites: then nobody knows it yet.
        new = [i for i, key in enumerate(keys) if not kept.has(key) or (i == 0 and run.written_tokens)]
        if new:
            _encode(run, [ids[i] for i in new])
        return [zero_context(files) for _ in prompts]
    found = [kept_context(run, key) for key in keys]
    new = [i for i, context in enumerate(found) if context is None]
    if len(new) < len(prompts):
        log.info("%d of %d prompts were encoded by an earlier run", len(prompts) - len(new), len(prompts))
    for i, context in zip(new, _encode(run, [ids[i] for i in new]) if new else (), strict=True):
        keep_context(run, keys[i], context)
        found[i] = context
    return [context for context in found if context is not None]


def _warn_of_long_prompts(tokenizer: GemmaTokenizer, prompts: Sequence[str]) -> None:
    for name, text in zip(("prompt", "negative_prompt"), prompts, strict=False):
        count, left_out = tokenizer.cut(text)
        if left_out:
            log.warning(
                "%s has %d tokens, of which the text encoder reads the first %d; left out is what begins with %r",
                spelled(name),
                count,
                MAX_TOKENS,
                left_out[:_SHOWN_CHARACTERS],
            )


def _encode(run: Run, ids: Sequence[Array]) -> list[PromptContext]:
    """Contexts of some prompts, given as tokens (n,) int32; of a plan's, the first may be one that is still written."""
    files, dtype = run.files, run.inputs.dtype
    encoder = files.source(TEXT_ENCODER)
    kind = files.config(TEXT_ENCODER)
    extractor_config, projection, connections = _text_path(run)
    tokens = [len(of_prompt) for of_prompt in ids]
    # The first prompt is the one that enhancement rewrites.
    tokens[0] = min(max(tokens[0], run.written_tokens + 1), MAX_TOKENS)
    resident = run.keeps_weights
    encoding = run.choose(
        encoder_options(encoder, kind, extractor_config, tokens, dtype, resident=resident), whole_model(files)
    )
    projecting = run.choose(projection_options(projection, extractor_config, tokens, resident=resident), projection)
    connecting = run.choose(connector_options(files, connections, len(ids), dtype), *connections)
    if run.planning:
        return [zero_context(files) for _ in ids]

    with run.stage(encoding) as stage:
        extractor = feature_extractor.FeatureExtractor(extractor_config, Params({}), dtype)
        model = encoding_model(run, stage, encoding.settings["depth"])
        normalised = extractor.normalised([model.hidden_states(of_prompt) for of_prompt in ids])
    with run.stage(projecting) as stage:
        features = _project(run, stage, extractor_config, projection, projecting.settings["rows"], normalised)
        normalised.clear()
    with run.stage(connecting) as stage:
        models = [
            connector.Connector(files.config(component), Params(run.load(stage, weights)), dtype)
            for component, weights in zip(CONNECTORS, connections, strict=True)
        ]
        contexts = [connect(feature, *models) for feature in features]
        for context in contexts:
            for name, values in context._asdict().items():
                require_finite(connecting.name, f"the {name} context", values)
        return contexts


def _project(
    run: Run,
    stage: Stage,
    config: feature_extractor.FeatureExtractorConfig,
    projection: StageWeights,
    rows: int,
    normalised: list[list[mx.array]],
) -> list[feature_extractor.TextFeatures]:
    """The aggregate projections, whose weights are used ``rows`` rows at a time, and read so where they do not stay."""
    dtype, checkpoint = run.inputs.dtype, projection.checkpoint
    if run.keeps_weights:
        params = Params(run.load(stage, projection))
        return feature_extractor.FeatureExtractor(config, params, dtype, rows_per_slab=rows).project(normalised)
    specs = {spec.name: spec for spec in projection.specs}
    biases = [spec for name, spec in specs.items() if name.endswith(".bias")]
    arrays = run.load(stage, replace(projection, specs=biases)) if biases else {}

    def weight_rows(name: str, first: int, last: int) -> mx.array:
        loaded = checkpoint.load_rows(
            "text_projection", specs[name], range(first, last), projection.loras, projection.fuse_dtype
        )
        assert isinstance(loaded, mx.array)
        return loaded

    extractor = feature_extractor.FeatureExtractor(
        config, Params(arrays), dtype, weight_rows=weight_rows, rows_per_slab=rows
    )
    return extractor.project(normalised)

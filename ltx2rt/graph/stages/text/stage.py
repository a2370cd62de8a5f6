"""Stages that turn prompts into contexts: the text encoder, the text projection, then the connectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

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
from ltx2rt.graph.stages.text.models import encoding_model, whole_model
from ltx2rt.graph.stages.text.needs import (
    connector_options,
    encoder_options,
    projection_options,
)
from ltx2rt.graph.stages.weight_set import WeightSet, fuse_dtype
from ltx2rt.memory.stage import Stage
from ltx2rt.spelling import spelled
from ltx2rt.weights.kept_weights import StageWeights
from ltx2rt.weights.tokenizer import MAX_TOKENS

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
    """Contexts of each prompt: stages "text encoder", "text projection" and "connectors"."""

    def compute() -> dict[str, mx.array]:
        contexts = _encode(run, prompts)
        return {f"{index}.{name}": value for index, c in enumerate(contexts) for name, value in c._asdict().items()}

    arrays = run.remember("text contexts", compute)
    run.ledger.carried += sum(array.nbytes for array in arrays.values())
    return [PromptContext(arrays[f"{index}.video"], arrays[f"{index}.audio"]) for index in range(len(prompts))]


def _encode(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    files, dtype = run.files, run.inputs.dtype
    tokenizer = files.tokenizer
    if not files.has(TEXT_ENCODER) or (tokenizer is None and not run.planning):
        raise UsageError("the text encoder is missing; give the Gemma folder or a text embedding.")
    encoder = files.source(TEXT_ENCODER)
    kind = files.config(TEXT_ENCODER)
    extractor_config = replace(
        files.config(TEXT_PROJECTION), encoder_width=kind.hidden_size, encoder_states=kind.num_states
    )
    ids = [np.zeros(_ASSUMED_TOKENS, np.int32) if tokenizer is None else tokenizer.encode(text) for text in prompts]
    tokens = [len(of_prompt) for of_prompt in ids]
    # The first prompt is the one that enhancement rewrites.
    tokens[0] = min(max(tokens[0], run.written_tokens + 1), MAX_TOKENS)
    resident = run.keeps_weights
    encoding = run.choose(
        encoder_options(encoder, kind, extractor_config, tokens, dtype, resident=resident), whole_model(files)
    )
    projection = files.weights(
        TEXT_PROJECTION, feature_extractor.param_specs(extractor_config), files.loras, fuse_dtype(dtype)
    )
    projecting = run.choose(projection_options(projection, extractor_config, tokens, resident=resident), projection)
    connectors = [files.config(component) for component in CONNECTORS]
    connections = [
        files.weights(component, connector.param_specs(config), files.loras, fuse_dtype(dtype))
        for component, config in zip(CONNECTORS, connectors, strict=True)
    ]
    connecting = run.choose(connector_options(files, connections, len(prompts), dtype), *connections)
    if run.planning:
        return [zero_context(files) for _ in prompts]

    assert tokenizer is not None
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
    with run.stage(encoding) as stage:
        extractor = feature_extractor.FeatureExtractor(extractor_config, Params({}), dtype)
        model = encoding_model(run, stage, encoding.settings["depth"])
        normalised = extractor.normalised([model.hidden_states(of_prompt) for of_prompt in ids])
    with run.stage(projecting) as stage:
        features = _project(run, stage, extractor_config, projection, projecting.settings["rows"], normalised)
        normalised.clear()
    with run.stage(connecting) as stage:
        models = [
            connector.Connector(config, Params(run.load(stage, weights)), dtype)
            for config, weights in zip(connectors, connections, strict=True)
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

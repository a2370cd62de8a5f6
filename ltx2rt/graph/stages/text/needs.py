"""What the stages of the text path need: the text encoder, the text projection, the connectors, prompt enhancement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx

from ltx2rt.graph.models.text import connector, feature_extractor, gemma3
from ltx2rt.graph.models.text.footprint import (
    connector_flops,
    connector_footprint,
    encoder_flops,
    encoder_footprint,
    head_flops,
    kept_bytes,
    key_value_bytes,
    normalised_bytes,
    projection_flops,
    projection_footprint,
    writing_footprint,
)
from ltx2rt.graph.stages.streamed_blocks import DEPTHS, streamed_text
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.types import ParamSpec
from ltx2rt.weights.block_stream import slots_bytes
from ltx2rt.weights.checkpoint import Checkpoint

# Rows of the projection's weight that are in memory at a time.
PROJECTION_ROWS = (960, 128)


def layer_specs(config: gemma3.Gemma3Config) -> list[list[ParamSpec]]:
    """What each layer needs."""
    return [gemma3.layer_specs(config, index) for index in range(config.num_layers)]


def embedding_spec(config: gemma3.Gemma3Config) -> ParamSpec:
    """The embedding, which is the head of the language model, too."""
    (embedding,) = (spec for spec in gemma3.param_specs(config) if spec.name == "embed_tokens.weight")
    return embedding


def resident_specs(config: gemma3.Gemma3Config) -> list[ParamSpec]:
    """What the encoder needs besides its layers and the embedding, of which only the rows of the prompt are read."""
    layers = {spec.name for specs in layer_specs(config) for spec in specs}
    return [s for s in gemma3.param_specs(config) if s.name not in layers and s != embedding_spec(config)]


def encoder_options(
    encoder: Checkpoint,
    config: gemma3.Gemma3Config,
    extractor: feature_extractor.FeatureExtractorConfig,
    tokens: Sequence[int],
    dtype: mx.Dtype,
) -> Iterator[Need]:
    """Stage "text encoder". Every layer is used once, so its layers are always read while it computes."""
    layers = [encoder.loaded_bytes("text_encoder", specs) for specs in layer_specs(config)]
    ends = encoder.loaded_bytes("text_encoder", resident_specs(config)).arrays
    footprint = encoder_footprint(config, max(tokens), dtype.size)
    # What the projection will read, of all prompts.
    caches = sum(normalised_bytes(extractor, n) for n in tokens)
    common = Need(
        "text encoder",
        caches=caches,
        activations=footprint.activations,
        working=footprint.working,
        flops=sum(encoder_flops(config, n) for n in tokens),
        advice=f"shorten the prompt, or encode it once on a larger machine and give it as {spelled('embedding')}",
    )
    for depth in DEPTHS:
        yield replace(
            common,
            weights=ends,
            slots=slots_bytes([layer.stored for layer in layers], depth),
            streamed=sum(layer.stored for layer in layers),
            choice={"layers": streamed_text(depth)},
            settings={"depth": depth},
        )


def projection_options(
    checkpoint: Checkpoint, config: feature_extractor.FeatureExtractorConfig, tokens: Sequence[int]
) -> Iterator[Need]:
    """Stage "text projection". Every row of its weight is used once, so a part of them is read at a time."""
    specs = feature_extractor.param_specs(config)
    loaded = checkpoint.loaded_bytes("text_projection", specs)
    widths = [width for _, width in config.projections]
    for most in PROJECTION_ROWS:
        rows = min(most, max(widths))
        footprint = projection_footprint(config, max(tokens), rows)
        yield Need(
            "text projection",
            slots=loaded.arrays * rows // sum(widths),
            streamed=loaded.stored,
            caches=sum(kept_bytes(config, n) for n in tokens),
            activations=footprint.activations,
            working=footprint.working,
            flops=sum(projection_flops(config, n) for n in tokens),
            choice={"weight": f"{rows} rows at a time"},
            settings={"rows": rows},
            advice="shorten the prompt",
        )


def connector_options(
    checkpoint: Checkpoint,
    configs: Sequence[connector.ConnectorConfig],
    prompts: int,
    dtype: mx.Dtype,
) -> Iterator[Need]:
    """Stage "connectors": the two of them together or one after the other."""
    loaded = [
        checkpoint.loaded_bytes(component, connector.param_specs(config)).arrays
        for component, config in zip(("video_connector", "audio_connector"), configs, strict=True)
    ]
    footprints = [connector_footprint(config, dtype.size) for config in configs]
    largest = max(footprints, key=lambda footprint: footprint.total)
    contexts = prompts * connector.CONTEXT_ROWS * sum(config.width for config in configs) * dtype.size
    yield Need(
        "connectors",
        weights=sum(loaded),
        caches=contexts,
        activations=largest.activations,
        working=largest.working,
        flops=prompts * sum(connector_flops(config) for config in configs),
        advice=f"encode the prompt once on a larger machine and give the file with {spelled('embedding')}",
    )


def enhancement_options(
    encoder: Checkpoint, config: gemma3.Gemma3Config, tokens: int, new_tokens: int, dtype: mx.Dtype
) -> Iterator[Need]:
    """Stage "prompt enhancement", for a conversation of ``tokens`` tokens and at most ``new_tokens`` written ones.

    Every layer is used for every token: resident, or read from disk as many times.
    """
    layers = [encoder.loaded_bytes("text_encoder", specs) for specs in layer_specs(config)]
    stored = sum(layer.stored for layer in layers)
    ends = encoder.loaded_bytes("text_encoder", [embedding_spec(config), *resident_specs(config)]).arrays
    footprint = writing_footprint(config, tokens, new_tokens, dtype.size)
    common = Need(
        "prompt enhancement",
        caches=key_value_bytes(config, tokens, new_tokens, dtype.size),
        activations=footprint.activations,
        working=footprint.working,
        host=footprint.host,
        flops=encoder_flops(config, tokens) + new_tokens * (encoder_flops(config, 1) + head_flops(config)),
        advice=f"leave out {spelled('enhance_prompt')}",
    )
    yield replace(
        common,
        weights=ends + sum(layer.arrays for layer in layers),
        choice={"layers": "resident"},
        settings={"depth": 0},
    )
    for depth in DEPTHS:
        yield replace(
            common,
            weights=ends,
            slots=slots_bytes([layer.stored for layer in layers], depth),
            streamed=new_tokens * stored,
            choice={"layers": f"{streamed_text(depth)}, for every token"},
            settings={"depth": depth},
        )

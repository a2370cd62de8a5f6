"""What the stages of the text path need: the text encoder, the text projection, the connectors, prompt enhancement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx

from ltx2rt.graph.components import CONNECTORS, TEXT_ENCODER
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.models.text.footprint import (
    connector_flops,
    connector_footprint,
    kept_bytes,
    normalising_bytes,
    projection_flops,
    projection_footprint,
)
from ltx2rt.graph.protocols import TextEncoder, TextWriter
from ltx2rt.graph.stages.streamed_blocks import DEPTHS, streamed_text
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.weights.block_stream import slots_bytes
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.kept_weights import StageWeights
from ltx2rt.weights.lora.fusing import changes_of, fusing_bytes

# Rows of the projection's weight that are in memory at a time.
PROJECTION_ROWS = (960, 128)


def encoder_options(
    encoder: Checkpoint,
    model: TextEncoder,
    extractor: feature_extractor.FeatureExtractorConfig,
    tokens: Sequence[int],
    dtype: mx.Dtype,
    *,
    resident: bool,
) -> Iterator[Need]:
    """Stage "text encoder". Every layer is used once, so its layers are read while it computes; with ``resident`` first
    the way for weights that stay, with all of them and the embedding in memory."""
    layers = [encoder.loaded_bytes("text_encoder", specs) for specs in model.layer_specs()]
    made = max(layer.made + layer.working for layer in layers)
    ends = encoder.loaded_bytes("text_encoder", model.resident_specs()).arrays
    footprint = model.encoding_footprint(max(tokens), dtype.size, max(layer.rotation for layer in layers))
    # What the projection will read, of all prompts.
    caches = sum(kept_bytes(extractor, n) for n in tokens)
    common = Need(
        "text encoder",
        caches=caches,
        activations=max(footprint.activations, normalising_bytes(extractor, max(tokens))),
        working=footprint.working,
        flops=sum(model.encoding_flops(n) for n in tokens),
        advice=f"shorten the prompt, or encode it once on a larger machine and give it as {spelled('embedding')}",
    )
    if resident:
        whole = encoder.loaded_bytes("text_encoder", TEXT_ENCODER.specs(model))
        yield replace(common, weights=whole.arrays, choice={"layers": "resident"}, settings={"depth": 0}).while_loading(
            whole.loading
        )
    for depth in DEPTHS:
        yield replace(
            common,
            can_be_kept=False,
            weights=ends,
            slots=slots_bytes([layer.stored for layer in layers], depth) + made,
            streamed=sum(layer.stored for layer in layers),
            choice={"layers": streamed_text(depth)},
            settings={"depth": depth},
        )


def projection_options(
    projection: StageWeights,
    config: feature_extractor.FeatureExtractorConfig,
    tokens: Sequence[int],
    *,
    resident: bool,
) -> Iterator[Need]:
    """Stage "text projection". Every row of its weight is used once, so a part of them is read at a time; with
    ``resident`` all of them are there, and a part is used at a time."""
    loaded = projection.loaded_bytes
    widths = [width for _, width in config.projections]
    for most in PROJECTION_ROWS:
        rows = min(most, max(widths))
        footprint = projection_footprint(config, max(tokens), rows)
        yield Need(
            "text projection",
            weights=loaded.arrays if resident else 0,
            slots=0 if resident else loaded.arrays * rows // sum(widths),
            streamed=0 if resident else loaded.stored,
            caches=sum(kept_bytes(config, n) for n in tokens),
            activations=footprint.activations,
            working=footprint.working + _changing_bytes(projection, rows),
            flops=sum(projection_flops(config, n) for n in tokens),
            choice={"weight": "resident" if resident else f"{rows} rows at a time"},
            settings={"rows": rows},
            advice="shorten the prompt",
            can_be_kept=resident,
        ).while_loading(loaded.loading if resident else 0)


def _changing_bytes(projection: StageWeights, rows: int) -> int:
    """Most bytes of temporary arrays while LoRAs change ``rows`` rows of the projections; 0 where none does."""
    found = [(spec.shape, changes_of(projection.component, spec.name, projection.loras)) for spec in projection.specs]
    sizes = (fusing_bytes((min(rows, n), *columns), changes) for (n, *columns), changes in found if changes)
    return max(sizes, default=0)


def connector_options(
    files: WeightSet, weights: Sequence[StageWeights], prompts: int, dtype: mx.Dtype
) -> Iterator[Need]:
    """Stage "connectors": the two of them together or one after the other."""
    configs = [files.config(component) for component in CONNECTORS]
    loaded = [of_one.loaded_bytes for of_one in weights]
    footprints = [
        connector_footprint(config, dtype.size, of_one.rotation) for config, of_one in zip(configs, loaded, strict=True)
    ]
    largest = max(footprints, key=lambda footprint: footprint.total)
    contexts = prompts * connector.CONTEXT_ROWS * sum(config.width for config in configs) * dtype.size
    yield Need(
        "connectors",
        weights=sum(of_one.arrays for of_one in loaded),
        caches=contexts,
        activations=largest.activations,
        working=largest.working,
        flops=prompts * sum(connector_flops(config) for config in configs),
        advice=f"encode the prompt once on a larger machine and give the file with {spelled('embedding')}",
    ).while_loading(max(of_one.loading for of_one in loaded))


def enhancement_options(
    encoder: Checkpoint, model: TextWriter, tokens: int, new_tokens: int, dtype: mx.Dtype
) -> Iterator[Need]:
    """Stage "prompt enhancement", for a conversation of ``tokens`` tokens and at most ``new_tokens`` written ones.

    Every layer is used for every token: resident, or read from disk as many times.
    """
    layers = [encoder.loaded_bytes("text_encoder", specs) for specs in model.layer_specs()]
    stored = sum(layer.stored for layer in layers)
    made = max(layer.made + layer.working for layer in layers)
    ends = encoder.loaded_bytes("text_encoder", [model.embedding_spec(), *model.resident_specs()]).arrays
    rotation = max(layer.rotation for layer in layers)
    footprint = model.writing_footprint(tokens, new_tokens, dtype.size, rotation)
    common = Need(
        "prompt enhancement",
        caches=model.kept_bytes(tokens, new_tokens, dtype.size),
        activations=footprint.activations,
        working=footprint.working,
        host=footprint.host,
        flops=model.writing_flops(tokens, new_tokens),
        advice=f"leave out {spelled('enhance_prompt')}",
    )
    held = [model.embedding_spec(), *model.resident_specs(), *(spec for layer in model.layer_specs() for spec in layer)]
    whole = encoder.loaded_bytes("text_encoder", held)
    yield replace(common, weights=whole.arrays, choice={"layers": "resident"}, settings={"depth": 0}).while_loading(
        whole.loading
    )
    for depth in DEPTHS:
        yield replace(
            common,
            weights=ends,
            slots=slots_bytes([layer.stored for layer in layers], depth) + made,
            streamed=new_tokens * stored,
            choice={"layers": f"{streamed_text(depth)}, for every token"},
            settings={"depth": depth},
            can_be_kept=False,
        )

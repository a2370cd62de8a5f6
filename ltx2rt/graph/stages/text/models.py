"""The text encoder's model inside a stage: for encoding prompts, and for writing text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import gemma3
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.needs import embedding_spec, layer_specs, resident_specs
from ltx2rt.memory.stage import Stage
from ltx2rt.types import LinearWeight
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.kept_weights import WeightSet


def whole_model(encoder: Checkpoint, config: gemma3.Gemma3Config) -> WeightSet:
    """All weights, for encoding as for writing."""
    return WeightSet(encoder, "text_encoder", gemma3.param_specs(config))


def encoding_model(
    run: Run, stage: Stage, encoder: Checkpoint, config: gemma3.Gemma3Config, depth: int
) -> gemma3.Gemma3:
    """The text encoder, all of it resident (depth 0), or its layers read from disk while it computes, each once.

    In the second case the embedding stays on disk, too: only the rows of the prompts are read.
    """
    dtype = run.inputs.dtype
    if depth == 0:
        return gemma3.Gemma3(config, Params(run.load(stage, whole_model(encoder, config))), dtype)
    params = Params(run.load(stage, WeightSet(encoder, "text_encoder", resident_specs(config))))
    stream = stage.hold_stream(encoder.stream("text_encoder", layer_specs(config), depth=depth))
    current: dict[int, Params] = {}

    def layers(index: int) -> Params:
        # The prompts run through each layer one after the other.
        if index not in current:
            current.clear()
            current[index] = Params(stream(index)).at(f"layers.{index}")
        return current[index]

    def embedding_rows(ids: np.ndarray[Any, Any]) -> LinearWeight:
        rows = encoder.load_rows("text_encoder", embedding_spec(config), [int(i) for i in ids])
        assert isinstance(rows, LinearWeight)
        return rows

    return gemma3.Gemma3(config, params, dtype, layers=layers, embedding_rows=embedding_rows)


def writing_model(
    run: Run, stage: Stage, encoder: Checkpoint, config: gemma3.Gemma3Config, depth: int
) -> gemma3.Gemma3:
    """The language model, all of it resident (depth 0), or its layers read from disk anew for every token.

    The embedding is resident in both: as the head it is used whole for every token.
    """
    dtype = run.inputs.dtype
    if depth == 0:
        return gemma3.Gemma3(config, Params(run.load(stage, whole_model(encoder, config))), dtype)
    resident = [embedding_spec(config), *resident_specs(config)]
    params = Params(run.load(stage, WeightSet(encoder, "text_encoder", resident)))
    stream = stage.hold_stream(encoder.stream("text_encoder", layer_specs(config), depth=depth))
    return gemma3.Gemma3(config, params, dtype, layers=lambda index: Params(stream(index)).at(f"layers.{index}"))

"""The text encoder's model inside a stage: for encoding prompts, and for writing text."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import gemma3
from ltx2rt.graph.stages.text.needs import embedding_spec, layer_specs, resident_specs
from ltx2rt.memory.stage import Stage
from ltx2rt.types import LinearWeight
from ltx2rt.weights.checkpoint import Checkpoint


def encoding_model(
    stage: Stage, encoder: Checkpoint, config: gemma3.Gemma3Config, depth: int, dtype: mx.Dtype
) -> gemma3.Gemma3:
    """The text encoder. Its layers are read from disk while it computes, each once; the embedding stays there."""
    params = Params(stage.hold(encoder.load("text_encoder", resident_specs(config))))
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
    stage: Stage, encoder: Checkpoint, config: gemma3.Gemma3Config, depth: int, dtype: mx.Dtype
) -> gemma3.Gemma3:
    """The language model, all of it resident (depth 0), or its layers read from disk anew for every token.

    The embedding is resident in both: as the head it is used whole for every token.
    """
    if depth == 0:
        return gemma3.Gemma3(
            config, Params(stage.hold(encoder.load("text_encoder", gemma3.param_specs(config)))), dtype
        )
    resident = [embedding_spec(config), *resident_specs(config)]
    params = Params(stage.hold(encoder.load("text_encoder", resident)))
    stream = stage.hold_stream(encoder.stream("text_encoder", layer_specs(config), depth=depth))
    return gemma3.Gemma3(config, params, dtype, layers=lambda index: Params(stream(index)).at(f"layers.{index}"))

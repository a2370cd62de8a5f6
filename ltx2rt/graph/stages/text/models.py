"""The text encoder's model inside a stage: for encoding prompts, and for writing text."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.protocols import TextEncoder, TextModel
from ltx2rt.memory.stage import Stage
from ltx2rt.types import LinearWeight
from ltx2rt.weights.checkpoint import Checkpoint


def encoding_model(stage: Stage, encoder: Checkpoint, kind: TextEncoder, depth: int, dtype: mx.Dtype) -> TextModel:
    """The text encoder. Its layers are read from disk while it computes, each once; the embedding stays there."""
    params = Params(stage.hold(encoder.load("text_encoder", kind.resident_specs())))
    stream = stage.hold_stream(encoder.stream("text_encoder", kind.layer_specs(), depth=depth))
    current: dict[int, Params] = {}

    def layers(index: int) -> Params:
        # The prompts run through each layer one after the other.
        if index not in current:
            current.clear()
            current[index] = Params(stream(index)).at(f"layers.{index}")
        return current[index]

    def embedding_rows(ids: np.ndarray[Any, Any]) -> LinearWeight:
        rows = encoder.load_rows("text_encoder", kind.embedding_spec(), [int(i) for i in ids])
        assert isinstance(rows, LinearWeight)
        return rows

    return kind.model(params, dtype, layers=layers, embedding_rows=embedding_rows)


def writing_model(stage: Stage, encoder: Checkpoint, kind: TextEncoder, depth: int, dtype: mx.Dtype) -> TextModel:
    """The language model, all of it resident (depth 0), or its layers read from disk anew for every token.

    The embedding is resident in both: as the head it is used whole for every token.
    """
    resident = [kind.embedding_spec(), *kind.resident_specs()]
    if depth == 0:
        every = [*resident, *(spec for specs in kind.layer_specs() for spec in specs)]
        return kind.model(Params(stage.hold(encoder.load("text_encoder", every))), dtype)
    params = Params(stage.hold(encoder.load("text_encoder", resident)))
    stream = stage.hold_stream(encoder.stream("text_encoder", kind.layer_specs(), depth=depth))
    return kind.model(params, dtype, layers=lambda index: Params(stream(index)).at(f"layers.{index}"))

"""The text encoder's model inside a stage: for encoding prompts, and for writing text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TEXT_ENCODER
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.protocols import TextModel, TextWriter, WritingTextModel
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.stage import Stage
from ltx2rt.spelling import spelled
from ltx2rt.types import LinearWeight
from ltx2rt.weights.kept_weights import StageWeights


def whole_model(files: WeightSet) -> StageWeights:
    """All weights, for encoding as for writing."""
    return files.weights(TEXT_ENCODER, TEXT_ENCODER.specs(files.config(TEXT_ENCODER)))


def encoding_model(run: Run, stage: Stage, depth: int) -> TextModel:
    """The text encoder, all of it resident (depth 0), or its layers read from disk while it computes, each once.

    In the second case the embedding stays on disk, too: only the rows of the prompts are read.
    """
    files, dtype = run.files, run.inputs.dtype
    encoder, kind = files.source(TEXT_ENCODER), files.config(TEXT_ENCODER)
    if depth == 0:
        return kind.model(Params(run.load(stage, whole_model(files))), dtype)
    params = Params(run.load(stage, files.weights(TEXT_ENCODER, kind.resident_specs())))
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


def text_writer(files: WeightSet) -> TextWriter:
    """The text encoder, which must be a language model, too.

    Raises:
        UsageError: it only encodes.
    """
    kind = files.config(TEXT_ENCODER)
    if not isinstance(kind, TextWriter):
        raise UsageError(
            f"the text encoder of {files.checkpoint.path.name} only encodes prompts and cannot rewrite them; "
            f"leave out {spelled('enhance_prompt')}."
        )
    return kind


def writing_model(run: Run, stage: Stage, depth: int) -> WritingTextModel:
    """The language model, all of it resident (depth 0), or its layers read from disk anew for every token.

    The embedding is resident in both: as the head it is used whole for every token.
    """
    files, dtype = run.files, run.inputs.dtype
    encoder, kind = files.source(TEXT_ENCODER), text_writer(files)
    if depth == 0:
        return kind.model(Params(run.load(stage, whole_model(files))), dtype)
    resident = [kind.embedding_spec(), *kind.resident_specs()]
    params = Params(run.load(stage, files.weights(TEXT_ENCODER, resident)))
    stream = stage.hold_stream(encoder.stream("text_encoder", kind.layer_specs(), depth=depth))
    return kind.model(params, dtype, layers=lambda index: Params(stream(index)).at(f"layers.{index}"))

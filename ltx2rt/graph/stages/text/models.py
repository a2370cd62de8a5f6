"""The text encoder's model inside a stage: for encoding prompts, and for writing text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import PROMPT_ENHANCER, TEXT_ENCODER, Component
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.protocols import TextModel, TextWriter, WritingTextModel
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.stage import Stage
from ltx2rt.spelling import spelled
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.kept_weights import StageWeights
from ltx2rt.weights.tokenizer import GemmaTokenizer


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


class Writer(NamedTuple):
    """The language model that rewrites prompts.

    Attributes:
        component: where the set of weights has it.
        source: what holds it.
        kind: its configuration.
        tokenizer: None in plans that know none.
    """

    component: Component[Any]
    source: Checkpoint
    kind: TextWriter
    tokenizer: GemmaTokenizer | None

    @property
    def held_specs(self) -> list[ParamSpec]:
        """All tensors but what is looked up by token."""
        layers = [spec for specs in self.kind.layer_specs() for spec in specs]
        return [self.kind.embedding_spec(), *layers, *self.kind.resident_specs()]


def text_writer(files: WeightSet) -> Writer:
    """The language model that was given for rewriting prompts, else the text encoder.

    Raises:
        UsageError: there is none, or the text encoder only encodes.
    """
    if files.has(PROMPT_ENHANCER):
        source, kind = files.source(PROMPT_ENHANCER), files.config(PROMPT_ENHANCER)
        return Writer(PROMPT_ENHANCER, source, kind, files.enhancer_tokenizer)
    other = spelled("prompt_enhancer", "FOLDER")
    if not files.has(TEXT_ENCODER):
        raise UsageError(
            f"prompt enhancement needs a language model; give {spelled('text_encoder', 'FOLDER')} or {other}."
        )
    encoder = files.config(TEXT_ENCODER)
    if not isinstance(encoder, TextWriter):
        raise UsageError(
            f"the text encoder of {files.checkpoint.path.name} only encodes prompts and cannot rewrite them; give "
            f"another Gemma with {other}, or leave out {spelled('enhance_prompt')}."
        )
    return Writer(TEXT_ENCODER, files.source(TEXT_ENCODER), encoder, files.tokenizer)


def whole_writer(files: WeightSet, writer: Writer) -> StageWeights:
    """All weights that are held while it writes."""
    return files.weights(writer.component, writer.held_specs)


def writing_model(run: Run, stage: Stage, writer: Writer, depth: int) -> WritingTextModel:
    """The language model, all of it resident (depth 0), or its layers read from disk anew for every token.

    The embedding is resident in both: as the head it is used whole for every token. What is looked up for the layers
    stays on disk.
    """
    files, dtype, kind, source = run.files, run.inputs.dtype, writer.kind, writer.source

    def input_rows(ids: np.ndarray[Any, Any]) -> LinearWeight:
        (spec,) = kind.looked_up_specs()
        rows = source.load_rows("text_encoder", spec, [int(i) for i in ids])
        assert isinstance(rows, LinearWeight)
        return rows

    if depth == 0:
        return kind.model(Params(run.load(stage, whole_writer(files, writer))), dtype, input_rows=input_rows)
    resident = [kind.embedding_spec(), *kind.resident_specs()]
    params = Params(run.load(stage, files.weights(writer.component, resident)))
    stream = stage.hold_stream(source.stream("text_encoder", kind.layer_specs(), depth=depth))
    return kind.model(
        params, dtype, layers=lambda index: Params(stream(index)).at(f"layers.{index}"), input_rows=input_rows
    )

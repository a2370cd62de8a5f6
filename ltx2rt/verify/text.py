"""Golden cases of the text path: token ids, hidden states, features and contexts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import CONNECTORS, DURATION_HEAD, TEXT_ENCODER, TEXT_PROJECTION, Component
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.models.text.duration_head import DurationHead
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.tokenizer import MAX_TOKENS

_ATOL, _RTOL = 2e-5, 1e-4
_STACK_ATOL = 1e-4
# The text encoder of files that name none.
_GEMMA3_FOLDER = "tiny-gemma3"
# The transformer of files that name none.
_TRANSFORMER_25 = "ltx25/tiny-ltx-2.5-distilled-transformer.safetensors"


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per prompt of ``19b_text*``, ``23_text*`` and ``25_text*`` files."""
    if not re.fullmatch(r"(19b|23|25)_text.*", golden.path.stem):
        return
    keys = golden.keys()
    for prompt in sorted({key.partition(".")[0] for key in keys if "." in key}):
        yield Case(f"{golden.name}/{prompt}", partial(_run, golden, prompt))


def _run(golden: GoldenFile, prompt: str) -> Iterator[Check]:
    files = _files(golden)
    ids = _ids(golden, files, prompt)
    yield from ids.checks

    kind = files.config(TEXT_ENCODER)
    gemma_params = Params(files.source(TEXT_ENCODER).load("text_encoder", TEXT_ENCODER.specs(kind)))
    states = list(kind.model(gemma_params, mx.float32).hidden_states(ids.values))
    yield _close(golden, f"{prompt}.hidden_states_valid", mx.concatenate(states), _STACK_ATOL)

    config = replace(files.config(TEXT_PROJECTION), encoder_width=kind.hidden_size, encoder_states=kind.num_states)
    params = Params(files.source(TEXT_PROJECTION).load("text_projection", feature_extractor.param_specs(config)))
    features = feature_extractor.FeatureExtractor(config, params, mx.float32)(states)
    yield _close(golden, f"{prompt}.video_features_valid", features.video, _ATOL)
    if config.per_token:  # else both connectors read the same features
        yield _close(golden, f"{prompt}.audio_features_valid", features.audio, _ATOL)

    contexts = [
        _context(files, component, stream_features)
        for component, stream_features in zip(CONNECTORS, features, strict=True)
    ]
    for stream, context in zip(connector.STREAMS, contexts, strict=True):
        expected = golden.expected(f"{prompt}.{stream}_context")
        # Some files hold the first rows only.
        rows = to_numpy(context[:, : expected.shape[1]])
        yield Check(f"{prompt}.{stream}_context", rows, expected, _STACK_ATOL, _RTOL)
    if f"{prompt}.context_mask" in golden:
        # Registers take the place of padding, so no row of a context is masked.
        yield golden.check(f"{prompt}.context_mask", np.ones((1, connector.CONTEXT_ROWS), dtype=np.int32), 0.0)
    if files.has(DURATION_HEAD):
        head_config = files.config(DURATION_HEAD)
        head = DurationHead(
            head_config, Params(files.source(DURATION_HEAD).load("duration_head", DURATION_HEAD.specs(head_config)))
        )
        yield _close(golden, f"{prompt}.duration_seconds", head(*contexts), _ATOL)
        yield _close(golden, f"{prompt}.duration_seconds_video_only", head(contexts[0]), _ATOL)


def _files(golden: GoldenFile) -> WeightSet:
    """The weights that the case was saved with, opened as a run opens them."""
    metadata = golden.metadata
    head = metadata.get("duration_head")
    return WeightSet.open(
        WeightFiles(
            checkpoint=golden.root / metadata.get("checkpoint", _TRANSFORMER_25),
            text_encoder=golden.root / metadata.get("text_encoder", _GEMMA3_FOLDER),
            duration_head=None if head is None else golden.root / head,
        )
    )


class _Ids(NamedTuple):
    """Token ids of a prompt, and how they compare with the saved ones."""

    values: Array
    checks: list[Check]


def _ids(golden: GoldenFile, files: WeightSet, prompt: str) -> _Ids:
    text = golden.metadata.get("prompts", {}).get(prompt)
    if text is None:
        return _Ids(golden.given(f"{prompt}.input_ids")[0][golden.given(f"{prompt}.attention_mask")[0] != 0], [])
    tokenizer = files.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(text)
    if f"{prompt}.input_ids_valid" in golden:
        return _Ids(ids, [golden.check(f"{prompt}.input_ids_valid", ids, 0.0)])
    # The official code fills up to the context's length on the left; ours has no use for that.
    padded = np.full((1, MAX_TOKENS), tokenizer.pad_id, np.int32)
    padded[0, MAX_TOKENS - len(ids) :] = ids
    mask = (np.arange(MAX_TOKENS) >= MAX_TOKENS - len(ids)).astype(np.int32)
    return _Ids(
        ids,
        [
            golden.check(f"{prompt}.input_ids", padded, 0.0),
            golden.check(f"{prompt}.attention_mask", mask[None], 0.0),
        ],
    )


def _context(files: WeightSet, component: Component[connector.ConnectorConfig], features: mx.array) -> mx.array:
    config = files.config(component)
    params = Params(files.source(component).load(component.stored_name, connector.param_specs(config)))
    return connector.Connector(config, params, mx.float32)(features)


def _close(golden: GoldenFile, key: str, actual: mx.array, atol: float) -> Check:
    return golden.check(key, to_numpy(actual), atol, _RTOL)

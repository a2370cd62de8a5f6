"""Golden cases of the text path: token ids, hidden states, features and contexts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import CONNECTORS, TEXT_ENCODER, TEXT_PROJECTION, Component
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.kernels.host import to_numpy
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets.pairing import check_pairing
from ltx2rt.weights.tokenizer import MAX_TOKENS, GemmaTokenizer

_ATOL, _RTOL = 2e-5, 1e-4
_STACK_ATOL = 1e-4
# The text encoder of files that name none.
_GEMMA3_FOLDER = "tiny-gemma3"


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per prompt of ``19b_text*`` and ``23_text*`` files."""
    if not re.fullmatch(r"(19b|23)_text.*", golden.path.stem):
        return
    keys = golden.keys()
    for prompt in sorted({key.partition(".")[0] for key in keys if "." in key}):
        yield Case(f"{golden.name}/{prompt}", partial(_run, golden, prompt))


def _run(golden: GoldenFile, prompt: str) -> Iterator[Check]:
    metadata = golden.metadata
    folder = golden.root / metadata.get("text_encoder", _GEMMA3_FOLDER)
    checkpoint, encoder = Checkpoint.open(golden.root / metadata["checkpoint"]), Checkpoint.open(folder)
    check_pairing(checkpoint.metadata, encoder.config, str(checkpoint.path), str(folder))

    text = metadata.get("prompts", {}).get(prompt)
    if text is None:
        ids = golden.given(f"{prompt}.input_ids")[0][golden.given(f"{prompt}.attention_mask")[0] != 0]
    else:
        tokenizer = GemmaTokenizer.from_path(folder)
        ids = tokenizer.encode(text)
        # The official code fills up to the context's length on the left; ours has no use for that.
        padded = np.full((1, MAX_TOKENS), tokenizer.pad_id, np.int32)
        padded[0, MAX_TOKENS - len(ids) :] = ids
        mask = (np.arange(MAX_TOKENS) >= MAX_TOKENS - len(ids)).astype(np.int32)
        yield golden.check(f"{prompt}.input_ids", padded, 0.0)
        yield golden.check(f"{prompt}.attention_mask", mask[None], 0.0)

    kind = TEXT_ENCODER.parse(encoder)
    gemma_params = Params(encoder.load("text_encoder", TEXT_ENCODER.specs(kind)))
    states = list(kind.model(gemma_params, mx.float32).hidden_states(ids))
    yield _close(golden, f"{prompt}.hidden_states_valid", mx.concatenate(states), _STACK_ATOL)

    config = replace(
        TEXT_PROJECTION.parse(checkpoint),
        encoder_width=kind.hidden_size,
        encoder_states=kind.num_states,
    )
    params = Params(checkpoint.load("text_projection", feature_extractor.param_specs(config)))
    features = feature_extractor.FeatureExtractor(config, params, mx.float32)(states)
    yield _close(golden, f"{prompt}.video_features_valid", features.video, _ATOL)
    if config.per_token:  # else both connectors read the same features
        yield _close(golden, f"{prompt}.audio_features_valid", features.audio, _ATOL)

    for component, stream, stream_features in zip(CONNECTORS, connector.STREAMS, features, strict=True):
        yield _context(golden, f"{prompt}.{stream}_context", checkpoint, component, stream_features)
    # Registers take the place of padding, so no row of a context is masked.
    yield golden.check(f"{prompt}.context_mask", np.ones((1, connector.CONTEXT_ROWS), dtype=np.int32), 0.0)


def _context(
    golden: GoldenFile,
    key: str,
    checkpoint: Checkpoint,
    component: Component[connector.ConnectorConfig],
    features: mx.array,
) -> Check:
    config = component.parse(checkpoint)
    params = Params(checkpoint.load(component.stored_name, connector.param_specs(config)))
    context = connector.Connector(config, params, mx.float32)(features)
    expected = golden.expected(key)
    # Some files hold the first rows only.
    return Check(key, to_numpy(context[:, : expected.shape[1]]), expected, _STACK_ATOL, _RTOL)


def _close(golden: GoldenFile, key: str, actual: mx.array, atol: float) -> Check:
    return golden.check(key, to_numpy(actual), atol, _RTOL)

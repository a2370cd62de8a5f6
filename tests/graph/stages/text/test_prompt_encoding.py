"""Prompt encoding: the steps joined together, and which text encoder a checkpoint accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.stages.text.encoding import connect
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.sets.pairing import check_pairing

SECTION = {
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 8,
    "connector_num_layers": 1,
    "connector_num_learnable_registers": 32,
}


def random_params(specs: list[ParamSpec], seed: int) -> Params:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for spec in specs:
        array = mx.array((rng.standard_normal(spec.shape) * 0.3).astype(np.float32))
        arrays[spec.name] = LinearWeight("dense", array) if spec.layout == "linear" else array
    return Params(arrays)


class CountingEncoder:
    """Yields three states that depend on the ids."""

    def hidden_states(self, input_ids: np.ndarray) -> Iterator[mx.array]:
        for layer in range(3):
            yield mx.sin(mx.array(input_ids, dtype=mx.float32)[None, :, None] * mx.arange(1, 13) + layer)


def test_steps_fit_together() -> None:
    config = feature_extractor.FeatureExtractorConfig.from_dict(SECTION, encoder_width=12, encoder_states=3)
    extractor = feature_extractor.FeatureExtractor(
        config, random_params(feature_extractor.param_specs(config), 0), mx.float32
    )
    connectors = []
    for seed, stream in enumerate(connector.STREAMS):
        stream_config = connector.ConnectorConfig.from_dict(SECTION, stream)
        params = random_params(connector.param_specs(stream_config), seed)
        connectors.append(connector.Connector(stream_config, params, mx.float32))
    ids = np.array([2, 5, 9])
    features = extractor(CountingEncoder().hidden_states(ids))
    assert features.video.shape == features.audio.shape == (1, 3, 16)
    context = connect(features, *connectors)
    assert mx.array_equal(context.video, connectors[0](features.video))
    assert mx.array_equal(context.audio, connectors[1](features.audio))
    assert not mx.array_equal(context.video, context.audio)
    other = connect(extractor(CountingEncoder().hidden_states(np.array([2, 5, 8]))), *connectors)
    assert mx.abs(other.video - context.video).max() > 1e-3


DECLARED = {"model_version": "2.5.0", "gemma_source_checkpoint": json.dumps({"gemma_version": "gemma4-12b-ltx-v1"})}


@pytest.mark.parametrize(
    ("metadata", "encoder"),
    [
        ({}, {"model_type": "gemma3"}),
        ({"model_version": "2.3.0"}, {"model_type": "gemma3_text"}),
        (DECLARED, {"model_type": "gemma4_unified", "gemma_version": "gemma4-12b-ltx-v1"}),
    ],
)
def test_pairs_that_belong_together(metadata: dict[str, str], encoder: dict[str, Any]) -> None:
    check_pairing(metadata, encoder, "f", "e")


@pytest.mark.parametrize(
    ("metadata", "encoder", "message"),
    [
        (
            {},
            {"model_type": "gemma4_unified"},
            "needs the text encoder Gemma 3 12B, this is one of model_type 'gemma4_unified'",
        ),
        (DECLARED, {"model_type": "gemma3"}, "needs the text encoder 'gemma4-12b-ltx-v1', this is 'gemma3'"),
        (DECLARED, {"gemma_version": "other"}, "this is 'other'"),
        (
            {"model_version": "2.4.1"},
            {"model_type": "gemma3"},
            "needs the text encoder 'gemma4-12b-ltx-v1', this is 'gemma3'",
        ),
        ({"gemma_source_checkpoint": "{"}, {"model_type": "gemma3"}, "gemma_source_checkpoint .* is damaged"),
    ],
)
def test_pairs_that_do_not(metadata: dict[str, str], encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_pairing(metadata, encoder, "f", "e")

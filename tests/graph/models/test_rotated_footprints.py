"""Weights that rotate long groups take scratch in every part of the model that multiplies with them."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.models.text.connector import ConnectorConfig
from ltx2rt.graph.models.text.footprint import connector_footprint, encoder_footprint, writing_footprint
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.models.transformer.footprint import CallShape, call_footprint

LONG = 1024
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 50,
}


def test_the_text_encoder() -> None:
    config = Gemma3Config.from_dict(GEMMA)
    assert encoder_footprint(config, 64, 2, LONG).working > encoder_footprint(config, 64, 2).working
    assert encoder_footprint(config, 64, 2, 256) == encoder_footprint(config, 64, 2)
    assert writing_footprint(config, 64, 8, 2, LONG).working > writing_footprint(config, 64, 8, 2).working


def test_the_connectors() -> None:
    config = ConnectorConfig.from_dict(
        {"connector_num_attention_heads": 32, "connector_attention_head_dim": 64}, "video"
    )
    assert connector_footprint(config, 2, LONG).working > connector_footprint(config, 2).working


def test_the_transformer() -> None:
    config = TransformerConfig.from_dict({"num_layers": 1, "rope_type": "split", "frequencies_precision": "float64"})
    shape = CallShape(video=64, audio=32, text=1024)
    rotated = call_footprint(config, replace(shape, rotation=LONG), None)
    assert rotated.working > call_footprint(config, shape, None).working

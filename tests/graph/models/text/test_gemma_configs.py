"""Faults of a configuration that Gemma 3 and Gemma 4 refuse alike."""

from __future__ import annotations

from typing import Any

import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.text.gemma4 import Gemma4Config

TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "vocab_size": 50,
}
KINDS = {
    "gemma3": (Gemma3Config, "gemma3", "gemma3_text"),
    "gemma4": (Gemma4Config, "gemma4_unified", "gemma4_unified_text"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_activation": "silu"}, "hidden_activation must be 'gelu_pytorch_tanh', got 'silu'"),
        ({"attention_bias": True}, "attention_bias must be False"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "24"}, "hidden_size must be a positive integer, got '24'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        ({"num_key_value_heads": 3}, "4 attention heads are not a multiple of 3"),
        ({"head_dim": 7}, "head_dim must be even, got 7"),
        ({"layer_types": ["full_attention"]}, "layer_types .* got 1 entries"),
        ({"layer_types": ["full_attention", "chunked", "full_attention"]}, "chunked"),
    ],
)
def test_config_rejects(kind: str, changes: dict[str, Any], message: str) -> None:
    config, outer, inner = KINDS[kind]
    good = {"model_type": outer, "text_config": TEXT | {"model_type": inner}}
    assert config.from_dict(good).hidden_size == 24
    with pytest.raises(CheckpointError, match=message):
        config.from_dict(good | {"text_config": TEXT | {"model_type": inner} | changes})

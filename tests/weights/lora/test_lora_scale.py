"""Where alpha / rank is stated, and which statement counts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.lora.scale import Scales

MODULE = "transformer.transformer_blocks.0.attn1.to_q"
PACKED = {"transformer.lora_alpha": 8, "transformer.r": 4, "text_encoder.lora_alpha": 99}


def scales(config: Mapping[str, Any] | None = None, **metadata: str) -> Scales:
    return Scales(Path("lora.safetensors"), metadata, config)


def test_the_first_statement_counts() -> None:
    everything = {
        "lora_adapter_metadata": json.dumps(PACKED),
        "lora_alpha": "12",
        "lora_rank": "4",
        "ss_network_alpha": "16",
        "ss_network_dim": "4",
    }
    config = {"lora_alpha": 20, "r": 4}
    found = []
    for key in (None, "lora_adapter_metadata", "lora_alpha", "ss_network_alpha"):
        everything.pop(key or "", None)
        found.append(scales(config, **everything).of(MODULE, 4, 4.0 if key is None else None))
    assert [scale.value for scale in found] == [1.0, 3.0, 4.0, 5.0]
    assert [scale.source for scale in found[1:]] == [
        "metadata lora_alpha",
        "metadata ss_network_alpha",
        "adapter_config.json",
    ]
    assert scales(config, lora_adapter_metadata=json.dumps(PACKED)).of(MODULE, 4, None).value == 2.0
    assert scales().of(MODULE, 4, None) == (1.0, "")


def test_the_rank_is_the_stated_one_or_that_of_the_module() -> None:
    """The official LoRA of 2.5 states 450 for both, and has modules of ranks 450, 256, 128 and 32."""
    assert [scales(lora_alpha="450", lora_rank="450").of(MODULE, rank, None).value for rank in (450, 32)] == [1.0, 1.0]
    assert scales(ss_network_alpha="8", ss_network_dim="4").of(MODULE, 16, None).value == 2.0
    # What kohya's tool writes that gives every module a rank of its own; alpha is then beside each.
    assert scales(ss_network_alpha="Dynamic", ss_network_dim="Dynamic").of(MODULE, 16, 8.0).value == 0.5
    assert scales(lora_alpha="8").of(MODULE, 16, None).value == 0.5
    assert scales({"lora_alpha": 8, "r": 4}).of(MODULE, 16, None).value == 0.5


@pytest.mark.parametrize("text", ["None", "", "null"])
def test_not_stated(text: str) -> None:
    assert scales(ss_network_alpha=text, lora_adapter_metadata=text).of(MODULE, 4, None).value == 1.0


def test_packed_metadata_by_prefix() -> None:
    packed = {"transformer.lora_alpha": 8, "connectors.lora_alpha": 2}
    both = scales(lora_adapter_metadata=json.dumps(packed))
    assert both.of(MODULE, 4, None).value == 2.0
    assert both.of("connectors.text_proj_in", 4, None).value == 0.5
    assert both.of("diffusion_model.transformer_blocks.0.attn1.to_q", 4, None).value == 1.0
    single = scales(lora_adapter_metadata=json.dumps({"transformer.lora_alpha": 8, "transformer.target_modules": []}))
    assert single.of("diffusion_model.transformer_blocks.0.attn1.to_q", 4, None).value == 2.0
    encoder = scales(lora_adapter_metadata=json.dumps({"text_encoder.lora_alpha": 8}))
    assert encoder.of(MODULE, 4, None).value == 1.0


def test_rank_stabilised_and_patterns() -> None:
    config = {
        "lora_alpha": 8,
        "use_rslora": True,
        "alpha_pattern": {"to_k": 4, "^base_model.model.x$": 2, r"blocks\.(1|2)\.ff": 16},
    }
    found = scales(config)
    expected = {"a.to_q": 8, "a.to_k": 4, "to_k": 4, "a.not_to_k": 8, "base_model.model.x": 2, "a.blocks.2.ff": 16}
    for module, alpha in expected.items():
        assert found.of(module, 4, None).value == pytest.approx(alpha / math.sqrt(4)), module


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lora_alpha": "many"}, "metadata lora_alpha must be a finite number, got 'many'"),
        ({"lora_alpha": "1", "lora_rank": "0"}, "metadata lora_rank must be above 0, got '0'"),
        ({"ss_network_alpha": "nan"}, "metadata ss_network_alpha must be a finite number, got 'nan'"),
        ({"lora_adapter_metadata": "{"}, "metadata lora_adapter_metadata is not valid JSON"),
        ({"lora_adapter_metadata": "[1]"}, "metadata lora_adapter_metadata must be a JSON object"),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": true}'}, "must be a finite number, got True"),
        ({"lora_adapter_metadata": '{"t.lora_alpha": 1, "t.alpha_pattern": [1]}'}, "alpha_pattern of .* must map"),
        ({"lora_adapter_metadata": '{"t.lora_alpha": 1, "t.alpha_pattern": {"(a+)+": 1}}'}, "which is not supported"),
        ({"lora_adapter_metadata": '{"t.lora_alpha": 1, "t.alpha_pattern": {"(": 1}}'}, "which is not supported"),
    ],
)
def test_statements_that_cannot_be(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"lora.safetensors: .*{message}"):
        scales(**metadata)

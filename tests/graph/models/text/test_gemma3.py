"""Gemma 3: hidden states against an independent float64 formula, config spellings, rejected arguments."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy_gemma
import pytest
from numpy_gemma import GemmaFormula, LayerFormula

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma import Gemma, RopeFrequencies, layer_specs, param_specs
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.types import LinearWeight

TINY: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 3,
        "query_pre_attn_scalar": 10,
        "rms_norm_eps": 1e-5,
        "rope_local_base_freq": 100,
        "rope_theta": 5000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 7,
        "sliding_window_pattern": 2,
        "vocab_size": 50,
    },
}


def tiny(**changes: Any) -> dict[str, Any]:
    return TINY | {"text_config": TINY["text_config"] | changes}


def random_arrays(config: Gemma3Config, seed: int = 0) -> dict[str, np.ndarray]:
    return numpy_gemma.random_arrays(param_specs(config), seed)


def as_params(config: Gemma3Config, arrays: dict[str, np.ndarray]) -> Params:
    return numpy_gemma.as_params(param_specs(config), arrays)


LOCAL = LayerFormula(8, 2, 10**-0.5, rope_base=100, window=7)
FORMULA = GemmaFormula(4, 1e-5, 1.0, (LOCAL, LayerFormula(8, 2, 10**-0.5, rope_base=5000, rope_factor=8.0), LOCAL))


@pytest.mark.parametrize("length", [1, 5, 7, 8, 20])
def test_states_match_the_formula(length: int) -> None:
    config = Gemma3Config.from_dict(TINY)
    arrays = random_arrays(config)
    ids = np.random.default_rng(length).integers(0, 50, length)
    states = list(Gemma(config, as_params(config, arrays), mx.float32).hidden_states(ids))
    expected = FORMULA.states(arrays, ids.tolist())
    assert len(states) == len(expected) == config.num_states == 4
    for state, reference in zip(states, expected, strict=True):
        assert (state.shape, state.dtype) == ((1, length, 24), mx.float32)
        np.testing.assert_allclose(np.array(state[0]), reference, atol=2e-5 * np.abs(reference).max())


def test_padding_changes_nothing() -> None:
    config = Gemma3Config.from_dict(TINY)
    arrays = random_arrays(config, seed=1)
    ids = [2, 17, 33, 4, 9, 21]
    states = Gemma(config, as_params(config, arrays), mx.float32).hidden_states(np.array(ids))
    for state, padded in zip(states, FORMULA.states(arrays, ids, pads=13), strict=True):
        np.testing.assert_allclose(np.array(state[0]), padded, atol=2e-5 * np.abs(padded).max())


def test_half_precision_follows_float32() -> None:
    config = Gemma3Config.from_dict(TINY)
    params = as_params(config, random_arrays(config))
    ids = np.arange(10)
    exact = list(Gemma(config, params, mx.float32).hidden_states(ids))
    low = list(Gemma(config, params, mx.bfloat16).hidden_states(ids))
    assert all(state.dtype == mx.bfloat16 for state in low)
    for a, b in zip(low, exact, strict=True):
        # A few roundings per layer, each relative 2**-9, over three layers.
        assert mx.abs(a.astype(mx.float32) - b).max() <= 0.05 * mx.abs(b).max()
    # The embedding factor is rounded to bfloat16 before it multiplies: sqrt(24) becomes 4.90625.
    row = params.weight("embed_tokens.weight").values[3].astype(mx.bfloat16)
    assert mx.array_equal(low[0][0, 3], (row.astype(mx.float32) * 4.90625).astype(mx.bfloat16))


def test_quantised_embedding_gathers_rows() -> None:
    config = Gemma3Config.from_dict(tiny(hidden_size=64))
    arrays = random_arrays(config)
    dense = dict(as_params(config, arrays)._arrays)
    values, scale, zero = mx.quantize(mx.array(arrays["embed_tokens.weight"]), group_size=32, bits=8)
    quantised = dense | {"embed_tokens.weight": LinearWeight("affine", values, scale, zero, 32, 8)}
    ids = np.array([7, 0, 7, 49])
    first = next(Gemma(config, Params(quantised), mx.float32).hidden_states(ids))
    expected = np.array(mx.dequantize(values, scale, zero, group_size=32, bits=8))[ids] * 8.0
    np.testing.assert_allclose(np.array(first[0]), expected, rtol=1e-6)


def test_config_reads_both_rope_spellings() -> None:
    old = Gemma3Config.from_dict(TINY)
    text = {k: v for k, v in TINY["text_config"].items() if not k.startswith("rope") and "pattern" not in k}
    text["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    text["rope_parameters"] = {
        "full_attention": {"rope_theta": 5000, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 100, "rope_type": "default"},
    }
    assert Gemma3Config.from_dict(text) == old
    assert (old.global_rope, old.local_rope) == (RopeFrequencies(5000.0, 8.0), RopeFrequencies(100.0))
    assert old.global_layers == (False, True, False)


def test_config_of_the_published_encoder() -> None:
    """The 12B config.json leaves out most keys."""
    published = {
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "model_type": "gemma3_text",
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    }
    config = Gemma3Config.from_dict(published)
    assert (config.head_dim, config.vocab_size, config.rms_norm_eps) == (256, 262208, 1e-6)
    assert (config.query_pre_attn_scalar, config.num_states) == (256, 49)
    assert [i for i, full in enumerate(config.global_layers) if full] == [5, 11, 17, 23, 29, 35, 41, 47]
    shapes = {spec.name: spec.shape for spec in param_specs(config)}
    assert len(shapes) == 2 + 48 * 13
    assert shapes["layers.47.self_attn.q_proj.weight"] == (4096, 3840)
    assert shapes["layers.0.self_attn.v_proj.weight"] == (2048, 3840)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 11_766_034_176


def test_layer_specs_are_what_a_layer_reads() -> None:
    config = Gemma3Config.from_dict(TINY)
    names = [spec.name for spec in layer_specs(config, 2)]
    assert len(names) == 13
    assert all(name.startswith("layers.2.") for name in names)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TINY | {"text_config": TINY["text_config"] | {"model_type": "llama"}}, "must be a Gemma 3 model, got .*llama"),
        (tiny(attn_logit_softcapping=50.0), "attn_logit_softcapping must be None, got 50.0"),
        (tiny(use_bidirectional_attention=True), "use_bidirectional_attention must be False"),
        (tiny(rope_scaling={"rope_type": "yarn", "factor": 8.0}), "rope_type must be 'default' or 'linear', got 'yarn"),
    ],
)
def test_config_rejects(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Gemma3Config.from_dict(config)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((1, 3), dtype=np.int32), r"got shape \(1, 3\)"),
        (np.zeros(0, dtype=np.int32), "non-empty"),
        (np.array([1, 50]), r"must lie in 0\.\.49, got 1\.\.50"),
        (np.array([-1]), "got -1"),
    ],
)
def test_ids_are_checked(ids: np.ndarray, message: str) -> None:
    config = Gemma3Config.from_dict(TINY)
    with pytest.raises(ValueError, match=message):
        Gemma(config, Params({}), mx.float32).hidden_states(ids)

"""Gemma 4: hidden states against an independent float64 formula, layers one at a time, config spellings and faults."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import numpy_gemma
import pytest
from numpy_gemma import GemmaFormula, LayerFormula

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma import AttentionSizes, Gemma, RopeFrequencies, layer_specs, param_specs, rope_table
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.models.text.gemma4_encoder import Gemma4Encoder
from ltx2rt.graph.protocols import TextWriter
from ltx2rt.types import LinearWeight
from ltx2rt.weights.inferred_config import text_encoder_section
from ltx2rt.weights.tensor_source import TensorInfo

TINY: dict[str, Any] = {
    "model_type": "gemma4_unified",
    "gemma_version": "gemma4-12b-ltx-v1",
    "text_config": {
        "model_type": "gemma4_unified_text",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 16,
        "attention_k_eq_v": True,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rms_norm_eps": 1e-5,
        "sliding_window": 7,
        "vocab_size": 50,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100},
            "full_attention": {"rope_type": "proportional", "rope_theta": 5000, "partial_rotary_factor": 0.5},
        },
    },
}


def tiny(**changes: Any) -> dict[str, Any]:
    return TINY | {"text_config": TINY["text_config"] | changes}


def random_arrays(config: Gemma4Config, seed: int = 0) -> dict[str, np.ndarray]:
    return numpy_gemma.random_arrays(param_specs(config), seed, norms=1.0)


def as_params(config: Gemma4Config, arrays: dict[str, np.ndarray]) -> Params:
    return numpy_gemma.as_params(param_specs(config), arrays)


def formula(*, shared: bool) -> GemmaFormula:
    """Global layers have keys of one head that are their values, or as many of both as the others."""
    sliding = LayerFormula(8, 2, 1.0, rope_base=100, window=7, normed_values=True)
    whole = sliding._replace(
        head_dim=16, kv_heads=1 if shared else 2, rope_base=5000, rotated=4, window=None, keys_are_values=shared
    )
    return GemmaFormula(4, 1e-5, 0.0, (sliding, whole, sliding, whole))


@pytest.mark.parametrize("shared", [True, False], ids=["keys are values", "own values"])
@pytest.mark.parametrize("length", [1, 5, 7, 8, 20])
def test_states_match_the_formula(length: int, shared: bool) -> None:
    raw = tiny(attention_k_eq_v=shared)
    config = Gemma4Config.from_dict(raw)
    arrays = random_arrays(config)
    assert ("layers.1.self_attn.v_proj.weight" in arrays) is not shared
    ids = np.random.default_rng(length).integers(0, 50, length)
    states = list(Gemma(config, as_params(config, arrays), mx.float32).hidden_states(ids))
    expected = formula(shared=shared).states(arrays, ids.tolist())
    assert len(states) == len(expected) == config.num_states == 5
    for state, reference in zip(states, expected, strict=True):
        assert (state.shape, state.dtype) == ((1, length, 24), mx.float32)
        np.testing.assert_allclose(np.array(state[0]), reference, atol=2e-5 * np.abs(reference).max())


# As the small stock models: inputs of every layer, the last layers with the keys of earlier ones and wide.
SMALL = {
    "attention_k_eq_v": False,
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": 50,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 2.0,
}


@pytest.mark.parametrize("length", [1, 7, 20])
def test_small_models_match_the_formula(length: int) -> None:
    raw = tiny(**SMALL)
    config = Gemma4Config.from_dict(raw)
    arrays = random_arrays(config)
    assert "layers.2.self_attn.k_proj.weight" not in arrays
    assert arrays["layers.2.mlp.up_proj.weight"].shape == (80, 24)
    ids = np.random.default_rng(length).integers(0, 50, length)
    model = Gemma(config, as_params(config, arrays), mx.float32)
    states = list(model.hidden_states(ids))
    own = formula(shared=False)
    sliding, whole = own.layers[:2]
    shares = own._replace(layers=(sliding, whole, sliding._replace(keys_of=0), whole._replace(keys_of=1)))
    for state, reference in zip(states, shares.states(arrays, ids.tolist()), strict=True):
        np.testing.assert_allclose(np.array(state[0]), reference, atol=2e-5 * np.abs(reference).max())
    scores = np.array(states[-1][0], np.float64) @ arrays["embed_tokens.weight"].T.astype(np.float64)
    np.testing.assert_allclose(np.array(model.logits(states[-1])[0]), 2 * np.tanh(scores / 2), atol=1e-4)


def test_half_precision_follows_float32() -> None:
    config = Gemma4Config.from_dict(TINY)
    params = as_params(config, random_arrays(config))
    exact = list(Gemma(config, params, mx.float32).hidden_states(np.arange(10)))
    low = list(Gemma(config, params, mx.bfloat16).hidden_states(np.arange(10)))
    for a, b in zip(low, exact, strict=True):
        assert a.dtype == mx.bfloat16
        # A few roundings per layer, each relative 2**-9; the scores are not divided by anything.
        assert mx.abs(a.astype(mx.float32) - b).max() <= 0.1 * mx.abs(b).max()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_layers_that_come_one_by_one_give_the_same_bits(dtype: mx.Dtype) -> None:
    encoder = Gemma4Encoder.from_dict(TINY)
    arrays = random_arrays(encoder.config)
    whole = as_params(encoder.config, arrays)
    ids = np.arange(12) * 3
    asked: list[int] = []

    def layers(index: int) -> Params:
        asked.append(index)
        specs = encoder.layer_specs()[index]
        return Params({spec.name: whole._arrays[spec.name] for spec in specs}).at(f"layers.{index}")

    def rows(which: np.ndarray) -> LinearWeight:
        return LinearWeight("dense", mx.array(arrays["embed_tokens.weight"][which]))

    resident = Params({spec.name: whole._arrays[spec.name] for spec in encoder.resident_specs()})
    streamed = encoder.model(resident, dtype, layers=layers, embedding_rows=rows).hidden_states(ids)
    for a, b in zip(streamed, encoder.model(whole, dtype).hidden_states(ids), strict=True):
        assert mx.array_equal(a, b)
    assert asked == [0, 1, 2, 3]


def test_frequencies_of_lanes_that_are_not_rotated_are_zero() -> None:
    table = rope_table(RopeFrequencies(1e6, rotated=0.25), 512, 3)
    assert table.cos.shape == (3, 256)
    angles = np.arctan2(np.array(table.sin), np.array(table.cos))
    np.testing.assert_allclose(angles[1, :64], 1e6 ** (-np.arange(64) / 256), rtol=1e-6)
    assert np.array_equal(np.array(table.cos)[:, 64:], np.ones((3, 192)))
    assert not np.array(table.sin)[:, 64:].any()
    # A factor divides what is rotated.
    half = rope_table(RopeFrequencies(1e6, 2.0, 0.25), 512, 2)
    np.testing.assert_allclose(np.arctan2(np.array(half.sin), np.array(half.cos))[1], angles[1] / 2, rtol=1e-6)


def test_config_of_the_published_encoder() -> None:
    text = {
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma4_unified_text",
        "num_attention_heads": 16,
        "num_global_key_value_heads": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "vocab_size": 262144,
    }
    encoder = Gemma4Encoder.from_dict({"model_type": "gemma4_unified", "text_config": text})
    config = encoder.config
    assert [i for i, full in enumerate(config.global_layers) if full] == [5, 11, 17, 23, 29, 35, 41, 47]
    assert config.attention(is_global=False) == AttentionSizes(16, 8, 256)
    assert config.attention(is_global=True) == AttentionSizes(16, 1, 512, keys_are_values=True)
    assert (config.global_rope, config.local_rope) == (RopeFrequencies(1e6, rotated=0.25), RopeFrequencies(1e4))
    assert (config.sliding_window, config.rms_norm_eps, encoder.num_states) == (1024, 1e-6, 49)
    shapes = {spec.name: spec.shape for spec in param_specs(config)}
    assert len(shapes) == 666
    assert shapes["layers.5.self_attn.q_proj.weight"] == (8192, 3840)
    assert shapes["layers.5.self_attn.k_proj.weight"] == (512, 3840)
    assert shapes["layers.5.self_attn.k_norm.weight"] == (512,)
    assert "layers.5.self_attn.v_proj.weight" not in shapes
    assert shapes["layers.4.self_attn.v_proj.weight"] == (2048, 3840)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 11_907_350_320
    assert not isinstance(encoder, TextWriter)
    # Two operations per weight and token but for the embedding and what is no matrix, and the attention.
    matrices = sum(int(np.prod(spec.shape)) for specs in encoder.layer_specs() for spec in specs if len(spec.shape) > 1)
    attention = 2 * 100 * 100 * (40 * 4096 + 8 * 8192)
    assert encoder.encoding_flops(100) == 2 * 100 * matrices + attention


def test_the_last_layer_is_always_global() -> None:
    config = Gemma4Config.from_dict(tiny(layer_types=["sliding_attention"] * 4))
    assert config.global_layers == (False, False, False, True)


def test_layer_specs_are_what_a_layer_reads() -> None:
    config = Gemma4Config.from_dict(TINY)
    assert [len(layer_specs(config, layer)) for layer in range(4)] == [14, 13, 14, 13]
    assert layer_specs(config, 1)[-1].name == "layers.1.layer_scalar"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TINY | {"text_config": TINY["text_config"] | {"model_type": "gemma3_text"}}, "must be a Gemma 4 model, got"),
        (tiny(use_bidirectional_attention="all"), "use_bidirectional_attention must be 'vision', got 'all'"),
        (
            tiny(hidden_size_per_layer_input="wide"),
            "hidden_size_per_layer_input must be a positive integer, got 'wide'",
        ),
        (tiny(num_kv_shared_layers=20), "num_kv_shared_layers is 20 of 4 layers: no earlier layer of the same type"),
        (tiny(num_kv_shared_layers=3), "num_kv_shared_layers is 3 of 4 layers: no earlier layer of the same type"),
        (tiny(final_logit_softcapping=-1), "final_logit_softcapping must be a positive number, got -1"),
        (tiny(enable_moe_block=True), "enable_moe_block must be False"),
        (tiny(num_hidden_layers=10**9, layer_types=None), "num_hidden_layers must be at most 1000, got 1000000000"),
        (tiny(num_global_key_value_heads=3), "4 attention heads are not a multiple of 3"),
        (tiny(global_head_dim=7), "global_head_dim must be even, got 7"),
        (tiny(rms_norm_eps="small"), "rms_norm_eps must be a positive number, got 'small'"),
        (tiny(layer_types="full_attention"), "layer_types must be a list of names"),
        (tiny(rope_parameters={"full_attention": {"rope_type": "yarn"}}), "'default' or 'proportional', got 'yarn'"),
        (tiny(rope_parameters=[]), "rope_parameters must describe full_attention"),
        (
            tiny(rope_parameters={"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 2}}),
            "partial_rotary_factor must be at most 1, got 2.0",
        ),
    ],
)
def test_config_rejects(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Gemma4Config.from_dict(config)


def tensor_infos(config: Gemma4Config) -> dict[str, TensorInfo]:
    return {spec.name: TensorInfo("BF16", spec.shape) for spec in param_specs(config)}


@pytest.mark.parametrize("shared", [True, False], ids=["keys are values", "own values"])
def test_sizes_are_inferred_where_nothing_is_stated(shared: bool) -> None:
    layers = ["sliding_attention"] * 5 + ["full_attention"]
    stated = Gemma4Config.from_dict(
        tiny(
            num_hidden_layers=6,
            layer_types=layers,
            attention_k_eq_v=shared,
            sliding_window=1024,
            rms_norm_eps=1e-6,
            rope_parameters=None,
        )
    )
    found = text_encoder_section({"text_encoder": tensor_infos(stated)}, "a.safetensors")
    assert Gemma4Config.from_dict(found) == stated
    assert "gemma_version" not in found  # so that a pairing warns


def test_one_kind_of_layers_does_not_tell_the_other() -> None:
    tensors = {
        name: info
        for name, info in tensor_infos(Gemma4Config.from_dict(TINY)).items()
        if not name.startswith(("layers.1.", "layers.2.", "layers.3."))
    }
    with pytest.raises(CheckpointError, match=r"has 1 layers of one kind .* use a file with metadata"):
        text_encoder_section({"text_encoder": tensors}, "a.safetensors")

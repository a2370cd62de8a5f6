"""Gemma 3: hidden states against an independent float64 formula, config spellings, rejected arguments."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

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
    rng = np.random.default_rng(seed)
    return {spec.name: (rng.standard_normal(spec.shape) * 0.2).astype(np.float32) for spec in param_specs(config)}


def as_params(config: Gemma3Config, arrays: dict[str, np.ndarray]) -> Params:
    return Params(
        {
            spec.name: LinearWeight("dense", mx.array(arrays[spec.name]))
            if spec.layout == "linear"
            else mx.array(arrays[spec.name])
            for spec in param_specs(config)
        }
    )


def numpy_states(text: dict[str, Any], w: dict[str, np.ndarray], ids: list[int], pads: int = 0) -> list[np.ndarray]:
    """Every hidden state (n, D) in float64, head by head, with ``pads`` masked tokens on the left."""
    n, eps, k = len(ids) + pads, text["rms_norm_eps"], text["head_dim"]
    heads, group = text["num_attention_heads"], text["num_attention_heads"] // text["num_key_value_heads"]
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (1 + w[name + ".weight"])

    def turn(x: np.ndarray, base: float, factor: float) -> np.ndarray:
        """Rotary embedding as a complex product."""
        angle = np.arange(n)[:, None] * base ** (-np.arange(k // 2) * 2 / k) / factor
        z = (x[:, : k // 2] + 1j * x[:, k // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], axis=1)

    h = w["embed_tokens.weight"][[0] * pads + ids] * np.sqrt(text["hidden_size"])
    states = [h]
    for layer in range(text["num_hidden_layers"]):
        p = f"layers.{layer}."
        is_global = (layer + 1) % text["sliding_window_pattern"] == 0
        base, factor = (text["rope_theta"], 8.0) if is_global else (text["rope_local_base_freq"], 1.0)
        x = norm(h, p + "input_layernorm")
        q, key, v = (x @ w[f"{p}self_attn.{name}_proj.weight"].T for name in "qkv")
        outputs = []
        for head in range(heads):
            at, kv = slice(head * k, head * k + k), slice(head // group * k, head // group * k + k)
            qh = turn(norm(q[:, at], p + "self_attn.q_norm"), base, factor)
            kh = turn(norm(key[:, kv], p + "self_attn.k_norm"), base, factor)
            row = np.full((n, n), -np.inf)
            for i in range(n):
                for j in range(i + 1):
                    hidden = (j < pads and i != j) or (not is_global and i - j >= text["sliding_window"])
                    if not hidden:
                        row[i, j] = qh[i] @ kh[j] / np.sqrt(text["query_pre_attn_scalar"])
            weight = np.exp(row - row.max(1, keepdims=True))
            outputs.append(weight / weight.sum(1, keepdims=True) @ v[:, kv])
        attended = np.concatenate(outputs, axis=1) @ w[p + "self_attn.o_proj.weight"].T
        h = h + norm(attended, p + "post_attention_layernorm")
        x = norm(h, p + "pre_feedforward_layernorm")
        gate = x @ w[p + "mlp.gate_proj.weight"].T
        gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        x = gate * (x @ w[p + "mlp.up_proj.weight"].T)
        h = h + norm(x @ w[p + "mlp.down_proj.weight"].T, p + "post_feedforward_layernorm")
        states.append(h)
    states[-1] = norm(h, "norm")
    return [state[pads:] for state in states]


@pytest.mark.parametrize("length", [1, 5, 7, 8, 20])
def test_states_match_the_formula(length: int) -> None:
    config = Gemma3Config.from_dict(TINY)
    arrays = random_arrays(config)
    ids = np.random.default_rng(length).integers(0, 50, length)
    states = list(Gemma(config, as_params(config, arrays), mx.float32).hidden_states(ids))
    expected = numpy_states(TINY["text_config"], arrays, ids.tolist())
    assert len(states) == len(expected) == config.num_states == 4
    for state, reference in zip(states, expected, strict=True):
        assert (state.shape, state.dtype) == ((1, length, 24), mx.float32)
        np.testing.assert_allclose(np.array(state[0]), reference, atol=2e-5 * np.abs(reference).max())


def test_padding_changes_nothing() -> None:
    config = Gemma3Config.from_dict(TINY)
    arrays = random_arrays(config, seed=1)
    ids = [2, 17, 33, 4, 9, 21]
    states = Gemma(config, as_params(config, arrays), mx.float32).hidden_states(np.array(ids))
    for state, padded in zip(states, numpy_states(TINY["text_config"], arrays, ids, pads=13), strict=True):
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
        (tiny(hidden_activation="silu"), "hidden_activation must be 'gelu_pytorch_tanh', got 'silu'"),
        (tiny(attention_bias=True), "attention_bias must be False"),
        (tiny(attn_logit_softcapping=50.0), "attn_logit_softcapping must be None, got 50.0"),
        (tiny(use_bidirectional_attention=True), "use_bidirectional_attention must be False"),
        (tiny(hidden_size=None), "lacks hidden_size"),
        (tiny(num_key_value_heads=3), "4 attention heads are not a multiple of 3"),
        (tiny(head_dim=7), "head_dim must be even, got 7"),
        (tiny(layer_types=["full_attention"]), "layer_types .* got 1 entries"),
        (tiny(layer_types=["full_attention", "chunked", "full_attention"]), "chunked"),
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

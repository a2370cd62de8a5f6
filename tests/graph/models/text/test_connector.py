"""Connectors: contexts against a float64 formula, where registers stand, rotary test values, rejections."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.layers.rope import rope_table
from ltx2rt.graph.models.text.connector import CONTEXT_ROWS, Connector, ConnectorConfig, param_specs, with_registers
from ltx2rt.kernels.reference import rope_lanes
from ltx2rt.types import LinearWeight

TINY: dict[str, Any] = {
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 8,
    "connector_num_layers": 2,
    "connector_num_learnable_registers": 32,
    "connector_positional_embedding_max_pos": [4096],
    "rope_type": "split",
    "frequencies_precision": "float64",
}


def random_arrays(config: ConnectorConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(config.width)
    return {spec.name: (rng.standard_normal(spec.shape) * 0.4).astype(np.float32) for spec in param_specs(config)}


def as_params(config: ConnectorConfig, arrays: dict[str, np.ndarray]) -> Params:
    return Params(
        {
            spec.name: LinearWeight("dense", mx.array(arrays[spec.name]))
            if spec.layout == "linear"
            else mx.array(arrays[spec.name])
            for spec in param_specs(config)
        }
    )


def numpy_context(config: ConnectorConfig, arrays: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """(1024, W) in float64; rotations as complex products, registers placed row by row."""
    w = {name: value.astype(np.float64) for name, value in arrays.items()}
    width, heads, k = config.width, config.num_heads, config.head_dim
    h = np.empty((1024, width))
    for row in range(1024):
        h[row] = features[row] if row < len(features) else w["learnable_registers"][row % config.num_registers]
    grid = (10000.0 ** np.linspace(0, 1, width // 2) * np.pi / 2).astype(np.float32)
    fraction = np.arange(1024, dtype=np.float32) / np.float32(4096) * 2 - 1
    angle = (grid * fraction[:, None]).astype(np.float64)

    def rms(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    for layer in range(config.num_layers):
        p = f"transformer_1d_blocks.{layer}."
        x = rms(h)
        q, key = (rms(project(x, f"{p}attn1.to_{n}")) * w[f"{p}attn1.{n}_norm.weight"] for n in "qk")
        v = project(x, p + "attn1.to_v")
        parts = []
        for head in range(heads):
            at = slice(head * k, head * k + k)
            turn = np.exp(1j * angle[:, head * k // 2 : (head + 1) * k // 2])
            rotated = []
            for a in (q[:, at], key[:, at]):
                z = (a[:, : k // 2] + 1j * a[:, k // 2 :]) * turn
                rotated.append(np.concatenate([z.real, z.imag], axis=1))
            score = np.exp(rotated[0] @ rotated[1].T / np.sqrt(k))
            part = score / score.sum(1, keepdims=True) @ v[:, at]
            if config.gated:
                part = part * 2 / (1 + np.exp(-project(x, p + "attn1.to_gate_logits")[:, head : head + 1]))
            parts.append(part)
        h = h + project(np.concatenate(parts, axis=1), p + "attn1.to_out.0")
        x = project(rms(h), p + "ff.net.0.proj")
        h = h + project(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), p + "ff.net.2")
    return rms(h)


@pytest.mark.parametrize("changes", [{}, {"connector_apply_gated_attention": True}, {"connector_ff_bias": False}])
def test_context_matches_the_formula(changes: dict[str, Any]) -> None:
    config = ConnectorConfig.from_dict(TINY | changes, "video")
    arrays = random_arrays(config)
    features = np.random.default_rng(5).standard_normal((37, 16)).astype(np.float32)
    context = Connector(config, as_params(config, arrays), mx.float32)(mx.array(features)[None])
    assert context.shape == (1, 1024, 16)
    np.testing.assert_allclose(np.array(context[0]), numpy_context(config, arrays, features), atol=5e-5)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 1023, 1024])
def test_registers_keep_their_absolute_place(tokens: int) -> None:
    """Row i >= n holds register i mod 128, not (i - n) mod 128."""
    features = -mx.arange(1, tokens + 1, dtype=mx.float32)[None, :, None]
    registers = mx.arange(128, dtype=mx.float32)[:, None]
    rows = np.array(with_registers(features, registers))[0, :, 0]
    assert rows.shape == (1024,)
    for i in range(1024):
        assert rows[i] == (-(i + 1) if i < tokens else i % 128)


def test_rows_of_a_batch_are_independent() -> None:
    config = ConnectorConfig.from_dict(TINY, "video")
    connector = Connector(config, as_params(config, random_arrays(config)), mx.float32)
    features = mx.array(np.random.default_rng(1).standard_normal((2, 3, 16)).astype(np.float32))
    together = connector(features)
    for row in range(2):
        np.testing.assert_allclose(np.array(together[row]), np.array(connector(features[row : row + 1])[0]), atol=1e-6)


def test_activations_take_the_dtype_asked_for() -> None:
    config = ConnectorConfig.from_dict(TINY, "video")
    params = as_params(config, random_arrays(config))
    features = mx.array(np.random.default_rng(2).standard_normal((1, 9, 16)).astype(np.float32))
    low, exact = (Connector(config, params, dtype)(features) for dtype in (mx.bfloat16, mx.float32))
    assert low.dtype == mx.bfloat16
    # A dozen roundings of relative size 2**-9 on rows of unit mean square.
    assert mx.abs(low.astype(mx.float32) - exact).max() < 0.1


@pytest.mark.parametrize("width", [3840, 4096, 2048])
def test_rotary_values_of_the_published_sizes(width: int) -> None:
    positions = np.arange(1024, dtype=np.float32)[None, None]
    table = rope_table(positions, dim=width, max_positions=[4096.0], theta=10000.0, float64=True)
    cos, sin = (np.array(a)[0] for a in rope_lanes(table, width // 2))
    for token, lane, expected in (
        (0, 0, (0.0, -1.0)),
        (1023, 0, (0.7065642, -0.7076489)),
        (1023, -1, (0.1832077, -0.9830742)),
    ):
        np.testing.assert_allclose((cos[token, lane], sin[token, lane]), expected, atol=1e-6 if lane == 0 else 1e-3)


def test_audio_falls_back_to_the_video_settings() -> None:
    shared = ConnectorConfig.from_dict(TINY, "audio")
    assert shared == ConnectorConfig.from_dict(TINY, "video")
    own = ConnectorConfig.from_dict(
        TINY | {"audio_connector_attention_head_dim": 4, "audio_connector_num_layers": 1}, "audio"
    )
    assert (own.num_heads, own.head_dim, own.num_layers) == (2, 4, 1)
    bare = ConnectorConfig.from_dict({}, "video")
    assert (bare.width, bare.num_layers, bare.num_registers, bare.max_position) == (3840, 2, 128, 1.0)
    assert (bare.gated, bare.ff_bias, bare.rope_layout, bare.rope_float64) == (False, True, "split", False)


@pytest.mark.parametrize(
    ("changes", "stream", "tensors", "parameters"),
    [
        ({}, "video", 29, 354_470_400),
        ({}, "audio", 29, 354_470_400),
        ({"connector_num_attention_heads": 32}, "video", 129, 1_612_546_304),
        ({"connector_num_attention_heads": 32, "audio_connector_attention_head_dim": 64}, "audio", 129, 403_620_096),
    ],
)
def test_published_sizes(changes: dict[str, Any], stream: Any, tensors: int, parameters: int) -> None:
    if changes:
        changes = changes | {"connector_num_layers": 8, "connector_apply_gated_attention": True}
    specs = param_specs(ConnectorConfig.from_dict(changes, stream))
    assert len(specs) == tensors
    assert sum(int(np.prod(spec.shape)) for spec in specs) == parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector_num_attention_heads": 0}, "connector_num_attention_heads must be a positive int, got 0"),
        ({"audio_connector_attention_head_dim": "x"}, "attention_head_dim must be a positive int, got 'x'"),
        ({"connector_num_learnable_registers": 100}, "must divide 1024, got 100"),
        ({"connector_num_learnable_registers": None}, "must divide 1024, got None"),
        ({"connector_positional_embedding_max_pos": [20, 20]}, r"one positive number, got \[20, 20\]"),
        ({"rope_type": "spiral"}, "'split' or 'interleaved', got 'spiral'"),
        ({"connector_norm_output": False}, "connector_norm_output must be true"),
    ],
)
def test_config_rejects(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ConnectorConfig.from_dict(TINY | changes, "audio")


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 15), (1, 0, 16), (1, CONTEXT_ROWS + 1, 16)])
def test_features_are_checked(shape: tuple[int, ...]) -> None:
    config = ConnectorConfig.from_dict(TINY, "video")
    with pytest.raises(ValueError, match=r"features must be \(B, n, 16\) with 1 <= n <= 1024"):
        Connector(config, Params({}), mx.float32)(mx.zeros(shape))

"""The connectors: small transformers with learnable registers that turn text features into the model's context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.layers.rope import rope_table
from ltx2rt.kernels import RopeTable, modulated_norm, rope_attention
from ltx2rt.types import ParamSpec

Stream = Literal["video", "audio"]
STREAMS: tuple[Stream, ...] = ("video", "audio")

# Rows of a context, whatever the length of the prompt.
CONTEXT_ROWS = 1024
# The connectors ignore `positional_embedding_theta` and `norm_eps`, which belong to the transformer.
_ROPE_THETA = 10000.0
_EPS = 1e-6


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of one connector.

    Attributes:
        num_heads: N.
        head_dim: K; the width of features and context is N*K.
        num_layers: transformer blocks.
        num_registers: learnable rows that stand in for missing tokens; a divisor of `CONTEXT_ROWS`.
        max_position: the position whose rotary fraction is 1.
        gated: whether attention heads have gates.
        ff_bias: whether the feed-forward layers have biases.
        rope_layout: ``split`` or ``interleaved``.
        rope_float64: frequency grid in float64 before the rounding to float32.
    """

    num_heads: int
    head_dim: int
    num_layers: int
    num_registers: int
    max_position: float
    gated: bool
    ff_bias: bool
    rope_layout: str
    rope_float64: bool

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @classmethod
    def from_dict(cls, transformer: Mapping[str, Any], stream: Stream) -> ConnectorConfig:
        """The connector of ``stream`` described by the ``transformer`` section of the official config.

        An audio setting that is absent falls back to the video one.

        Raises:
            CheckpointError: for a value that the connector cannot have.

        Source: the connector configurators of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0.
        """

        def size(name: str, default: int) -> int:
            value = transformer.get(f"connector_{name}", default)
            if stream == "audio":
                value = transformer.get(f"audio_connector_{name}", value)
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(f"Transformer config: connector_{name} must be a positive int, got {value!r}.")
            return value

        registers = transformer.get("connector_num_learnable_registers", 128)
        if not isinstance(registers, int) or registers < 1 or CONTEXT_ROWS % registers:
            raise CheckpointError(
                f"Transformer config: connector_num_learnable_registers must divide {CONTEXT_ROWS}, got {registers!r}."
            )
        max_positions = transformer.get("connector_positional_embedding_max_pos", [1])
        if not isinstance(max_positions, list) or len(max_positions) != 1 or not max_positions[0] > 0:
            raise CheckpointError(
                "Transformer config: connector_positional_embedding_max_pos must hold one positive number, "
                f"got {max_positions!r}."
            )
        layout = transformer.get("rope_type", "split")
        if layout not in ("split", "interleaved"):
            raise CheckpointError(f"Transformer config: rope_type must be 'split' or 'interleaved', got {layout!r}.")
        if not transformer.get("connector_norm_output", True):
            raise CheckpointError("Transformer config: connector_norm_output must be true, got false.")
        return cls(
            num_heads=size("num_attention_heads", 30),
            head_dim=size("attention_head_dim", 128),
            num_layers=size("num_layers", 2),
            num_registers=registers,
            max_position=float(max_positions[0]),
            gated=bool(transformer.get("connector_apply_gated_attention", False)),
            ff_bias=bool(transformer.get("connector_ff_bias", True)),
            rope_layout=layout,
            rope_float64=transformer.get("frequencies_precision") == "float64",
        )


def param_specs(config: ConnectorConfig) -> list[ParamSpec]:
    """Every tensor of one connector, the registers first."""
    width = config.width
    specs = [ParamSpec("learnable_registers", (config.num_registers, width))]
    for layer in range(config.num_layers):
        prefix = f"transformer_1d_blocks.{layer}."
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            specs += _linear_specs(f"{prefix}attn1.{name}", width, width, bias=True)
        specs += [ParamSpec(f"{prefix}attn1.{name}.weight", (width,)) for name in ("q_norm", "k_norm")]
        if config.gated:
            specs += _linear_specs(f"{prefix}attn1.to_gate_logits", config.num_heads, width, bias=True)
        specs += _linear_specs(f"{prefix}ff.net.0.proj", 4 * width, width, bias=config.ff_bias)
        specs += _linear_specs(f"{prefix}ff.net.2", width, 4 * width, bias=config.ff_bias)
    return specs


def _linear_specs(name: str, out_features: int, in_features: int, *, bias: bool) -> list[ParamSpec]:
    weight = ParamSpec(f"{name}.weight", (out_features, in_features), layout="linear")
    return [weight, ParamSpec(f"{name}.bias", (out_features,))] if bias else [weight]


class Connector:
    """Fills the features of a prompt up to `CONTEXT_ROWS` rows with registers and lets all rows attend to each other.

    Args:
        config: sizes.
        params: arrays named as in `param_specs`.
        dtype: of the activations and the context.
    """

    def __init__(self, config: ConnectorConfig, params: Params, dtype: mx.Dtype = mx.bfloat16) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype

    def __call__(self, features: mx.array) -> mx.array:
        """Context of one or several prompts of equal length.

        Args:
            features: (B, n, W) float, the real tokens in order, 1 <= n <= 1024.

        Returns:
            (B, 1024, W) in the dtype of the connector; no row is masked.

        Raises:
            ValueError: if the features are not of that shape.

        Source: Embeddings1DConnector of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0.
        """
        config = self.config
        if features.ndim != 3 or features.shape[2] != config.width or not 1 <= features.shape[1] <= CONTEXT_ROWS:
            raise ValueError(
                f"features must be (B, n, {config.width}) with 1 <= n <= {CONTEXT_ROWS}, got {features.shape}."
            )
        positions = np.arange(CONTEXT_ROWS, dtype=np.float32)[None, None]
        rope = rope_table(
            positions,
            dim=config.width,
            max_positions=[config.max_position],
            theta=_ROPE_THETA,
            float64=config.rope_float64,
        )
        hidden = with_registers(features.astype(self._dtype), self._params["learnable_registers"])
        for layer in range(config.num_layers):
            hidden = self._block(hidden, self._params.at(f"transformer_1d_blocks.{layer}"), rope)
        return modulated_norm(hidden, eps=_EPS)

    def _block(self, hidden: mx.array, params: Params, rope: RopeTable) -> mx.array:
        attention = params.at("attn1")
        x = modulated_norm(hidden, eps=_EPS)
        attended = rope_attention(
            linear(x, attention.at("to_q")),
            linear(x, attention.at("to_k")),
            linear(x, attention.at("to_v")),
            num_heads=self.config.num_heads,
            q_norm=attention["q_norm.weight"],
            k_norm=attention["k_norm.weight"],
            norm_eps=_EPS,
            rope_q=rope,
            rope_k=rope,
            rope_layout=self.config.rope_layout,
            gate_logits=linear(x, attention.at("to_gate_logits")) if self.config.gated else None,
        )
        hidden = linear(attended, attention.at("to_out.0"), residual=hidden)
        mx.eval(hidden)  # the arrays of one half of a block are free before the next one's are made
        x = linear(modulated_norm(hidden, eps=_EPS), params.at("ff.net.0.proj"), activation="gelu_tanh")
        hidden = linear(x, params.at("ff.net.2"), residual=hidden)
        mx.eval(hidden)
        return hidden


def with_registers(features: mx.array, registers: mx.array) -> mx.array:
    """(B, n, W) -> (B, 1024, W): row i >= n is register i mod R, so registers keep their place whatever n is."""
    batch, tokens, _ = features.shape
    rows = mx.tile(registers.astype(features.dtype), (CONTEXT_ROWS // registers.shape[0], 1))[tokens:]
    return mx.concatenate([features, mx.broadcast_to(rows[None], (batch, *rows.shape))], axis=1)

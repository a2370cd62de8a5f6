"""The Gemma 3 text model as an encoder: token ids in, every hidden state out, one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.text.key_value_cache import KeyValueCache
from ltx2rt.kernels import RopeTable, modulated_norm, quantized_linear, rope_attention
from ltx2rt.kernels.host import from_numbers
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec

# What transformers' Gemma3TextConfig assumes for a key that config.json leaves out; published files leave out most.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
_REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "use_bidirectional_attention": (False, None),
}
# Added to the scores of keys outside the window; finite, so that a row of masked keys never becomes NaN.
_MASKED_SCORE = -1e30


@dataclass(frozen=True)
class RopeFrequencies:
    """Rotary frequencies of one layer type: ``theta**(-2i/head_dim) / factor``."""

    theta: float
    factor: float = 1.0


@dataclass(frozen=True)
class Gemma3Config:
    """Sizes of a Gemma 3 text model.

    Attributes:
        hidden_size: D.
        global_layers: per layer, True for full attention and its rotary frequencies, False for sliding attention.
        sliding_window: a sliding layer's query q sees keys k with q - k < sliding_window.
        query_pre_attn_scalar: the scores are divided by its square root.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    global_layers: tuple[bool, ...]
    sliding_window: int
    query_pre_attn_scalar: float
    rms_norm_eps: float
    global_rope: RopeFrequencies
    local_rope: RopeFrequencies

    @property
    def num_layers(self) -> int:
        return len(self.global_layers)

    @property
    def num_states(self) -> int:
        """How many hidden states the encoder yields: the embedding and one per layer."""
        return self.num_layers + 1

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma3Config:
        """The sizes in a Hugging Face ``config.json`` (whole, or its ``text_config`` alone).

        Raises:
            CheckpointError: for another model type, a missing key, or a value this model does not implement.

        Source: transformers 5.23 models/gemma3/configuration_gemma3.py; both spellings of the rotary settings.
        """
        text = config.get("text_config", config)
        model_type = text.get("model_type", config.get("model_type"))
        if model_type not in ("gemma3", "gemma3_text"):
            raise CheckpointError(
                f"The text encoder must be a Gemma 3 model, got model_type {model_type!r}; use the Gemma 3 12B folder."
            )
        for key, allowed in _REQUIRED_VALUES.items():
            if key in text and text[key] not in allowed:
                raise CheckpointError(f"Gemma 3 config: {key} must be {allowed[0]!r}, got {text[key]!r}.")
        values = _DEFAULTS | {key: value for key, value in text.items() if value is not None}
        missing = [key for key in ("hidden_size", "intermediate_size", "num_hidden_layers") if key not in values]
        if missing:
            raise CheckpointError(f"Gemma 3 config lacks {', '.join(missing)}; the config.json is incomplete.")
        heads, kv_heads, head_dim = (
            int(values[key]) for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        if heads % kv_heads:
            raise CheckpointError(f"Gemma 3 config: {heads} attention heads are not a multiple of {kv_heads} KV heads.")
        if head_dim % 2:
            raise CheckpointError(f"Gemma 3 config: head_dim must be even, got {head_dim}.")
        global_rope, local_rope = _rope_settings(values)
        return cls(
            hidden_size=int(values["hidden_size"]),
            intermediate_size=int(values["intermediate_size"]),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=int(values["vocab_size"]),
            global_layers=_layer_types(values),
            sliding_window=int(values["sliding_window"]),
            query_pre_attn_scalar=float(values["query_pre_attn_scalar"]),
            rms_norm_eps=float(values["rms_norm_eps"]),
            global_rope=global_rope,
            local_rope=local_rope,
        )


def _layer_types(values: Mapping[str, Any]) -> tuple[bool, ...]:
    layers = int(values["num_hidden_layers"])
    names = values.get("layer_types")
    if names is None:
        pattern = int(values.get("_sliding_window_pattern", values["sliding_window_pattern"]))
        return tuple((layer + 1) % pattern == 0 for layer in range(layers))
    unknown = sorted(set(names) - {"full_attention", "sliding_attention"})
    if unknown or len(names) != layers:
        raise CheckpointError(
            f"Gemma 3 config: layer_types must name full_attention or sliding_attention for {layers} layers, "
            f"got {len(names)} entries{f' with {unknown}' if unknown else ''}."
        )
    return tuple(name == "full_attention" for name in names)


def _rope_settings(values: Mapping[str, Any]) -> tuple[RopeFrequencies, RopeFrequencies]:
    """(global, local) from ``rope_parameters`` per layer type, or from ``rope_theta`` and ``rope_scaling``."""

    def frequencies(settings: Mapping[str, Any], theta: float) -> RopeFrequencies:
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in ("default", "linear"):
            raise CheckpointError(f"Gemma 3 config: rope_type must be 'default' or 'linear', got {kind!r}.")
        factor = float(settings.get("factor", 1.0)) if kind == "linear" else 1.0
        return RopeFrequencies(float(settings.get("rope_theta", theta)), factor)

    theta, local_theta = float(values["rope_theta"]), float(values["rope_local_base_freq"])
    by_type = values.get("rope_parameters")
    if by_type is not None and "full_attention" in by_type:
        return (
            frequencies(by_type["full_attention"], theta),
            frequencies(by_type.get("sliding_attention", {}), local_theta),
        )
    return frequencies(by_type or values.get("rope_scaling") or {}, theta), RopeFrequencies(local_theta)


def param_specs(config: Gemma3Config) -> list[ParamSpec]:
    """Every tensor the encoder reads: the embedding, the layers in order, the final norm."""
    return [
        ParamSpec("embed_tokens.weight", (config.vocab_size, config.hidden_size), layout="linear"),
        *(spec for layer in range(config.num_layers) for spec in layer_specs(config, layer)),
        ParamSpec("norm.weight", (config.hidden_size,)),
    ]


def layer_specs(config: Gemma3Config, layer: int) -> list[ParamSpec]:
    """The tensors of one layer."""
    width, hidden = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    prefix = f"layers.{layer}."
    matrices = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    norms = {
        "input_layernorm": width,
        "self_attn.q_norm": config.head_dim,
        "self_attn.k_norm": config.head_dim,
        "post_attention_layernorm": width,
        "pre_feedforward_layernorm": width,
        "post_feedforward_layernorm": width,
    }
    return [
        *(ParamSpec(f"{prefix}{name}.weight", shape, layout="linear") for name, shape in matrices.items()),
        *(ParamSpec(f"{prefix}{name}.weight", (size,)) for name, size in norms.items()),
    ]


def rope_table(frequencies: RopeFrequencies, head_dim: int, tokens: int) -> RopeTable:
    """Rotary table of positions 0 .. tokens-1, shared by all heads (split layout).

    Angles are products of float32 numbers, as in transformers; their cosines are exact to float32.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = (np.float32(1.0) / np.float32(frequencies.theta) ** exponents / np.float32(frequencies.factor)).astype(
        np.float32
    )
    angles = (np.arange(tokens, dtype=np.float32)[:, None] * inverse).astype(np.float64)
    return RopeTable(
        mx.array(np.cos(angles).astype(np.float32)),
        mx.array(np.sin(angles).astype(np.float32)),
        mx.arange(tokens, dtype=mx.int32)[:, None],
    )


def rope_rows(table: RopeTable, start: int, stop: int) -> RopeTable:
    """The part of a table for positions start .. stop-1."""
    return RopeTable(table.cos, table.sin, table.index[start:stop])


class Gemma3:
    """Gemma 3 text model.

    Args:
        config: sizes.
        params: arrays named as in `param_specs`; read layer by layer while `hidden_states` is consumed.
        dtype: of the activations.
        layers: where the tensors of each layer come from (names as in `param_specs`, without ``layers.N.``). Called
            once per layer and text, in order, after the layer before it has been evaluated; the view it returns is
            used until the next call. Default: ``params``.
        embedding_rows: gives rows of the embedding for token ids, in place of the matrix in ``params``.

    Attributes:
        keeps_layers: the tensors of all layers stay; without, each layer must be evaluated before the next is asked.
    """

    def __init__(
        self,
        config: Gemma3Config,
        params: Params,
        dtype: mx.Dtype = mx.bfloat16,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[np.ndarray[Any, Any]], LinearWeight] | None = None,
    ) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype
        self.keeps_layers = layers is None
        self._layers = layers if layers is not None else lambda index: params.at(f"layers.{index}")
        self._embedding_rows = embedding_rows if embedding_rows is not None else self._rows_of_matrix

    def hidden_states(self, input_ids: np.ndarray[Any, Any]) -> Iterator[mx.array]:
        """The embedding, the outputs of all layers but the last, and the normed output of the last.

        Padding is left out: rotary positions are relative and padding is masked, so ``input_ids`` holds real tokens
        only, at positions 0 .. n-1. Each state is evaluated before it is yielded, so that a consumer that drops it
        keeps the memory of one layer.

        Args:
            input_ids: (n,) integers.

        Yields:
            ``config.num_states`` arrays (1, n, D) in the dtype of the model.

        Raises:
            ValueError: if ``input_ids`` is not one-dimensional, is empty, or has an id outside the vocabulary.

        Source: transformers 5.23 models/gemma3/modeling_gemma3.py, Gemma3TextModel with output_hidden_states.
        """
        ids = from_numbers(input_ids)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError(f"input_ids must be a non-empty vector of token ids, got shape {ids.shape}.")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"input_ids must lie in 0..{self.config.vocab_size - 1}, got {ids.min()}..{ids.max()}; "
                "the tokenizer belongs to another text encoder."
            )
        return self._states(ids)

    def _states(self, ids: np.ndarray[Any, Any]) -> Iterator[mx.array]:
        config, tokens = self.config, ids.size
        global_rope = rope_table(config.global_rope, config.head_dim, tokens)
        local_rope = rope_table(config.local_rope, config.head_dim, tokens)
        window = window_bias(tokens, config.sliding_window) if tokens > config.sliding_window else None
        hidden = self.embed(ids)
        for layer, is_global in enumerate(config.global_layers):
            mx.eval(hidden)
            yield hidden
            hidden = self.layer(layer, hidden, global_rope if is_global else local_rope, None if is_global else window)
        hidden = self.final_norm(hidden)
        mx.eval(hidden)
        yield hidden

    def embed(self, ids: np.ndarray[Any, Any]) -> mx.array:
        """Hidden state (1, n, D) of token ids (n,).

        The rows of the embedding times sqrt(D), the factor rounded to the dtype of the activations first.
        """
        factor = mx.array(math.sqrt(self.config.hidden_size), dtype=self._dtype)
        return (dequantise(self._embedding_rows(ids)).astype(self._dtype) * factor)[None]

    def _rows_of_matrix(self, ids: np.ndarray[Any, Any]) -> LinearWeight:
        table = self._params.weight("embed_tokens.weight")
        index, rows = mx.array(ids.astype(np.int32)), table.out_features

        def part(array: mx.array | None) -> mx.array | None:
            """The rows of what has a row for each of the matrix, anything else as it is."""
            return array[index] if array is not None and array.shape[:1] == (rows,) and rows > 1 else array

        return table._replace(values=table.values[index], scale=part(table.scale), zero=part(table.zero))

    def final_norm(self, hidden: mx.array) -> mx.array:
        """The norm after the last layer."""
        return self._norm(hidden, self._params.at("norm"))

    def logits(self, hidden: mx.array) -> mx.array:
        """Scores (1, n, vocab) of the next token after normed hidden states (1, n, D): the head is the embedding."""
        return quantized_linear(hidden, self._params.weight("embed_tokens.weight"))

    def _norm(self, x: mx.array, params: Params) -> mx.array:
        """RMSNorm whose stored weight is zero-centred."""
        return modulated_norm(x, scale=params["weight"][None], eps=self.config.rms_norm_eps)

    def layer(
        self,
        index: int,
        hidden: mx.array,
        rope: RopeTable,
        bias: mx.array | None = None,
        cache: KeyValueCache | None = None,
    ) -> mx.array:
        """Output (1, n, D) of one layer.

        Args:
            index: of the layer.
            hidden: (1, n, D), the tokens after those in ``cache``.
            rope: table of all positions from 0 on; without a cache of exactly n.
            bias: (1, 1, n, keys) added to the scores.
            cache: keys and values of earlier tokens; extended by the new ones.
        """
        params = self._layers(index)
        x = self._norm(hidden, params.at("input_layernorm"))
        attended = self._attention(x, params.at("self_attn"), rope, bias, cache)
        hidden = hidden + self._norm(attended, params.at("post_attention_layernorm"))
        mlp = params.at("mlp")
        x = self._norm(hidden, params.at("pre_feedforward_layernorm"))
        x = linear(x, mlp.at("gate_proj"), activation="gelu_tanh") * linear(x, mlp.at("up_proj"))
        return hidden + self._norm(linear(x, mlp.at("down_proj")), params.at("post_feedforward_layernorm"))

    def _attention(
        self, x: mx.array, params: Params, rope: RopeTable, bias: mx.array | None, cache: KeyValueCache | None
    ) -> mx.array:
        config = self.config
        keys, values = linear(x, params.at("k_proj")), linear(x, params.at("v_proj"))
        rope_q = rope_k = rope
        if cache is not None:
            rope_q = rope_rows(rope, cache.end, cache.end + x.shape[1])
            keys, values, first = cache.extend(keys, values)
            rope_k = rope_rows(rope, first, cache.end)
        attended = rope_attention(
            linear(x, params.at("q_proj")),
            keys,
            values,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            q_norm=1.0 + params["q_norm.weight"].astype(mx.float32),
            k_norm=1.0 + params["k_norm.weight"].astype(mx.float32),
            norm_eps=config.rms_norm_eps,
            rope_q=rope_q,
            rope_k=rope_k,
            bias=bias,
            causal=True,
            scale=config.query_pre_attn_scalar**-0.5,
        )
        return linear(attended, params.at("o_proj"))


def window_bias(tokens: int, window: int) -> mx.array:
    """(1, 1, tokens, tokens) float32: hides keys that lie ``window`` or more positions before the query."""
    positions = np.arange(tokens)
    outside = positions[:, None] - positions[None] >= window
    return mx.array(np.where(outside, np.float32(_MASKED_SCORE), np.float32(0.0)))[None, None]

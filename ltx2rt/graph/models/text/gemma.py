"""What the Gemma text models share: token ids in, every hidden state out, one layer at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.text.key_value_cache import KeyValueCache
from ltx2rt.kernels import RopeTable, modulated_norm, quantized_linear, rope_attention
from ltx2rt.kernels.host import from_numbers
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec

EMBEDDING = "embed_tokens.weight"
# Rows that are added to every layer, of models that have them; they are looked up by token like the embedding.
LAYER_INPUTS = "embed_tokens_per_layer.weight"
# Twenty times those of the published models; a damaged number must not cost memory.
_MOST_LAYERS = 1000
# Added to the scores of keys outside the window; finite, so that a row of masked keys never becomes NaN.
_MASKED_SCORE = -1e30


@dataclass(frozen=True)
class RopeFrequencies:
    """Rotary frequencies of one layer type: ``theta**(-2i/head_dim) / factor``.

    Attributes:
        theta: base.
        factor: divides every frequency.
        rotated: share of the lanes that are rotated, the first ones; the others have frequency 0.
    """

    theta: float
    factor: float = 1.0
    rotated: float = 1.0


class AttentionSizes(NamedTuple):
    """The attention of one layer type: query heads, heads of keys and values, channels of each.

    ``keys_are_values``: the layer has no projection of values, they are those of keys.
    """

    heads: int
    kv_heads: int
    head_dim: int
    keys_are_values: bool = False


class LayerInputSizes(NamedTuple):
    """What some models add to every layer, looked up by token: rows for ``vocab_size`` tokens, ``width`` per layer."""

    vocab_size: int
    width: int


class SharedKeys(NamedTuple):
    """Keys and values (1, n, Nkv*K) of a layer that later ones use, too, the position of the first, and their norm."""

    keys: mx.array
    values: mx.array
    first: int
    norm: mx.array


@dataclass(frozen=True)
class GemmaConfig(ABC):
    """Sizes that all Gemma text models have.

    Attributes:
        hidden_size: D.
        head_dim, num_key_value_heads: of sliding layers; `attention` knows those of global ones.
        global_layers: per layer, True for full attention and its rotary frequencies, False for sliding attention.
        sliding_window: a sliding layer's query q sees keys k with q - k < sliding_window.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    global_layers: tuple[bool, ...]
    sliding_window: int
    rms_norm_eps: float
    global_rope: RopeFrequencies
    local_rope: RopeFrequencies

    # What is added to the stored weights of norms.
    norm_offset: ClassVar[float]
    # Whether values are normalised, too, without a weight.
    norms_values: ClassVar[bool]
    # Whether a layer ends with a factor that is stored.
    has_layer_factors: ClassVar[bool]

    @property
    def num_layers(self) -> int:
        return len(self.global_layers)

    @property
    def num_states(self) -> int:
        """How many hidden states the encoder yields: the embedding and one per layer."""
        return self.num_layers + 1

    @property
    @abstractmethod
    def score_scale(self) -> float:
        """What the scores of the attention are multiplied by."""

    @abstractmethod
    def attention(self, *, is_global: bool) -> AttentionSizes:
        """The attention of global layers, or of sliding ones."""

    @property
    def layer_inputs(self) -> LayerInputSizes | None:
        """What is looked up for every layer; None: nothing."""
        return None

    @property
    def first_sharing(self) -> int:
        """The first layer that uses the keys and values of an earlier one of its type; the number of layers: none."""
        return self.num_layers

    @property
    def score_limit(self) -> float:
        """Of the scores of tokens, which are bent to stay below it; 0: none."""
        return 0.0

    def feed_forward(self, layer: int) -> int:
        """Channels in the middle of a layer's feed-forward."""
        return self.intermediate_size

    @property
    def shared_layers(self) -> frozenset[int]:
        """The layers whose keys and values later ones use."""
        own = range(self.first_sharing)
        used = {self.global_layers[layer] for layer in range(self.first_sharing, self.num_layers)}
        return frozenset(max(layer for layer in own if self.global_layers[layer] == kind) for kind in used)


def size(values: Mapping[str, Any], key: str, model: str, *, even: bool = False) -> int:
    """A size of a configuration; ``model`` names the model in errors.

    Raises:
        CheckpointError: it is missing, or no positive (even) integer.
    """
    if key not in values:
        raise CheckpointError(f"{model} config lacks {key}; the config.json is incomplete.")
    value = values[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise CheckpointError(f"{model} config: {key} must be a positive integer, got {value!r}.")
    if even and value % 2:
        raise CheckpointError(f"{model} config: {key} must be even, got {value}.")
    return value


def positive_number(values: Mapping[str, Any], key: str, model: str) -> float:
    """A number of a configuration; as `size`, but a fraction will do."""
    value = values[key]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e12:
        raise CheckpointError(f"{model} config: {key} must be a positive number, got {value!r}.")
    return float(value)


def require_groups(heads: int, kv_heads: int, model: str) -> None:
    """Raise CheckpointError unless every head of keys and values serves as many heads of queries."""
    if heads % kv_heads:
        raise CheckpointError(f"{model} config: {heads} attention heads are not a multiple of {kv_heads} KV heads.")


def layer_types(values: Mapping[str, Any], model: str) -> tuple[bool, ...]:
    """Per layer of a Hugging Face configuration whether it sees all tokens; ``model`` names the model in errors.

    Raises:
        CheckpointError: another type of layer, or another number of them than layers.
    """
    layers = size(values, "num_hidden_layers", model)
    if layers > _MOST_LAYERS:
        raise CheckpointError(f"{model} config: num_hidden_layers must be at most {_MOST_LAYERS}, got {layers}.")
    names = values.get("layer_types")
    if names is None:
        key = "_sliding_window_pattern" if "_sliding_window_pattern" in values else "sliding_window_pattern"
        pattern = size(values, key, model)
        return tuple((layer + 1) % pattern == 0 for layer in range(layers))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{model} config: layer_types must be a list of names, got {names!r}.")
    unknown = sorted(set(names) - {"full_attention", "sliding_attention"})
    if unknown or len(names) != layers:
        raise CheckpointError(
            f"{model} config: layer_types must name full_attention or sliding_attention for {layers} layers, "
            f"got {len(names)} entries{f' with {unknown}' if unknown else ''}."
        )
    return tuple(name == "full_attention" for name in names)


def param_specs(config: GemmaConfig) -> list[ParamSpec]:
    """Every tensor the encoder reads: the embedding, the layers in order, the final norm."""
    return [
        ParamSpec(EMBEDDING, (config.vocab_size, config.hidden_size), layout="linear"),
        *(spec for layer in range(config.num_layers) for spec in layer_specs(config, layer)),
        ParamSpec("norm.weight", (config.hidden_size,)),
        *_layer_input_specs(config),
    ]


def _layer_input_specs(config: GemmaConfig) -> list[ParamSpec]:
    """What all layers share of their inputs."""
    sizes = config.layer_inputs
    if sizes is None:
        return []
    width = config.num_layers * sizes.width
    return [
        ParamSpec(LAYER_INPUTS, (sizes.vocab_size, width), layout="linear"),
        ParamSpec("per_layer_model_projection.weight", (width, config.hidden_size), layout="linear"),
        ParamSpec("per_layer_projection_norm.weight", (sizes.width,)),
    ]


def layer_specs(config: GemmaConfig, layer: int) -> list[ParamSpec]:
    """The tensors of one layer."""
    width, hidden = config.hidden_size, config.feed_forward(layer)
    sizes = config.attention(is_global=config.global_layers[layer])
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
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
    shares = layer >= config.first_sharing
    if sizes.keys_are_values or shares:
        del matrices["self_attn.v_proj"]
    if shares:
        del matrices["self_attn.k_proj"]
    norms = {
        "input_layernorm": width,
        "self_attn.q_norm": sizes.head_dim,
        "self_attn.k_norm": sizes.head_dim,
        "post_attention_layernorm": width,
        "pre_feedforward_layernorm": width,
        "post_feedforward_layernorm": width,
    }
    if shares:
        del norms["self_attn.k_norm"]
    inputs = config.layer_inputs
    if inputs is not None:
        matrices |= {"per_layer_input_gate": (inputs.width, width), "per_layer_projection": (width, inputs.width)}
        norms["post_per_layer_input_norm"] = width
    return [
        *(ParamSpec(f"{prefix}{name}.weight", shape, layout="linear") for name, shape in matrices.items()),
        *(ParamSpec(f"{prefix}{name}.weight", (size,)) for name, size in norms.items()),
        *([ParamSpec(f"{prefix}layer_scalar", (1,))] if config.has_layer_factors else []),
    ]


def rope_table(frequencies: RopeFrequencies, head_dim: int, tokens: int) -> RopeTable:
    """Rotary table of positions 0 .. tokens-1, shared by all heads (split layout).

    Angles are products of float32 numbers, as in transformers; their cosines are exact to float32.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = (np.float32(1.0) / np.float32(frequencies.theta) ** exponents / np.float32(frequencies.factor)).astype(
        np.float32
    )
    inverse[int(frequencies.rotated * head_dim // 2) :] = 0.0
    angles = (np.arange(tokens, dtype=np.float32)[:, None] * inverse).astype(np.float64)
    return RopeTable(
        mx.array(np.cos(angles).astype(np.float32)),
        mx.array(np.sin(angles).astype(np.float32)),
        mx.arange(tokens, dtype=mx.int32)[:, None],
    )


def rope_rows(table: RopeTable, start: int, stop: int) -> RopeTable:
    """The part of a table for positions start .. stop-1."""
    return RopeTable(table.cos, table.sin, table.index[start:stop])


def window_bias(tokens: int, window: int) -> mx.array:
    """(1, 1, tokens, tokens) float32: hides keys that lie ``window`` or more positions before the query."""
    positions = np.arange(tokens)
    outside = positions[:, None] - positions[None] >= window
    return mx.array(np.where(outside, np.float32(_MASKED_SCORE), np.float32(0.0)))[None, None]


class Gemma:
    """A Gemma text model.

    Args:
        config: sizes.
        params: arrays named as in `param_specs`; read layer by layer while `hidden_states` is consumed.
        dtype: of the activations.
        layers: where the tensors of each layer come from (names as in `param_specs`, without ``layers.N.``). Called
            once per layer and text, in order, after the layer before it has been evaluated; the view it returns is
            used until the next call. Default: ``params``.
        embedding_rows: gives rows of the embedding for token ids, in place of the matrix in ``params``.
        input_rows: the same of what is looked up for the layers, of models that have it.

    Attributes:
        keeps_layers: the tensors of all layers stay; without, each layer must be evaluated before the next is asked.
    """

    def __init__(
        self,
        config: GemmaConfig,
        params: Params,
        dtype: mx.Dtype = mx.bfloat16,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[np.ndarray[Any, Any]], LinearWeight] | None = None,
        input_rows: Callable[[np.ndarray[Any, Any]], LinearWeight] | None = None,
    ) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype
        self.keeps_layers = layers is None
        self._layers = layers if layers is not None else lambda index: params.at(f"layers.{index}")
        self._embedding_rows = embedding_rows or partial(self._rows_of_matrix, EMBEDDING)
        self._input_rows = input_rows or partial(self._rows_of_matrix, LAYER_INPUTS)

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

        Source: transformers 5.23, Gemma3TextModel and Gemma4UnifiedTextModel with output_hidden_states.
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
        global_rope, local_rope = self.rope_tables(tokens)
        window = window_bias(tokens, config.sliding_window) if tokens > config.sliding_window else None
        hidden = self.embed(ids)
        inputs, shared = self.layer_inputs(ids, hidden), self.shared_keys()
        for layer, is_global in enumerate(config.global_layers):
            mx.eval(hidden)
            yield hidden
            rope, bias = (global_rope, None) if is_global else (local_rope, window)
            hidden = self.layer(layer, hidden, rope, bias, None, inputs, shared)
        hidden = self.final_norm(hidden)
        mx.eval(hidden)
        yield hidden

    def rope_tables(self, tokens: int) -> tuple[RopeTable, RopeTable]:
        """The rotary tables of global and of sliding layers for positions 0 .. tokens-1."""
        config = self.config
        sizes = [config.attention(is_global=is_global).head_dim for is_global in (True, False)]
        return rope_table(config.global_rope, sizes[0], tokens), rope_table(config.local_rope, sizes[1], tokens)

    def embed(self, ids: np.ndarray[Any, Any]) -> mx.array:
        """Hidden state (1, n, D) of token ids (n,).

        The rows of the embedding times sqrt(D), the factor rounded to the dtype of the activations first.
        """
        factor = mx.array(math.sqrt(self.config.hidden_size), dtype=self._dtype)
        return (dequantise(self._embedding_rows(ids)).astype(self._dtype) * factor)[None]

    def _rows_of_matrix(self, name: str, ids: np.ndarray[Any, Any]) -> LinearWeight:
        return self._params.weight(name).rows(mx.array(ids.astype(np.int32)))

    def layer_inputs(self, ids: np.ndarray[Any, Any], embedded: mx.array) -> mx.array | None:
        """What is added to every layer, (1, n, layers, P), for token ids (n,) and their embedding (1, n, D)."""
        config, sizes = self.config, self.config.layer_inputs
        if sizes is None:
            return None
        parts = (1, len(ids) * config.num_layers, sizes.width)
        factor = mx.array(math.sqrt(sizes.width), dtype=self._dtype)
        looked_up = (dequantise(self._input_rows(ids)).astype(self._dtype) * factor).reshape(parts)
        projected = linear(embedded, self._params.at("per_layer_model_projection")) * config.hidden_size**-0.5
        normed = self._norm(projected.reshape(parts), self._params.at("per_layer_projection_norm"))
        return ((normed + looked_up) * 2**-0.5).reshape(1, len(ids), config.num_layers, sizes.width)

    def shared_keys(self) -> dict[bool, SharedKeys] | None:
        """Where the layers of one pass leave keys for later ones, by their type; None: no layer needs any."""
        return {} if self.config.shared_layers else None

    def final_norm(self, hidden: mx.array) -> mx.array:
        """The norm after the last layer."""
        return self._norm(hidden, self._params.at("norm"))

    def logits(self, hidden: mx.array) -> mx.array:
        """Scores (1, n, vocab) of the next token after normed hidden states (1, n, D): the head is the embedding."""
        scores = quantized_linear(hidden, self._params.weight(EMBEDDING))
        limit = self.config.score_limit
        return mx.tanh(scores / limit) * limit if limit else scores

    def _norm(self, x: mx.array, params: Params) -> mx.array:
        # The kernel multiplies by one more than its argument.
        scale = _plus(params["weight"], self.config.norm_offset - 1.0)
        return modulated_norm(x, scale=scale[None], eps=self.config.rms_norm_eps)

    def layer(
        self,
        index: int,
        hidden: mx.array,
        rope: RopeTable,
        bias: mx.array | None = None,
        cache: KeyValueCache | None = None,
        inputs: mx.array | None = None,
        shared: dict[bool, SharedKeys] | None = None,
    ) -> mx.array:
        """Output (1, n, D) of one layer.

        Args:
            index: of the layer.
            hidden: (1, n, D), the tokens after those in ``cache``.
            rope: table of all positions from 0 on; without a cache of exactly n.
            bias: (1, 1, n, keys) added to the scores.
            cache: keys and values of earlier tokens; extended by the new ones.
            inputs: of `layer_inputs`.
            shared: of `shared_keys`; the layers of one pass hand it on.
        """
        params = self._layers(index)
        x = self._norm(hidden, params.at("input_layernorm"))
        attended = self._attention(index, x, params.at("self_attn"), rope, bias, cache, shared)
        hidden = hidden + self._norm(attended, params.at("post_attention_layernorm"))
        mlp = params.at("mlp")
        x = self._norm(hidden, params.at("pre_feedforward_layernorm"))
        x = linear(x, mlp.at("gate_proj"), activation="gelu_tanh") * linear(x, mlp.at("up_proj"))
        hidden = hidden + self._norm(linear(x, mlp.at("down_proj")), params.at("post_feedforward_layernorm"))
        if inputs is not None:
            gated = linear(hidden, params.at("per_layer_input_gate"), activation="gelu_tanh") * inputs[:, :, index]
            added = linear(gated, params.at("per_layer_projection"))
            hidden = hidden + self._norm(added, params.at("post_per_layer_input_norm"))
        if not self.config.has_layer_factors:
            return hidden
        return hidden * params["layer_scalar"].astype(self._dtype)

    def _attention(
        self,
        index: int,
        x: mx.array,
        params: Params,
        rope: RopeTable,
        bias: mx.array | None,
        cache: KeyValueCache | None,
        shared: dict[bool, SharedKeys] | None,
    ) -> mx.array:
        config, is_global = self.config, self.config.global_layers[index]
        sizes = config.attention(is_global=is_global)
        if index >= config.first_sharing:
            assert shared is not None
            held = shared[is_global]
        else:
            held = self._keys(x, params, sizes, cache)
        if shared is not None and index in config.shared_layers:
            norm = held.norm.astype(mx.float32) + mx.zeros((1,))  # stays when a streamed layer's memory is used again
            mx.eval(norm)
            shared[is_global] = held = held._replace(norm=norm)
        end = held.first + held.keys.shape[1]
        rope_q = rope_k = rope
        if cache is not None or index >= config.first_sharing:
            rope_q, rope_k = rope_rows(rope, end - x.shape[1], end), rope_rows(rope, held.first, end)
        attended = rope_attention(
            linear(x, params.at("q_proj")),
            held.keys,
            held.values,
            num_heads=sizes.heads,
            num_kv_heads=sizes.kv_heads,
            q_norm=_plus(params["q_norm.weight"], config.norm_offset),
            k_norm=_plus(held.norm, config.norm_offset),
            norm_eps=config.rms_norm_eps,
            rope_q=rope_q,
            rope_k=rope_k,
            bias=bias,
            causal=True,
            scale=config.score_scale,
        )
        return linear(attended, params.at("o_proj"))

    def _keys(self, x: mx.array, params: Params, sizes: AttentionSizes, cache: KeyValueCache | None) -> SharedKeys:
        """A layer's own keys and values: of ``x``, and what ``cache`` has of earlier tokens."""
        keys = linear(x, params.at("k_proj"))
        values = keys if sizes.keys_are_values else linear(x, params.at("v_proj"))
        if self.config.norms_values:
            heads = values.reshape(*values.shape[:2], sizes.kv_heads, sizes.head_dim)
            values = modulated_norm(heads, eps=self.config.rms_norm_eps).reshape(values.shape)
        first = 0
        if cache is not None:
            keys, values, first = cache.extend(keys, values)
        return SharedKeys(keys, values, first, params["k_norm.weight"])


def _plus(weight: mx.array, offset: float) -> mx.array:
    """The weight of a norm plus a number, float32; without one as it is stored."""
    return weight if offset == 0.0 else weight.astype(mx.float32) + offset

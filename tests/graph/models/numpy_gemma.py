"""Gemma 3 and 4 in numpy and float64, head by head, to check the models against; and random weights for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import LinearWeight, ParamSpec


class LayerFormula(NamedTuple):
    """What layers differ in.

    Attributes:
        score_factor: what scores are multiplied with.
        rope_base, rope_factor: of the rotary embedding; positions are divided by the factor.
        rotated: pairs of lanes that are rotated, the first ones; None: all.
        window: how many keys a query sees, itself included; None: all before it.
        keys_are_values: no values of their own.
        normed_values: values are divided by their root mean square.
        keys_of: number of the layer whose keys and values are used; None: its own.
    """

    head_dim: int
    kv_heads: int
    score_factor: float
    rope_base: float
    rope_factor: float = 1.0
    rotated: int | None = None
    window: int | None = None
    keys_are_values: bool = False
    normed_values: bool = False
    keys_of: int | None = None


# Keys, values and the weight of the norm of keys.
Kept = tuple[np.ndarray, np.ndarray, np.ndarray]


class GemmaFormula(NamedTuple):
    """``norm_offset`` is added to the weights of norms."""

    heads: int
    eps: float
    norm_offset: float
    layers: Sequence[LayerFormula]

    def states(self, weights: dict[str, np.ndarray], ids: Sequence[int], pads: int = 0) -> list[np.ndarray]:
        """Every hidden state (n, D), with ``pads`` masked tokens on the left that are left out of the result."""
        w = {name: value.astype(np.float64) for name, value in weights.items()}
        h = w["embed_tokens.weight"][[0] * pads + list(ids)]
        h = h * np.sqrt(h.shape[1])
        inputs = self._inputs(w, h, [0] * pads + list(ids)) if "embed_tokens_per_layer.weight" in w else None
        kept: list[Kept] = []
        states = [h]
        for number, layer in enumerate(self.layers):
            p = f"layers.{number}."
            attended = self._attention(layer, w, p, self._norm(h, w[p + "input_layernorm.weight"]), pads, kept)
            h = h + self._norm(attended, w[p + "post_attention_layernorm.weight"])
            x = self._norm(h, w[p + "pre_feedforward_layernorm.weight"])
            gate = _gelu(x @ w[p + "mlp.gate_proj.weight"].T)
            x = (gate * (x @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
            h = h + self._norm(x, w[p + "post_feedforward_layernorm.weight"])
            if inputs is not None:
                x = _gelu(h @ w[p + "per_layer_input_gate.weight"].T) * inputs[:, number]
                x = x @ w[p + "per_layer_projection.weight"].T
                h = h + self._norm(x, w[p + "post_per_layer_input_norm.weight"])
            h = h * w.get(p + "layer_scalar", 1.0)
            states.append(h)
        states[-1] = self._norm(h, w["norm.weight"])
        return [state[pads:] for state in states]

    def _inputs(self, w: dict[str, np.ndarray], h: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """What every layer adds, (n, layers, P)."""
        width = len(w["per_layer_projection_norm.weight"])
        shape = (len(ids), len(self.layers), width)
        looked_up = w["embed_tokens_per_layer.weight"][list(ids)].reshape(shape) * np.sqrt(width)
        projected = (h @ w["per_layer_model_projection.weight"].T).reshape(shape) / np.sqrt(h.shape[1])
        return (self._norm(projected, w["per_layer_projection_norm.weight"]) + looked_up) / np.sqrt(2)

    def _norm(self, x: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
        normed: np.ndarray = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * (self.norm_offset + weight)
        return normed

    def _attention(
        self,
        layer: LayerFormula,
        w: dict[str, np.ndarray],
        p: str,
        x: np.ndarray,
        pads: int,
        kept: list[Kept],
    ) -> np.ndarray:
        """``kept`` has keys, values and norm of every layer before, and gets those of this one."""
        n, k = len(x), layer.head_dim
        q, q_norm = x @ w[p + "self_attn.q_proj.weight"].T, w[p + "self_attn.q_norm.weight"]
        if layer.keys_of is None:
            keys = x @ w[p + "self_attn.k_proj.weight"].T
            values = keys if layer.keys_are_values else x @ w[p + "self_attn.v_proj.weight"].T
            kept.append((keys, values, w[p + "self_attn.k_norm.weight"]))
        else:
            kept.append(kept[layer.keys_of])
        keys, values, k_norm = kept[-1]
        outputs = []
        for head in range(self.heads):
            at, first = slice(head * k, head * k + k), head // (self.heads // layer.kv_heads) * k
            qh = _turn(layer, self._norm(q[:, at], q_norm))
            kh = _turn(layer, self._norm(keys[:, first : first + k], k_norm))
            vh = values[:, first : first + k]
            if layer.normed_values:
                vh = self._norm(vh, 1.0 - self.norm_offset)
            row = np.full((n, n), -np.inf)
            for i in range(n):
                for j in range(i + 1):
                    far = layer.window is not None and i - j >= layer.window
                    if not far and not (j < pads and i != j):
                        row[i, j] = qh[i] @ kh[j] * layer.score_factor
            weight = np.exp(row - row.max(1, keepdims=True))
            outputs.append(weight / weight.sum(1, keepdims=True) @ vh)
        attended: np.ndarray = np.concatenate(outputs, axis=1) @ w[p + "self_attn.o_proj.weight"].T
        return attended


def _gelu(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return result


def _turn(layer: LayerFormula, x: np.ndarray) -> np.ndarray:
    """Rotary embedding as a complex product."""
    pairs = layer.head_dim // 2
    rotated = pairs if layer.rotated is None else layer.rotated
    angle = np.arange(len(x))[:, None] * layer.rope_base ** (-np.arange(pairs) * 2 / layer.head_dim)
    angle = np.where(np.arange(pairs) < rotated, angle / layer.rope_factor, 0)
    z = (x[:, :pairs] + 1j * x[:, pairs:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=1)


def random_arrays(specs: Sequence[ParamSpec], seed: int = 0, *, norms: float = 0.0) -> dict[str, np.ndarray]:
    """Weights; what has one axis lies around ``norms``."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: (rng.standard_normal(spec.shape) * 0.2 + (norms if len(spec.shape) == 1 else 0.0)).astype(np.float32)
        for spec in specs
    }


def as_params(specs: Sequence[ParamSpec], arrays: dict[str, np.ndarray]) -> Params:
    """As the loader gives them."""
    return Params(
        {
            spec.name: LinearWeight("dense", mx.array(arrays[spec.name]))
            if spec.layout == "linear"
            else mx.array(arrays[spec.name])
            for spec in specs
        }
    )

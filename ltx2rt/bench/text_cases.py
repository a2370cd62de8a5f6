"""One layer of the text encoders: of Gemma 3 12B, and of either kind of Gemma 4 12B."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import DTYPES, normal
from ltx2rt.bench.stage import Part, StageCase, random_params
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma import Gemma, layer_specs, param_specs, window_bias
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.text.gemma4 import Gemma4Config

_SECTION: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 3840,
    "num_hidden_layers": 1,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "vocab_size": 1024,
    "rms_norm_eps": 1e-6,
    "sliding_window": 1024,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
}


@dataclass(frozen=True)
class TextLayerCase(StageCase):
    """A layer on ``tokens`` tokens of one prompt."""

    tokens: int
    form: str = "bf16"
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"text_layer/{self.form}/{self.tokens}"

    def reduced(self) -> TextLayerCase:
        return replace(self, tokens=12, small=True)

    def part(self) -> Part:
        return TextLayer(self)


class TextLayer:
    """A text encoder of one layer: embedding, layer, final norm."""

    def __init__(self, case: TextLayerCase) -> None:
        self.case = case
        self.section = {**_SECTION, **(_SMALL if case.small else {})}
        config = Gemma3Config.from_dict(self.section)
        self.specs = param_specs(config)
        self.params = random_params(self.specs, case.dtype, None if case.form in DTYPES else case.form)
        self._model = Gemma(config, Params(self.params), DTYPES[case.dtype])
        self.ids = np.arange(case.tokens) % config.vocab_size

    def build(self) -> mx.array:
        *_, out = self._model.hidden_states(self.ids)
        return out


_SECTION_4: dict[str, Any] = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 3840,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "vocab_size": 1024,
    "rms_norm_eps": 1e-6,
    "sliding_window": 1024,
}
# Depths of whole groups of 256, in which weights may be rotated.
_SMALL_4 = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "global_head_dim": 256,
    "sliding_window": 8,
}
KINDS = ("sliding", "global")


@dataclass(frozen=True)
class Gemma4LayerCase(StageCase):
    """A layer on ``tokens`` tokens of one prompt, whose hidden state is given.

    Attributes:
        kind: ``sliding``, or ``global``, whose keys are its values.
    """

    tokens: int
    kind: str
    form: str = "bf16"
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"text_layer-2.5/{self.form}/{self.kind}/{self.tokens}"

    def reduced(self) -> Gemma4LayerCase:
        return replace(self, tokens=12, small=True)

    def part(self) -> Part:
        return Gemma4Layer(self)


class Gemma4Layer:
    """Weights and input of one layer.

    Attributes:
        section: of the model's configuration.
        index: of the layer in that model, which has one of each kind.
        bias: what hides keys beyond the window; None: every query sees all before it.
    """

    def __init__(self, case: Gemma4LayerCase) -> None:
        self.case = case
        self.section = {**_SECTION_4, **(_SMALL_4 if case.small else {})}
        self.config = Gemma4Config.from_dict(self.section)
        self.index = KINDS.index(case.kind)
        self.specs = layer_specs(self.config, self.index)
        self.params = random_params(self.specs, case.dtype, None if case.form in DTYPES else case.form)
        model = Gemma(self.config, Params(self.params), DTYPES[case.dtype])
        self.hidden = normal((1, case.tokens, self.config.hidden_size), 1, DTYPES[case.dtype])
        tables = dict(zip(("global", "sliding"), model.rope_tables(case.tokens), strict=True))
        self.rope = tables[case.kind]
        window = self.config.sliding_window
        hides = case.kind == "sliding" and case.tokens > window
        self.bias = window_bias(case.tokens, window) if hides else None
        self._model = model

    def build(self) -> mx.array:
        return self._model.layer(self.index, self.hidden, self.rope, self.bias)


def text_cases() -> list[TextLayerCase | Gemma4LayerCase]:
    """A short and a full prompt; the short one also with int8 weights, MLX's of Gemma 3, rotated ones of Gemma 4."""
    return [
        TextLayerCase(128),
        TextLayerCase(1024),
        TextLayerCase(128, form="int8"),
        *(Gemma4LayerCase(tokens, kind) for tokens in (128, 1024) for kind in KINDS),
        Gemma4LayerCase(128, "sliding", form="int8-convrot"),
    ]

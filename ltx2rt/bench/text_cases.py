"""One layer of the Gemma 3 12B text encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import DTYPES
from ltx2rt.bench.stage import Part, StageCase, random_params
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma import Gemma, param_specs
from ltx2rt.graph.models.text.gemma3 import Gemma3Config

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


def text_cases() -> list[TextLayerCase]:
    """A short and a full prompt; the short one also with MLX int8 weights."""
    return [TextLayerCase(128), TextLayerCase(1024), TextLayerCase(128, form="int8")]

"""The configuration of Gemma 3 text models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text.gemma import (
    AttentionSizes,
    GemmaConfig,
    RopeFrequencies,
    layer_types,
    positive_number,
    require_groups,
    size,
)

_MODEL = "Gemma 3"
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


@dataclass(frozen=True)
class Gemma3Config(GemmaConfig):
    """Sizes of a Gemma 3 text model.

    Attributes:
        query_pre_attn_scalar: the scores are divided by its square root.
    """

    query_pre_attn_scalar: float

    norm_offset: ClassVar[float] = 1.0
    norms_values: ClassVar[bool] = False
    has_layer_factors: ClassVar[bool] = False

    @property
    def score_scale(self) -> float:
        return float(self.query_pre_attn_scalar**-0.5)

    def attention(self, *, is_global: bool) -> AttentionSizes:
        del is_global  # both alike
        return AttentionSizes(self.num_attention_heads, self.num_key_value_heads, self.head_dim)

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
        heads, kv_heads = (size(values, key, _MODEL) for key in ("num_attention_heads", "num_key_value_heads"))
        require_groups(heads, kv_heads, _MODEL)
        global_rope, local_rope = _rope_settings(values)
        return cls(
            hidden_size=size(values, "hidden_size", _MODEL),
            intermediate_size=size(values, "intermediate_size", _MODEL),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=size(values, "head_dim", _MODEL, even=True),
            vocab_size=size(values, "vocab_size", _MODEL),
            global_layers=layer_types(values, _MODEL),
            sliding_window=size(values, "sliding_window", _MODEL),
            query_pre_attn_scalar=positive_number(values, "query_pre_attn_scalar", _MODEL),
            rms_norm_eps=positive_number(values, "rms_norm_eps", _MODEL),
            global_rope=global_rope,
            local_rope=local_rope,
        )


def _rope_settings(values: Mapping[str, Any]) -> tuple[RopeFrequencies, RopeFrequencies]:
    """(global, local) from ``rope_parameters`` per layer type, or from ``rope_theta`` and ``rope_scaling``."""

    def frequencies(settings: Any, theta: float) -> RopeFrequencies:
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"Gemma 3 config: rotary settings must be an object, got {settings!r}.")
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in ("default", "linear"):
            raise CheckpointError(f"Gemma 3 config: rope_type must be 'default' or 'linear', got {kind!r}.")
        settings = {"rope_theta": theta, "factor": 1.0, **settings}
        factor = positive_number(settings, "factor", _MODEL) if kind == "linear" else 1.0
        return RopeFrequencies(positive_number(settings, "rope_theta", _MODEL), factor)

    theta, local_theta = (positive_number(values, key, _MODEL) for key in ("rope_theta", "rope_local_base_freq"))
    by_type = values.get("rope_parameters")
    if isinstance(by_type, Mapping) and "full_attention" in by_type:
        return (
            frequencies(by_type["full_attention"], theta),
            frequencies(by_type.get("sliding_attention", {}), local_theta),
        )
    return frequencies(by_type or values.get("rope_scaling") or {}, theta), RopeFrequencies(local_theta)

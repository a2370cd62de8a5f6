"""The configuration of the Gemma 4 text models that encode prompts of LTX-2.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text.gemma import (
    AttentionSizes,
    GemmaConfig,
    LayerInputSizes,
    RopeFrequencies,
    layer_types,
    positive_number,
    require_groups,
    size,
)

_MODEL = "Gemma 4"
_LIMIT = "final_logit_softcapping"
_MODEL_TYPES = ("gemma4_unified", "gemma4_unified_text", "gemma4", "gemma4_text")
# What transformers' Gemma4UnifiedTextConfig assumes for a key that config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262144,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": False,
    "rms_norm_eps": 1e-6,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
}
_DEFAULT_ROPE: dict[str, dict[str, Any]] = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# Of the stock models some have experts.
_REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "use_bidirectional_attention": ("vision", None, False),
    "enable_moe_block": (False, None),
}


@dataclass(frozen=True)
class Gemma4Config(GemmaConfig):
    """Sizes of a Gemma 4 text model.

    Attributes:
        global_head_dim, num_global_key_value_heads: of global layers.
        global_keys_are_values: global layers have no projection of values, they are those of keys.
        input_sizes: of what is looked up for every layer, if anything is.
        num_sharing: how many of the last layers use the keys and values of earlier ones.
        sharing_is_wide: these have feed-forwards of twice the width.
        limit: of the scores of tokens; 0: none.
    """

    global_head_dim: int
    num_global_key_value_heads: int
    global_keys_are_values: bool
    input_sizes: LayerInputSizes | None = None
    num_sharing: int = 0
    sharing_is_wide: bool = False
    limit: float = 0.0

    norm_offset: ClassVar[float] = 0.0
    norms_values: ClassVar[bool] = True
    has_layer_factors: ClassVar[bool] = True

    @property
    def score_scale(self) -> float:
        return 1.0

    def attention(self, *, is_global: bool) -> AttentionSizes:
        if not is_global:
            return AttentionSizes(self.num_attention_heads, self.num_key_value_heads, self.head_dim)
        return AttentionSizes(
            self.num_attention_heads,
            self.num_global_key_value_heads,
            self.global_head_dim,
            self.global_keys_are_values,
        )

    @property
    def layer_inputs(self) -> LayerInputSizes | None:
        return self.input_sizes

    @property
    def first_sharing(self) -> int:
        return self.num_layers - self.num_sharing

    @property
    def score_limit(self) -> float:
        return self.limit

    def feed_forward(self, layer: int) -> int:
        is_wide = self.sharing_is_wide and layer >= self.first_sharing
        return self.intermediate_size * (2 if is_wide else 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma4Config:
        """The sizes in a Hugging Face ``config.json`` (whole, or its ``text_config`` alone).

        Raises:
            CheckpointError: for another model type, a missing key, or a value this model does not implement.

        Source: transformers 5.23 models/gemma4_unified/configuration_gemma4_unified.py.
        """
        text = config.get("text_config", config)
        model_type = text.get("model_type", config.get("model_type"))
        if model_type not in _MODEL_TYPES:
            raise CheckpointError(
                f"The text encoder must be a Gemma 4 model, got model_type {model_type!r}; use the one of LTX-2.5."
            )
        for key, allowed in _REQUIRED_VALUES.items():
            if key in text and text[key] not in allowed:
                raise CheckpointError(
                    f"Gemma 4 config: {key} must be {allowed[0]!r}, got {text[key]!r}; use the text encoder of LTX-2.5."
                )
        values = _DEFAULTS | {key: value for key, value in text.items() if value is not None}
        heads = size(values, "num_attention_heads", _MODEL)
        kv_heads = size(values, "num_key_value_heads", _MODEL)
        keys_are_values = bool(values["attention_k_eq_v"])
        # Only layers whose keys are their values have heads of their own number.
        global_kv_heads = kv_heads
        if keys_are_values and "num_global_key_value_heads" in values:
            global_kv_heads = size(values, "num_global_key_value_heads", _MODEL)
        require_groups(heads, kv_heads, _MODEL)
        require_groups(heads, global_kv_heads, _MODEL)
        layers = (*layer_types(values, _MODEL)[:-1], True)  # the last one always is global
        sharing = size(values, "num_kv_shared_layers", _MODEL) if values.get("num_kv_shared_layers") else 0
        own = len(layers) - sharing
        if own <= 0 or not set(layers[own:]) <= set(layers[:own]):
            raise CheckpointError(
                f"{_MODEL} config: num_kv_shared_layers is {sharing} of {len(layers)} layers: no earlier layer of the "
                "same type has keys for them."
            )
        rope = _rope_settings(values)
        return cls(
            hidden_size=size(values, "hidden_size", _MODEL),
            intermediate_size=size(values, "intermediate_size", _MODEL),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=size(values, "head_dim", _MODEL, even=True),
            vocab_size=size(values, "vocab_size", _MODEL),
            global_layers=layers,
            sliding_window=size(values, "sliding_window", _MODEL),
            rms_norm_eps=positive_number(values, "rms_norm_eps", _MODEL),
            global_rope=rope["full_attention"],
            local_rope=rope["sliding_attention"],
            global_head_dim=size(values, "global_head_dim", _MODEL, even=True),
            num_global_key_value_heads=global_kv_heads,
            global_keys_are_values=keys_are_values,
            input_sizes=_layer_inputs(values),
            num_sharing=sharing,
            sharing_is_wide=bool(values.get("use_double_wide_mlp")),
            limit=positive_number(values, _LIMIT, _MODEL) if values.get(_LIMIT) is not None else 0.0,
        )


def _layer_inputs(values: Mapping[str, Any]) -> LayerInputSizes | None:
    if not values.get("hidden_size_per_layer_input"):
        return None
    stated = {"vocab_size_per_layer_input": values["vocab_size"], **values}
    return LayerInputSizes(
        size(stated, "vocab_size_per_layer_input", _MODEL), size(stated, "hidden_size_per_layer_input", _MODEL)
    )


def _rope_settings(values: Mapping[str, Any]) -> dict[str, RopeFrequencies]:
    """The frequencies of each layer type, from ``rope_parameters``."""
    stated = values.get("rope_parameters", _DEFAULT_ROPE)
    found = {}
    for layer_type, default in _DEFAULT_ROPE.items():
        settings = stated.get(layer_type, default) if isinstance(stated, Mapping) else None
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"Gemma 4 config: rope_parameters must describe {layer_type}, got {stated!r}.")
        kind = settings.get("rope_type", "default")
        if kind not in ("default", "proportional"):
            raise CheckpointError(f"Gemma 4 config: rope_type must be 'default' or 'proportional', got {kind!r}.")
        partial = kind == "proportional"
        settings = {"rope_theta": default["rope_theta"], "factor": 1.0, "partial_rotary_factor": 1.0, **settings}
        rotated = positive_number(settings, "partial_rotary_factor", _MODEL) if partial else 1.0
        if rotated > 1.0:
            raise CheckpointError(f"Gemma 4 config: partial_rotary_factor must be at most 1, got {rotated}.")
        found[layer_type] = RopeFrequencies(
            theta=positive_number(settings, "rope_theta", _MODEL),
            factor=positive_number(settings, "factor", _MODEL) if partial else 1.0,
            rotated=rotated,
        )
    return found

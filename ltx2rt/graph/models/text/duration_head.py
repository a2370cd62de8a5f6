"""The duration head of LTX-2.5: how long the clip of a prompt should be, from the contexts of both streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.kernels import quantized_linear, rope_attention
from ltx2rt.types import LinearWeight, ParamSpec

_HEADS = 4


@dataclass(frozen=True)
class DurationHeadConfig:
    """Sizes of the head.

    Attributes:
        video_width, audio_width: channels of the contexts.
        pooled: channels of the attention.
        hidden: channels between the two last layers.
    """

    video_width: int
    audio_width: int
    pooled: int
    hidden: int

    @classmethod
    def of(cls, section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], origin: str) -> DurationHeadConfig:
        """The sizes that the tensors have.

        Args:
            section: ``duration_head`` of the configuration, perhaps empty; nothing else than sizes is expected there.
            shapes: of the tensors of the file.
            origin: names the file in errors.

        Raises:
            CheckpointError: a tensor that tells a size is missing, or the configuration states other sizes.
        """

        def shape(name: str) -> tuple[int, int]:
            found = shapes.get(name, ())
            if len(found) != 2:
                raise CheckpointError(f"{origin}: {name} of the duration head must be a matrix, it is {list(found)}.")
            return found[0], found[1]

        pooled, video = shape("video_input_proj.weight")
        _, audio = shape("audio_input_proj.weight")
        hidden, _ = shape("mlp_hidden.weight")
        for key, value in (("pooler_hidden_dim", pooled), ("mlp_hidden", hidden)):
            if section.get(key, value) != value:
                raise CheckpointError(
                    f"{origin}: the configuration of the duration head states {key} {section[key]!r}, "
                    f"but its tensors have {value}; the file is damaged."
                )
        if pooled % _HEADS:
            raise CheckpointError(f"{origin}: {pooled} channels of the duration head are no multiple of {_HEADS}.")
        return cls(video, audio, pooled, hidden)


def param_specs(config: DurationHeadConfig) -> list[ParamSpec]:
    """All tensors of the head."""
    wide = config.pooled
    matrices = {
        "video_input_proj": (wide, config.video_width),
        "audio_input_proj": (wide, config.audio_width),
        "attention_pooler.cross_attn.out_proj": (wide, wide),
        "mlp_hidden": (config.hidden, wide),
        "mlp_out": (1, config.hidden),
    }
    return [
        *(ParamSpec(f"{name}.weight", shape, layout="linear") for name, shape in matrices.items()),
        *(ParamSpec(f"{name}.bias", shape[:1]) for name, shape in matrices.items()),
        ParamSpec("attention_pooler.cross_attn.in_proj_weight", (3 * wide, wide)),
        ParamSpec("attention_pooler.cross_attn.in_proj_bias", (3 * wide,)),
        ParamSpec("attention_pooler.query_tokens", (1, wide)),
        ParamSpec("video_modality_emb", (wide,)),
        ParamSpec("audio_modality_emb", (wide,)),
    ]


class DurationHead:
    """Predicts seconds.

    Args:
        config: sizes.
        params: arrays named as in `param_specs`.
    """

    def __init__(self, config: DurationHeadConfig, params: Params) -> None:
        self.config = config
        self._params = params

    def __call__(self, video: mx.array, audio: mx.array | None = None) -> mx.array:
        """Seconds (1,) float32 of one prompt, neither clamped nor rounded.

        Args:
            video, audio: contexts (1, n, C) as the transformer reads them; audio may be left out.

        Source: Lightricks/LTX-2 ltx_core/duration_head @ v1.2.0.
        """
        params = self._params
        tokens = [self._tokens("video", video)]
        if audio is not None:
            tokens.append(self._tokens("audio", audio))
        pooled = self._pooled(mx.concatenate(tokens, axis=1), params.at("attention_pooler"))
        hidden = linear(pooled, params.at("mlp_hidden"), activation="gelu_tanh")
        return mx.exp(linear(hidden, params.at("mlp_out"))[:, 0, 0])

    def _tokens(self, stream: str, context: mx.array) -> mx.array:
        projected = linear(context.astype(mx.float32), self._params.at(f"{stream}_input_proj"))
        return projected + self._params[f"{stream}_modality_emb"].astype(mx.float32)

    def _pooled(self, tokens: mx.array, params: Params) -> mx.array:
        """The learned query's answer (1, 1, P)."""
        attention = params.at("cross_attn")
        weights = mx.split(attention["in_proj_weight"], 3)
        biases = mx.split(attention["in_proj_bias"], 3)
        query = params["query_tokens"].astype(mx.float32)[None]
        q, k, v = (
            quantized_linear(x, LinearWeight("dense", weight), bias)
            for x, weight, bias in zip((query, tokens, tokens), weights, biases, strict=True)
        )
        return linear(rope_attention(q, k, v, num_heads=_HEADS), attention.at("out_proj"))

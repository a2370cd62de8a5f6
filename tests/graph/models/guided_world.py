"""A small transformer of each generation with streams and guidance passes, for tests of what may not change a bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import (
    Modality,
    ModelPass,
    Perturbation,
    Transformer,
    TransformerConfig,
    param_specs,
)
from ltx2rt.types import LinearWeight

LAYERS, PERTURBED = 4, 2
SMALL: dict[str, Any] = {
    "num_layers": LAYERS,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "caption_channels": 48,
    "rope_type": "split",
}
GATED = {"apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True}
GENERATIONS = {
    "19b": SMALL,
    "2.3": SMALL | GATED,
    "2.5": SMALL | GATED | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True},
}
SKIPPED = (Perturbation("skip_video_self_attn", frozenset([PERTURBED])),)
SKIPPED_BOTH = (*SKIPPED, Perturbation("skip_audio_self_attn", frozenset([PERTURBED, PERTURBED + 1])))
ISOLATED = (Perturbation("skip_a2v_cross_attn"), Perturbation("skip_v2a_cross_attn"))
AUDIO_TOKENS = 5
# Tokens in two parts, and the limit that cuts them so.
CUT_TOKENS, LIMIT = 200, 192


def weights_of(config: TransformerConfig) -> dict[str, mx.array | LinearWeight]:
    rng = np.random.default_rng(4)
    arrays: dict[str, mx.array | LinearWeight] = {}
    for spec in param_specs(config):
        value = mx.array((0.1 * rng.standard_normal(spec.shape)).astype(np.float32))
        arrays[spec.name] = LinearWeight("dense", value) if spec.layout == "linear" else value
    return arrays


def stream(tokens: int, axes: int, batch: int, width: int, seed: int) -> Modality:
    rng = np.random.default_rng(seed)
    return Modality(
        latent=mx.array(rng.standard_normal((batch, tokens, 128)).astype(np.float32)),
        sigma=np.linspace(0.7, 0.5, batch).astype(np.float32),
        timesteps=rng.choice([0.0, 0.7], (batch, tokens)).astype(np.float32),
        positions=np.sort(rng.uniform(0, 50, (batch, axes, tokens, 2)), axis=-1),
        context=context(batch, 12, width, seed),
    )


def context(batch: int, rows: int, width: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal((batch, rows, width)).astype(np.float32))


class World:
    """A small model of a generation, its streams, and the passes cond, uncond, perturbed and isolated."""

    def __init__(self, generation: str, batch: int = 1, negative_rows: int = 12, tokens: int = 24) -> None:
        self.config = TransformerConfig.from_dict(GENERATIONS[generation])
        self.arrays = weights_of(self.config)
        widths = [self.config.caption_channels or s.context_dim for s in (self.config.video, self.config.audio)]
        self.video = stream(tokens, 3, batch, widths[0], 1)
        self.audio = stream(AUDIO_TOKENS, 1, batch, widths[1], 2)
        negative = [context(batch, negative_rows, width, 7) for width in widths]
        positive = self.video.context, self.audio.context
        self.passes = [
            ModelPass(*positive),
            ModelPass(*negative),
            ModelPass(*positive, SKIPPED_BOTH),
            ModelPass(*positive, ISOLATED),
        ]

    def model(self, dtype: mx.Dtype = mx.bfloat16, **options: Any) -> Transformer:
        return Transformer(self.config, Params(self.arrays), dtype, **options)

    def apart(
        self, model: Transformer, video: Modality | None, audio: Modality | None, passes: Sequence[ModelPass]
    ) -> list[Any]:
        """A call per pass."""
        found = []
        for own in passes:
            of_video, of_audio = (
                None if modality is None or read is None else replace(modality, context=read)
                for modality, read in ((video, own.video_context), (audio, own.audio_context))
            )
            samples = self.video.latent.shape[0]
            found.append(model(of_video, of_audio, [own.perturbations] * samples))
        return found


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if other is None:
                assert one is None
            else:
                assert mx.array_equal(one, other)
                assert mx.isfinite(one.astype(mx.float32)).all()

"""Tokens in parts: how they are cut, and that the transformer's bits do not depend on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.modality import Modality, Perturbation
from ltx2rt.graph.models.transformer.model import Transformer, TransformerConfig, param_specs
from ltx2rt.graph.models.transformer.token_parts import token_parts
from ltx2rt.types import LinearWeight

SMALL: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "caption_channels": 48,
    "rope_type": "split",
}


@pytest.mark.parametrize(
    ("tokens", "limit", "lengths"),
    [
        (500, None, [500]),
        (500, 500, [500]),
        (500, 499, [384, 116]),
        (500, 10, [192, 192, 116]),
        (24576, 8192, [6144] * 4),
        (0, 5, [0]),
    ],
)
def test_parts(tokens: int, limit: int | None, lengths: list[int]) -> None:
    parts = token_parts(tokens, limit)
    assert [part.stop - part.start for part in parts] == lengths
    assert [part.start for part in parts] == [sum(lengths[:i]) for i in range(len(lengths))]


def modality(rng: np.random.Generator, tokens: int, axes: int, mask: bool) -> Modality:
    positions = np.sort(rng.uniform(0, 50, (2, axes, tokens, 2)), axis=-1)
    return Modality(
        latent=mx.array(rng.standard_normal((2, tokens, 128)).astype(np.float32)),
        sigma=np.full(2, 0.7, np.float32),
        timesteps=rng.choice([0.0, 0.7], (2, tokens)).astype(np.float32),
        positions=positions,
        context=mx.array(rng.standard_normal((2, 12, 48)).astype(np.float32)),
        attention_mask=rng.uniform(0, 1, (2, tokens, tokens)).astype(np.float32) if mask else None,
    )


@pytest.mark.parametrize(
    ("dtype", "text_modulation"),
    [
        pytest.param(mx.float32, False, marks=pytest.mark.slow),
        (mx.bfloat16, True),
        pytest.param(mx.float32, True, marks=pytest.mark.slow),
        pytest.param(mx.bfloat16, False, marks=pytest.mark.slow),
    ],
)
def test_parts_do_not_change_the_bits(dtype: mx.Dtype, text_modulation: bool) -> None:
    section = SMALL | {"cross_attention_adaln": text_modulation, "apply_gated_attention": text_modulation}
    config = TransformerConfig.from_dict(section)
    rng = np.random.default_rng(4)
    arrays: dict[str, mx.array | LinearWeight] = {}
    for spec in param_specs(config):
        value = mx.array((0.1 * rng.standard_normal(spec.shape)).astype(np.float32))
        arrays[spec.name] = LinearWeight("dense", value) if spec.layout == "linear" else value
    video, audio = modality(rng, 450, 3, mask=True), modality(rng, 390, 1, mask=False)
    skips = [[Perturbation("skip_video_self_attn", frozenset([0])), Perturbation("skip_a2v_cross_attn")], []]
    for perturbations in (None, skips):
        whole = Transformer(config, Params(arrays), dtype)(video, audio, perturbations)
        parts = Transformer(config, Params(arrays), dtype, token_limit=200)(video, audio, perturbations)
        for one, other in zip(whole, parts, strict=True):
            assert mx.array_equal(one, other)
            assert mx.isfinite(one.astype(mx.float32)).all()
    alone = Transformer(config, Params(arrays), dtype)(replace(video, attention_mask=None), None)[0]
    cut = Transformer(config, Params(arrays), dtype, token_limit=1)(replace(video, attention_mask=None), None)[0]
    assert mx.array_equal(alone, cut)


def test_parts_need_less_memory() -> None:
    config = TransformerConfig.from_dict(SMALL | {"num_layers": 1})
    arrays: dict[str, mx.array | LinearWeight] = {}
    for spec in param_specs(config):
        value = mx.zeros(spec.shape, dtype=mx.bfloat16)
        arrays[spec.name] = LinearWeight("dense", value) if spec.layout == "linear" else value
    tokens = 6000
    video = Modality(
        latent=mx.zeros((1, tokens, 128)),
        sigma=np.ones(1, np.float32),
        timesteps=np.ones((1, tokens), np.float32),
        positions=np.zeros((1, 3, tokens, 2), np.float32),
        context=mx.zeros((1, 12, 48)),
    )
    peaks = []
    for limit in (None, 768):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(Transformer(config, Params(arrays), token_limit=limit)(video, None)[0])
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.7 * peaks[0]

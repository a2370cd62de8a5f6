"""Passes of a guided step: what they share is computed once, and no bit depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import (
    Modality,
    ModelPass,
    Perturbation,
    Transformer,
    TransformerConfig,
    param_specs,
)
from ltx2rt.graph.models.transformer.shared_passes import in_batches, shared_passes
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


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_no_bit_depends_on_what_passes_share(generation: str, dtype: mx.Dtype) -> None:
    world = World(generation)
    model = world.model(dtype)
    expected = world.apart(model, world.video, world.audio, world.passes)
    perturbed, conditional = expected[2][0], expected[0][0]
    assert not mx.array_equal(perturbed, conditional)
    for size in (1, 2, 4):
        assert_same(model.guided(world.video, world.audio, world.passes, size), expected)


@pytest.mark.parametrize("case", ["mask", "parts", "no kept text keys", "samples", "other length", "frozen", "alone"])
@pytest.mark.parametrize("size", [1, 3])
def test_no_bit_depends_on_it_elsewhere(case: str, size: int) -> None:
    samples = 2 if case == "samples" else 1
    tokens = CUT_TOKENS if case == "parts" else 24
    world = World("19b", samples, negative_rows=9 if case == "other length" else 12, tokens=tokens)
    video, audio = world.video, world.audio
    model = world.model(token_limit=LIMIT if case == "parts" else None, keep_text_keys=case != "no kept text keys")
    if case in ("mask", "parts", "samples"):
        mask = np.random.default_rng(3).uniform(0, 1, (samples, tokens, tokens)).astype(np.float32)
        video = replace(video, attention_mask=mask)
    if case == "frozen":
        audio = replace(audio, enabled=False)
    passes = world.passes
    if case == "alone":
        passes = [replace(own, audio_context=None) for own in passes[:3]]
    of_audio = None if case == "alone" else audio
    expected = world.apart(model, video, of_audio, passes)
    assert_same(model.guided(video, of_audio, passes, size), expected)


def test_blocks_are_computed_once_as_long_as_passes_are_the_same_and_asked_for_once() -> None:
    world = World("2.3")
    asked = []

    def blocks(index: int) -> Params:
        asked.append(index)
        return Params(world.arrays).at(f"transformer_blocks.{index}")

    model = world.model(blocks=blocks)
    model.guided(world.video, world.audio, world.passes)
    assert asked == list(range(LAYERS))
    assert model.block_evaluations == 4 * LAYERS - PERTURBED
    model.guided(world.video, world.audio, world.passes, 4)
    assert model.block_evaluations == 2 * (4 * LAYERS - PERTURBED)


def test_a_prompt_that_several_passes_read_is_expanded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltx2rt.graph.models.transformer import block

    world, computed = World("2.3"), []
    linear = block.linear

    def counting(x: mx.array, params: Params, **options: Any) -> mx.array:
        if params._prefix.endswith("attn2.to_k."):
            computed.append(params._prefix)
        return linear(x, params, **options)

    monkeypatch.setattr(block, "linear", counting)
    world.model().guided(world.video, world.audio, world.passes)
    assert len(computed) == 2 * 2 * LAYERS  # two prompts, two streams


@pytest.mark.parametrize(
    ("kinds", "counts"),
    [
        ([()], [1, 1, 1, 1]),
        ([(), ()], [1, 1, 1, 1]),
        ([(), SKIPPED], [1, 1, 2, 2]),
        ([(), SKIPPED, ISOLATED], [2, 2, 3, 3]),
        ([(), SKIPPED, SKIPPED_BOTH], [1, 1, 3, 3]),
    ],
)
def test_who_shares_which_block(kinds: list[tuple[Perturbation, ...]], counts: list[int]) -> None:
    shared = shared_passes([0] * len(kinds), kinds, LAYERS)
    assert [len(states) for states in shared] == counts
    for states in shared:
        assert sorted(number for passes in states for number in passes) == list(range(len(kinds)))
        assert [passes[0] for passes in states] == sorted(passes[0] for passes in states)


def test_published_counts() -> None:
    """Four passes of 48 blocks, the 28th perturbed; and of 12 blocks, the 7th."""
    passes = [(), (), (Perturbation("skip_video_self_attn", frozenset([28])),), ISOLATED]
    assert sum(len(states) for states in shared_passes([0, 1, 0, 0], passes, 48)) == 4 * 48 - 28
    passes[2] = (Perturbation("skip_video_self_attn", frozenset([7])),)
    assert sum(len(states) for states in shared_passes([0, 1, 0, 0], passes, 12)) == 41


def test_batches_are_neighbours_of_one_kind() -> None:
    states = ((0, 2), (1,), (3,), (4,))
    assert in_batches(states, 1, [0] * 5) == (((0, 2),), ((1,),), ((3,),), ((4,),))
    assert in_batches(states, 3, [0] * 5) == (((0, 2), (1,), (3,)), ((4,),))
    assert in_batches(states, 3, [0, 9, 0, 0, 0]) == (((0, 2),), ((1,),), ((3,), (4,)))


def test_a_pass_without_a_context_is_refused() -> None:
    world = World("19b")
    with pytest.raises(UsageError, match="no context for a stream that is present"):
        world.model().guided(world.video, world.audio, [ModelPass(world.video.context, None)])
    with pytest.raises(UsageError, match=r"video.context has shape \(1, 12, 5\)"):
        world.model().guided(
            world.video, world.audio, [world.passes[0], ModelPass(mx.zeros((1, 12, 5)), mx.zeros((1, 12, 48)))]
        )

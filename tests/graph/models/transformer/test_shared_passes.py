"""Passes of a guided step: what they share is computed once, and no bit depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from guided_world import (
    CUT_TOKENS,
    GENERATIONS,
    ISOLATED,
    LAYERS,
    LIMIT,
    PERTURBED,
    SKIPPED,
    SKIPPED_BOTH,
    World,
    assert_same,
)

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import ModelPass, Perturbation
from ltx2rt.graph.models.transformer.shared_passes import in_batches, shared_passes


@pytest.mark.parametrize(
    ("generation", "dtype"),
    [
        pytest.param(generation, dtype, marks=() if place == index else pytest.mark.slow)
        for index, generation in enumerate(GENERATIONS)
        for place, dtype in enumerate((mx.float32, mx.bfloat16, mx.float16))
    ],
)
def test_no_bit_depends_on_what_passes_share(generation: str, dtype: mx.Dtype) -> None:
    world = World(generation)
    model = world.model(dtype)
    expected = world.apart(model, world.video, world.audio, world.passes)
    perturbed, conditional = expected[2][0], expected[0][0]
    assert not mx.array_equal(perturbed, conditional)
    for size in (1, 2, 4):
        assert_same(model.guided(world.video, world.audio, world.passes, size), expected)


@pytest.mark.parametrize("case", ["mask", "parts", "no kept text keys", "samples", "other length", "frozen", "alone"])
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 3])
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

"""Tokens on several machines, which threads stand for: every bit is that of one machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from guided_world import GENERATIONS, ISOLATED, LIMIT, SKIPPED, SKIPPED_BOTH, World, assert_same
from thread_machines import on_machines

from ltx2rt.graph.diffusion.attention_masks import AttentionLinks
from ltx2rt.graph.models.transformer.token_share import TokenShare
from ltx2rt.kernels.host import to_numpy
from ltx2rt.team.team import Team

PASSES_TOGETHER = 2


class Alone:
    """An exchange of which only the numbers are asked."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("tokens", "size"), [(24, 2), (27, 2), (25, 3), (9, 8), (3, 8)])
def test_every_token_has_one_machine_and_the_last_one_fills_up(tokens: int, size: int) -> None:
    rows = [TokenShare.of(tokens, Alone(rank, size)).rows for rank in range(size)]  # type: ignore[arg-type]
    assert len({len(own) for own in rows}) == 1
    whole = np.concatenate(rows)
    assert whole[:tokens].tolist() == list(range(tokens))
    assert (whole[tokens:] == tokens - 1).all()


def alone_and_shared(world: World, size: int, dtype: mx.Dtype, video: Any, audio: Any, **options: Any) -> None:
    """The guided passes of one machine and of several."""
    passes = world.passes if audio is not None else [replace(own, audio_context=None) for own in world.passes[:3]]
    expected = world.model(dtype, **options).guided(video, audio, passes, PASSES_TOGETHER)
    mx.eval(expected)

    def work(team: Team) -> Any:
        found = world.model(dtype, exchange=team, **options).guided(video, audio, passes, PASSES_TOGETHER)
        mx.eval(found)
        return found

    for found in on_machines(size, work):
        assert_same(found, expected)


# Each generation and each number of machines; together they prove what all pairs do.
QUICK = {("19b", 8), ("2.3", 2), ("2.5", 3)}
PAIRS = [
    pytest.param(generation, size, marks=() if (generation, size) in QUICK else pytest.mark.slow)
    for generation in GENERATIONS
    for size in (2, 3, 8)
]


@pytest.mark.parametrize(("generation", "size"), PAIRS)
def test_guided_passes_have_the_bits_of_one_machine(generation: str, size: int) -> None:
    dtype = {2: mx.bfloat16, 3: mx.float32, 8: mx.float16}[size]
    world = World(generation, tokens=27)
    marks = (np.arange(27) < 4)[None].astype(np.float32)
    alone_and_shared(world, size, dtype, replace(world.video, keyframes_mask=marks), world.audio)


CASES = ["mask", "links", "one row", "parts", "samples", "silent", "frozen video", "frozen audio", "few"]


@pytest.mark.parametrize(("case", "size"), [(case, 2 + number % 2) for number, case in enumerate(CASES)])
def test_masks_and_streams_that_are_absent_or_frozen(case: str, size: int) -> None:
    tokens = {"parts": 2 * LIMIT + 7, "few": 2}.get(case, 27)
    samples = 2 if case == "samples" else 1
    world = World("19b", samples, tokens=tokens)
    rng = np.random.default_rng(3)
    video, audio = world.video, world.audio
    if case in ("mask", "parts", "samples"):
        mask = rng.uniform(0, 1, (samples, tokens, tokens)).astype(np.float32)
        video = replace(video, attention_mask=mask)
    if case == "one row":
        video = replace(video, attention_mask=rng.uniform(0, 1, (1, 1, tokens)).astype(np.float32))
    if case == "links":
        groups = np.repeat([0, 1, 2], 9).astype(np.int32)
        links = AttentionLinks(groups, groups == 0, rng.uniform(0, 1, (1, tokens)).astype(np.float32))
        video = replace(video, attention_mask=links)
    if case == "frozen video":
        video = replace(video, enabled=False)
    if case == "frozen audio":
        audio = replace(audio, enabled=False)
    options = {"token_limit": LIMIT} if case == "parts" else {}
    alone_and_shared(world, size, mx.bfloat16, video, None if case == "silent" else audio, **options)


def test_samples_that_leave_out_different_things() -> None:
    world = World("2.3", batch=2, tokens=11)
    left_out = [[*SKIPPED_BOTH], [*ISOLATED]]
    expected = world.model()(world.video, world.audio, left_out)
    mx.eval(expected)

    def work(team: Team) -> Any:
        found = world.model(exchange=team)(world.video, world.audio, left_out)
        mx.eval(found)
        return found

    for found in on_machines(2, work):
        assert_same([found], [expected])


def test_what_is_never_read_is_not_gathered() -> None:
    """In blocks whose self-attention is left out values take its place, and each machine has its own."""
    world = World("19b", tokens=16)
    call = [[*SKIPPED, *ISOLATED]]

    def work(team: Team) -> dict[str, int]:
        mx.eval(world.model(exchange=team)(world.video, world.audio, call))
        return dict(team.traffic.calls)

    kept_blocks = world.config.num_layers - 1
    assert on_machines(2, work) == [{"keys and values": 2 * kept_blocks, "estimates": 1}] * 2


def test_a_machine_that_goes_on_alone_has_all_tokens() -> None:
    world = World("19b", tokens=27)
    mask = np.random.default_rng(3).uniform(0, 1, (1, 27, 27)).astype(np.float32)
    video = replace(world.video, attention_mask=mask)
    expected = world.model().guided(video, world.audio, world.passes)
    mx.eval(expected)

    def work(team: Team) -> Any:
        model = world.model(exchange=team)
        mx.eval(model.guided(video, world.audio, world.passes))
        model.exchange = None
        found = model.guided(video, world.audio, world.passes)
        mx.eval(found)
        return found

    for found in on_machines(2, work):
        assert_same(found, expected)


def test_the_parts_of_a_stream_are_its_tokens() -> None:
    world = World("19b", tokens=27)
    parts = [TokenShare.of(27, Alone(rank, 2)).part(world.video) for rank in range(2)]  # type: ignore[arg-type]
    whole = np.concatenate([to_numpy(part.latent) for part in parts], axis=1)[:, :27]
    assert np.array_equal(whole, to_numpy(world.video.latent))
    assert [part.positions.shape for part in parts] == [world.video.positions.shape] * 2

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
from ltx2rt.graph.models.transformer.token_share import TokenShare, adds_up, received_tokens, token_counts
from ltx2rt.kernels.host import to_numpy
from ltx2rt.team.circle import Circle, circle_of
from ltx2rt.team.team import Team

PASSES_TOGETHER = 2


class Alone:
    """An exchange of which only the numbers are asked."""

    def __init__(self, rank: int, shares: tuple[float, ...]) -> None:
        self.rank, self.shares = rank, shares


@pytest.mark.parametrize(
    ("tokens", "shares", "counts"),
    [
        (24, (1, 1), (12, 12)),
        (27, (1, 1), (14, 13)),
        (25, (1, 1, 1), (9, 9, 7)),
        (9, (1,) * 8, (2, 1, 1, 1, 1, 1, 1, 1)),
        (3, (0.5,) * 8, (1, 1, 1, 0, 0, 0, 0, 0)),
        (27, (2, 1), (18, 9)),
        (27, (1, 2.5), (8, 19)),
        (28, (0.3, 0.1, 0.2), (14, 5, 9)),
        (10, (1000, 1, 1), (8, 1, 1)),
        (10, (1e-308, 1e308, 5e307), (1, 6, 3)),
        (2, (1, 100, 1), (0, 2, 0)),
    ],
)
def test_tokens_are_cut_in_proportion_and_every_one_has_one_machine(
    tokens: int, shares: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    assert token_counts(tokens, shares) == counts
    of_machines = [TokenShare.of(tokens, Alone(rank, shares)) for rank in range(len(shares))]  # type: ignore[arg-type]  # never asked
    own = [share.rows[:count] for share, count in zip(of_machines, counts, strict=True)]
    assert np.concatenate(own).tolist() == list(range(tokens))
    # One without a token works on another's, too.
    assert [len(share.rows) for share in of_machines] == [max(1, count) for count in counts]


def test_counts_of_any_shares_are_in_proportion() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        size, tokens = int(rng.integers(1, 9)), int(rng.integers(1, 5000))
        shares = rng.uniform(0.05, 1, size)
        counts = token_counts(tokens, shares.tolist())
        assert sum(counts) == tokens
        if tokens >= size:
            assert min(counts) >= 1
        if tokens > 100 * size:
            assert np.abs(np.array(counts) - tokens * shares / shares.sum()).max() < 1


@pytest.mark.parametrize("counts", [(14, 13), (18, 9), (9, 9, 7), (16, 1, 1), (16, 8, 8), (8, 1, 1, 1, 1, 1, 1, 1)])
def test_the_way_that_sends_fewer_bytes_is_taken(counts: tuple[int, ...]) -> None:
    machines = len(counts)
    gathered, added = (machines - 1) * max(counts), 2 * (machines - 1) * sum(counts) / machines
    assert received_tokens(counts) == min(gathered, added)
    assert adds_up(counts) == (added < gathered)


def alone_and_shared(
    world: World, shares: tuple[float, ...], dtype: mx.Dtype, video: Any, audio: Any, **options: Any
) -> None:
    """The guided passes of one machine and of several."""
    passes = world.passes if audio is not None else [replace(own, audio_context=None) for own in world.passes[:3]]
    expected = world.model(dtype, **options).guided(video, audio, passes, PASSES_TOGETHER)
    mx.eval(expected)

    def work(team: Team) -> Any:
        exchange = Circle(team, shares)
        found = world.model(dtype, exchange=exchange, **options).guided(video, audio, passes, PASSES_TOGETHER)
        mx.eval(found)
        return found

    for found in on_machines(len(shares), work):
        assert_same(found, expected)


# Machines of equal speed and of others: pieces that are in their places, that are put there, and that are added up.
SHARES: dict[str, tuple[float, ...]] = {
    "2 alike": (1, 1),
    "3 alike": (1, 1, 1),
    "8 alike": (1,) * 8,
    "2 to 1": (2, 1),
    "3 of any speed": (1, 0.5, 1.3),
    "4, one of them fast": (1, 7, 1, 1),
    "8 of any speed": (3, 1, 2, 1, 1, 2, 1, 1),
}
DTYPES = [mx.bfloat16, mx.float32, mx.float16]
# Each generation, each kind of shares and each dtype; together they prove what all triples do.
QUICK = {("19b", "8 alike"), ("2.3", "2 alike"), ("2.5", "3 of any speed"), ("19b", "4, one of them fast")}
PAIRS = [
    pytest.param(
        generation,
        name,
        DTYPES[(first + second) % len(DTYPES)],
        marks=() if (generation, name) in QUICK else pytest.mark.slow,
    )
    for first, generation in enumerate(GENERATIONS)
    for second, name in enumerate(SHARES)
]


@pytest.mark.parametrize(("generation", "name", "dtype"), PAIRS)
def test_guided_passes_have_the_bits_of_one_machine(generation: str, name: str, dtype: mx.Dtype) -> None:
    world = World(generation, tokens=27)
    marks = (np.arange(27) < 4)[None].astype(np.float32)
    alone_and_shared(world, SHARES[name], dtype, replace(world.video, keyframes_mask=marks), world.audio)


GROUPS = ((0, 2, 3), (1, 4))


@pytest.mark.parametrize(
    "generation", [pytest.param(name, marks=() if name == "2.3" else pytest.mark.slow) for name in GENERATIONS]
)
def test_groups_of_machines_have_the_bits_of_one(generation: str) -> None:
    """Each group has two of four passes, and cuts the tokens by the speeds of its own machines."""
    world = World(generation, tokens=27)
    expected = world.model().guided(world.video, world.audio, world.passes, PASSES_TOGETHER)
    mx.eval(expected)

    def work(team: Team) -> Any:
        number = next(number for number, members in enumerate(GROUPS) if team.rank in members)
        model = world.model(exchange=circle_of(team, GROUPS, (2.0, 1.0, 3.0, 0.5, 1.0)))
        found = model.guided(world.video, world.audio, world.passes[2 * number : 2 * number + 2], PASSES_TOGETHER)
        mx.eval(found)
        return number, found

    for number, found in on_machines(5, work):
        assert_same(found, expected[2 * number : 2 * number + 2])


CASES = ["mask", "links", "one row", "parts", "samples", "silent", "frozen video", "frozen audio", "few"]


@pytest.mark.parametrize(
    ("case", "shares"),
    [
        pytest.param(
            case,
            [(1, 1), (1, 5, 2), (2, 3)][number % 3],
            marks=pytest.mark.slow if case in ("one row", "samples", "few") else (),
        )
        for number, case in enumerate(CASES)
    ],
)
def test_masks_and_streams_that_are_absent_or_frozen(case: str, shares: tuple[float, ...]) -> None:
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
    alone_and_shared(world, shares, mx.bfloat16, video, None if case == "silent" else audio, **options)


def test_samples_that_leave_out_different_things() -> None:
    world = World("2.3", batch=2, tokens=11)
    left_out = [[*SKIPPED_BOTH], [*ISOLATED]]
    expected = world.model()(world.video, world.audio, left_out)
    mx.eval(expected)

    def work(team: Team) -> Any:
        found = world.model(exchange=Circle(team, (1, 3)))(world.video, world.audio, left_out)
        mx.eval(found)
        return found

    for found in on_machines(2, work):
        assert_same([found], [expected])


def test_what_is_never_read_is_not_gathered() -> None:
    """In blocks whose self-attention is left out values take its place, and each machine has its own."""
    world = World("19b", tokens=16)
    call = [[*SKIPPED, *ISOLATED]]

    def work(team: Team) -> dict[str, int]:
        mx.eval(world.model(exchange=Circle(team, (1, 1)))(world.video, world.audio, call))
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
        model = world.model(exchange=Circle(team, (2, 1)))
        mx.eval(model.guided(video, world.audio, world.passes))
        model.exchange = None
        found = model.guided(video, world.audio, world.passes)
        mx.eval(found)
        return found

    for found in on_machines(2, work):
        assert_same(found, expected)


def test_the_parts_of_a_stream_are_its_tokens() -> None:
    world = World("19b", tokens=27)
    parts = [TokenShare.of(27, Alone(rank, (2, 1))).part(world.video) for rank in range(2)]  # type: ignore[arg-type]  # never asked
    whole = np.concatenate([to_numpy(part.latent) for part in parts], axis=1)
    assert np.array_equal(whole, to_numpy(world.video.latent))
    assert [part.positions.shape for part in parts] == [world.video.positions.shape] * 2

"""Some of a stream's tokens on each of several machines, which gather the keys and values of all.

What is computed for a token does not depend on the other tokens of the call (`token_parts` relies on the same), every
query reads all keys in their order, and nothing is summed across machines: the bits are those of one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.transformer.modality import AttentionRows, Modality
from ltx2rt.kernels import RopeTable
from ltx2rt.types import Array


class TokenExchange(Protocol):
    """How machines that share the tokens of a call have values of each other. All take part in the same exchanges, in
    the same order."""

    @property
    def rank(self) -> int:
        """Number of this machine."""

    @property
    def shares(self) -> Sequence[float]:
        """How much of the tokens each machine takes, beside the others."""

    def start(self, x: mx.array, kind: str) -> Any:
        """Begin to gather ``x`` of every machine, as soon as it is computed, and wait for nothing; all give the same
        shape."""

    def start_sum(self, x: mx.array, kind: str) -> Any:
        """The same for the bytes of ``x`` added up, of which all but one machine give zeros."""

    def finish(self, started: Any) -> mx.array:
        """What was begun, evaluated: no command of a GPU waits for the net. Gathered (N, *shape of x), or the sum in
        the shape of x."""


def token_counts(tokens: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many of some tokens each machine works on.

    They are cut in proportion to the shares. Every machine has at least one, if there are as many; with equal shares
    only the last machine has fewer than the others, so that what comes of all is in its place at once.

    Args:
        tokens: T.
        shares: positive and finite, one for each machine.
    """
    machines = len(shares)
    longest = -(-tokens // machines)
    last = tokens - longest * (machines - 1)
    if len(set(shares)) == 1 and last > 0:
        return (*(longest,) * (machines - 1), last)
    relative = [share / max(shares) for share in shares]  # whose sum is finite
    exact = [tokens * part / sum(relative) for part in relative]
    counts = [int(part) for part in exact]
    by_rest = sorted(range(machines), key=lambda rank: counts[rank] - exact[rank])
    for rank in by_rest[: tokens - sum(counts)]:
        counts[rank] += 1
    for rank in range(machines if tokens >= machines else 0):
        if not counts[rank]:
            counts[counts.index(max(counts))] -= 1
            counts[rank] = 1
    return tuple(counts)


def adds_up(counts: Sequence[int]) -> bool:
    """Whether values of all tokens come with fewer bytes as a sum, to which each machine gives its own among zeros,
    than gathered in pieces as long as the longest: where one machine has more than twice as many as the average."""
    return len(counts) * max(counts) > 2 * sum(counts)


def received_tokens(counts: Sequence[int]) -> float:
    """How many tokens a machine receives as it gathers a value of all of them, what fills up pieces included."""
    machines = len(counts)
    return (machines - 1) * (2 * sum(counts) / machines if adds_up(counts) else max(counts))


def gathering_tokens(counts: Sequence[int], samples: int) -> int:
    """How many tokens of a sample a machine has room for while it gathers a value of all of them: what it gives and
    what it gets, and the same where it is put together."""
    if adds_up(counts):
        return 2 * sum(counts)
    together = 0 if _in_place(counts) and samples == 1 else sum(counts)
    return max(counts) + len(counts) * max(counts) + together


def _in_place(counts: Sequence[int]) -> bool:
    """Whether pieces as long as the longest have all tokens in their places."""
    return len(set(counts[:-1])) <= 1 and counts[-1] <= counts[0]


@dataclass(frozen=True)
class TokenShare:
    """The tokens of a stream that this machine works on.

    Attributes:
        rows: (t,) their places, neighbours.
        counts: how many each machine has.
        exchange: with the others.
    """

    rows: Array
    counts: tuple[int, ...]
    exchange: TokenExchange

    @classmethod
    def of(cls, tokens: int, exchange: TokenExchange) -> TokenShare:
        """The machine's share of neighbouring tokens; where there is none for it, it works on another's, too."""
        counts = token_counts(tokens, exchange.shares)
        first = min(sum(counts[: exchange.rank]), tokens - 1)
        rows = np.arange(first, first + max(1, counts[exchange.rank]))
        return cls(rows.astype(np.int32), counts, exchange)

    @property
    def tokens(self) -> int:
        """How many there are on all machines, T."""
        return sum(self.counts)

    @property
    def key(self) -> tuple[int, tuple[int, ...]]:
        """Shares with the same tokens have the same."""
        return self.exchange.rank, self.counts

    def part(self, modality: Modality) -> Modality:
        """What is read of a stream for these tokens alone. Positions stay whole: keys need those of all."""
        mask = modality.attention_mask
        return replace(
            modality,
            latent=modality.latent[:, mx.array(self.rows)],
            keyframes_mask=None if modality.keyframes_mask is None else modality.keyframes_mask[:, self.rows],
            attention_mask=mask if mask is None or mask.shape[1] == 1 else self._queries(mask),
        )

    def _queries(self, mask: Array | AttentionRows) -> Array | AttentionRows:
        """The links of these tokens as queries to all."""
        if isinstance(mask, np.ndarray):
            return mask[:, self.rows]
        return _SomeRows(mask, self)

    def index(self, index: mx.array) -> mx.array:
        """(B, t) of an index (B, T)."""
        return index[:, mx.array(self.rows)]

    def rope(self, table: RopeTable) -> RopeTable:
        """The rotary table of these tokens."""
        return table._replace(index=table.index[..., mx.array(self.rows), :])

    def start(self, x: mx.array, kind: str = "keys and values") -> Any:
        """Begin to gather ``x`` (B, t, D) of all tokens."""
        if adds_up(self.counts):
            own = self.counts[self.exchange.rank]
            before = sum(self.counts[: self.exchange.rank])
            return self.exchange.start_sum(_padded(x[:, :own], before, self.tokens - before - own), kind)
        return self.exchange.start(_padded(x, 0, max(self.counts) - x.shape[1]), kind)

    def whole(self, started: Any) -> mx.array:
        """(B, T, D) of all tokens, from what `start` gave."""
        found = self.exchange.finish(started)
        if adds_up(self.counts):
            return found
        if not _in_place(self.counts):
            return mx.concatenate([piece[:, :count] for piece, count in zip(found, self.counts, strict=True)], axis=1)
        machines, batch, tokens, width = found.shape
        whole = found if batch == 1 else mx.moveaxis(found, 0, 1)
        return whole.reshape(batch, machines * tokens, width)[:, : self.tokens]


@dataclass(frozen=True)
class _SomeRows:
    """The rows of attention links that the queries of a share are, as `AttentionRows`."""

    links: AttentionRows
    share: TokenShare

    @property
    def shape(self) -> tuple[int, ...]:
        batch, _, columns = self.links.shape
        return batch, len(self.share.rows), columns

    @property
    def key(self) -> Any:
        return self.links.key, self.share.key

    def rows(self, part: slice) -> Array:
        places = self.share.rows[part]  # neighbours
        return self.links.rows(slice(int(places[0]), int(places[-1]) + 1))


def _padded(x: mx.array, before: int, after: int) -> mx.array:
    """(B, before + t + after, D) with zeros around (B, t, D)."""
    return mx.pad(x, [(0, 0), (before, after), (0, 0)]) if before or after else x

"""Some of a stream's tokens on each of several machines, which gather the keys and values of all.

What is computed for a token does not depend on the other tokens of the call (`token_parts` relies on the same), every
query reads all keys in their order, and nothing is summed across machines: the bits are those of one machine.
"""

from __future__ import annotations

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
    def size(self) -> int:
        """How many machines there are."""

    def start(self, x: mx.array, kind: str) -> Any:
        """Begin to gather ``x`` of every machine, as soon as it is computed, and wait for nothing; all give the same
        shape."""

    def finish(self, started: Any) -> mx.array:
        """What `start` began, (N, *shape of x), evaluated: no command of a GPU waits for the net."""


def own_tokens(tokens: int, size: int) -> int:
    """How many tokens each machine works on; the last ones repeat the last token where there are fewer."""
    return -(-tokens // size)


@dataclass(frozen=True)
class TokenShare:
    """The tokens of a stream that this machine works on.

    Attributes:
        rows: (t,) their places.
        tokens: how many there are on all machines, T.
        exchange: with the others.
    """

    rows: Array
    tokens: int
    exchange: TokenExchange

    @classmethod
    def of(cls, tokens: int, exchange: TokenExchange) -> TokenShare:
        """An equal share of neighbouring tokens."""
        count = own_tokens(tokens, exchange.size)
        rows = np.minimum(np.arange(count) + exchange.rank * count, tokens - 1)
        return cls(rows.astype(np.int32), tokens, exchange)

    @property
    def key(self) -> tuple[int, int, int]:
        """Shares with the same tokens have the same."""
        return self.exchange.rank, self.exchange.size, self.tokens

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
        return self.exchange.start(x, kind)

    def whole(self, started: Any) -> mx.array:
        """(B, T, D) of all tokens, from what `start` gave."""
        parts = self.exchange.finish(started)
        machines, batch, tokens, width = parts.shape
        whole = parts if batch == 1 else mx.moveaxis(parts, 0, 1)
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
        places = self.share.rows[part]
        first, last = int(places[0]), int(places[-1])
        # Neighbours, the last of which may be there several times.
        return self.links.rows(slice(first, last + 1))[:, places - first]

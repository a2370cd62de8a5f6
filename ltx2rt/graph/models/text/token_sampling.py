"""Chooses the next token of a text model from its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.types import Array

# Of the host for every score while a token is chosen: the score as given, as float64 and negated, its place in the
# order, the sort's room, and the score, weight and cumulative weight in order.
SAMPLING_BYTES = 4 + 7 * 8


@dataclass(frozen=True)
class SamplingOptions:
    """How freely tokens are chosen.

    Attributes:
        temperature: scores are divided by it; 0 always takes the best token.
        top_k: only the k best tokens can be chosen; 0 = all.
        top_p: of these, only the best ones that together have at least this probability; 1 = all.
        seed: of the choices.
        max_new_tokens: where a text ends at the latest.
        no_repeat: no run of so many tokens comes twice; 0: any may.
    """

    temperature: float = 0.7
    top_k: int = 64
    top_p: float = 0.95
    seed: int = 42
    max_new_tokens: int = 512
    no_repeat: int = 0

    def changed(self, values: Mapping[str, Any]) -> SamplingOptions:
        """With other values of some fields, by name.

        Raises:
            UsageError: a name that does not exist, or a value outside its range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(self)})
        if unknown:
            known = ", ".join(field.name for field in fields(self))
            raise UsageError(f"the prompt enhancement has no {unknown[0]!r}; its options are {known}.")
        options = replace(self, **values)
        options.check()
        return options

    def check(self) -> None:
        """Raise UsageError for values outside their ranges."""
        for name, value, low, high in (
            ("temperature", self.temperature, 0.0, 10.0),
            ("top_k", self.top_k, 0, 1_000_000),
            ("top_p", self.top_p, 0.0, 1.0),
            ("max_new_tokens", self.max_new_tokens, 1, 8192),
            ("no_repeat", self.no_repeat, 0, 100),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} of the prompt enhancement must be {low:g} to {high:g}, got {value}.")


class TokenSampler:
    """Draws tokens; the same options and scores give the same tokens.

    Args:
        options: see `SamplingOptions`.
        read: token ids before the first one that is chosen.
    """

    def __init__(self, options: SamplingOptions, read: Iterable[int] = ()) -> None:
        self._options = options
        self._tokens = [int(token) for token in read]
        # What has followed each run of one token less than must not come twice.
        self._followed: dict[tuple[int, ...] | None, list[int]] = {}
        for end in range(len(self._tokens)):
            self._remember(end)
        self._uniform = np.random.RandomState(options.seed & 0xFFFFFFFF)

    def choose(self, logits: Array) -> int:
        """The next token id.

        Args:
            logits: (vocab,) float scores.

        Raises:
            ValueError: scores that are not numbers.
        """
        scores = logits.astype(np.float64)
        if np.isnan(scores).any():
            raise ValueError("The text model gave scores that are not numbers; its weights may be damaged.")
        scores[self._followed.get(self._run_before(len(self._tokens)), [])] = -np.inf
        token = self._drawn(scores)
        self._tokens.append(token)
        self._remember(len(self._tokens) - 1)
        return token

    def _run_before(self, place: int) -> tuple[int, ...] | None:
        """The tokens before a place that make a run with the one there; None: too few of them."""
        first = place - self._options.no_repeat + 1
        return tuple(self._tokens[first:place]) if self._options.no_repeat and first >= 0 else None

    def _remember(self, place: int) -> None:
        run = self._run_before(place)
        if run is not None:
            self._followed.setdefault(run, []).append(self._tokens[place])

    def _drawn(self, scores: Array) -> int:
        if self._options.temperature == 0:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")
        if self._options.top_k:
            order = order[: self._options.top_k]
        scaled = scores[order] / self._options.temperature
        weights = np.exp(scaled - scaled[0])
        cumulative = np.cumsum(weights / weights.sum())
        if self._options.top_p < 1:
            kept = int(np.searchsorted(cumulative, self._options.top_p)) + 1
            cumulative = cumulative[:kept]
        threshold = self._uniform.random_sample() * cumulative[-1]
        chosen = int(np.searchsorted(cumulative, threshold, side="right"))
        return int(order[min(chosen, cumulative.size - 1)])

"""Chooses the next token of a text model from its scores."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    temperature: float = 0.7
    top_k: int = 64
    top_p: float = 0.95
    seed: int = 42
    max_new_tokens: int = 512

    def check(self) -> None:
        """Raise UsageError for values outside their ranges."""
        for name, value, low, high in (
            ("temperature", self.temperature, 0.0, 10.0),
            ("top_k", self.top_k, 0, 1_000_000),
            ("top_p", self.top_p, 0.0, 1.0),
            ("max_new_tokens", self.max_new_tokens, 1, 8192),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} of the prompt enhancement must be {low:g} to {high:g}, got {value}.")


class TokenSampler:
    """Draws tokens; the same options and scores give the same tokens.

    Args:
        options: see `SamplingOptions`.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._uniform = np.random.RandomState(options.seed & 0xFFFFFFFF)

    def choose(self, logits: Array) -> int:
        """A token id.

        Args:
            logits: (vocab,) float scores.

        Raises:
            ValueError: scores that are not numbers.
        """
        scores = logits.astype(np.float64)
        if np.isnan(scores).any():
            raise ValueError("The text model gave scores that are not numbers; its weights may be damaged.")
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

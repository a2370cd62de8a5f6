"""The weights of a run that stay in memory after their stages, planned or real."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ltx2rt.memory.need import Need
from ltx2rt.weights.checkpoint import Loaded
from ltx2rt.weights.kept_weights import KeptWeights, StageWeights, WeightKey


class Keeping:
    """What stages of one run find in a store of kept weights, and what they leave there.

    The store is not held: it ends with the pipeline that owns it, and stages that begin after that keep nothing.

    Args:
        store: where weights stay.
        only: what of the store this run will find, with its bytes; None: all that is there.

    Attributes:
        used: bytes of every tensor that the stages so far have asked for.
    """

    def __init__(self, store: KeptWeights, only: Mapping[WeightKey, int] | None = None) -> None:
        self.used: dict[WeightKey, int] = {}
        self._store = weakref.ref(store)
        self._known = {**store.wanted, **(only or {})}
        self._there = {key: size for key, size in store.sizes.items() if only is None or key in only}

    def options(self, options: Iterable[Need], weights: Iterable[StageWeights]) -> Iterator[Need]:
        """The ways of running the next stage that leave its weights in memory, with what is kept beside them."""
        own: dict[WeightKey, int] = {}
        for part in weights:
            own |= part.sizes(self._known)
        present = sum(size for key, size in own.items() if key in self._there)
        kept = sum(self._there.values()) - present
        self._there |= own
        self.used |= own
        self._known |= own
        return (replace(option, present=present, kept=kept, keeps=True) for option in options if option.can_be_kept)

    def load(self, weights: StageWeights) -> tuple[dict[str, Loaded], int]:
        """Arrays of a set, and how many bytes of them were read."""
        store = self._store()
        if store is not None:
            return store.load(weights)
        arrays = weights.load()
        return arrays, sum(array.nbytes for array in arrays.values())

    def now(self, need: Need) -> Need:
        """The need of a stage that begins, where the weights in memory are not those that were planned.

        Other calls of the pipeline may have come between: the frames of a clip are decoded when they are read.
        """
        store = self._store()
        there = 0 if store is None else store.nbytes
        kept = min(need.kept, there)
        return replace(need, kept=kept, present=min(need.weights, there - kept), keeps=store is not None)

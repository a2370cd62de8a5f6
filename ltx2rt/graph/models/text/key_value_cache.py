"""Keys and values that a text model keeps of the tokens it has read."""

from __future__ import annotations

import mlx.core as mx


class KeyValueCache:
    """Keys and values of one layer, as the projections gave them: norm and rotation belong to the attention.

    The room for all of them is taken with the first ones, so that no later token moves or copies them.

    Args:
        capacity: how many tokens there will be at most.
        window: a query sees at most so many keys, itself included. None: all.

    Attributes:
        end: how many tokens have been read.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        self._capacity = capacity
        self._window = window
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self.end = 0

    def extend(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array, int]:
        """Add the next tokens.

        Args:
            keys, values: (1, t, Nkv*K) of tokens ``end`` to ``end + t - 1``.

        Returns:
            What the new tokens may see, (1, n, Nkv*K) each, ending with the new tokens, and the position of the first.

        Raises:
            ValueError: more tokens than there is room for.
        """
        new = keys.shape[1]
        if self.end + new > self._capacity:
            raise ValueError(f"The cache has room for {self._capacity} tokens, got {self.end + new}.")
        if self._keys is None or self._values is None:
            self._keys, self._values = (mx.zeros((1, self._capacity, x.shape[2]), x.dtype) for x in (keys, values))
        places = slice(self.end, self.end + new)
        self._keys[:, places], self._values[:, places] = keys, values
        self.end += new
        first = 0 if self._window is None else max(0, self.end - (self._window + new - 1))
        return self._keys[:, first : self.end], self._values[:, first : self.end], first

    def arrays(self) -> list[mx.array]:
        """What is stored, for evaluation."""
        return [] if self._keys is None or self._values is None else [self._keys, self._values]

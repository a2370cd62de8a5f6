"""Keys and values that a text model keeps of the tokens it has read."""

from __future__ import annotations

import mlx.core as mx


class KeyValueCache:
    """Keys and values of one layer, as the projections gave them: norm and rotation belong to the attention.

    Args:
        window: a query sees at most so many keys, itself included; older ones are dropped. None keeps all.

    Attributes:
        end: how many tokens have been read.
    """

    def __init__(self, window: int | None = None) -> None:
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
        """
        new = keys.shape[1]
        if self._keys is not None and self._values is not None:
            keys = mx.concatenate([self._keys, keys], axis=1)
            values = mx.concatenate([self._values, values], axis=1)
        self.end += new
        if self._window is not None:
            keys, values = keys[:, -(self._window + new - 1) :], values[:, -(self._window + new - 1) :]
        self._keys, self._values = keys, values
        return keys, values, self.end - keys.shape[1]

    def arrays(self) -> list[mx.array]:
        """What is stored, for evaluation."""
        return [] if self._keys is None or self._values is None else [self._keys, self._values]

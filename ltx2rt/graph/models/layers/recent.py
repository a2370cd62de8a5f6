"""Keeps the last few values derived from inputs that do not change between the steps of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")


def content_key(array: np.ndarray[Any, np.dtype[Any]]) -> Hashable:
    """A key that equal arrays share (shape, dtype and a digest of the bytes)."""
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()


class Recent(Generic[Value]):
    """The ``limit`` most recently used values by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, build: Callable[[], Value]) -> Value:
        """The value of ``key``, built now if it is not among those kept; the oldest of them makes room before."""
        if key in self._values:
            value = self._values.pop(key)
        else:
            while len(self._values) >= self._limit:
                del self._values[next(iter(self._values))]
            value = build()
        self._values[key] = value  # last in the dict = most recently used
        return value

"""What an encoder has to say: the tensors that a weight becomes, and their bytes, some rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array


class Entry(NamedTuple):
    """A tensor to write. ``dtype`` as the container calls it; ``shape`` logical; ``nbytes`` in the file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Piece(NamedTuple):
    """Some rows of a weight, encoded.

    Attributes:
        items: suffix of the tensor -> the items, or bytes, that follow those written before.
        energy: sum of the squares of the values.
        lost: sum of the squares of what the encoding changed.
    """

    items: Mapping[str, Array | bytes]
    energy: float = 0.0
    lost: float = 0.0


# Starts reading a weight: float32 rows, in order.
Reader = Callable[[], Iterator[Array]]


class Encoder(ABC):
    """One format that matrices are written in.

    Attributes:
        name: for people.
    """

    name: str

    @abstractmethod
    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix of this shape can be written so."""

    @abstractmethod
    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        """Suffix -> the tensors that a matrix of ``shape`` becomes; ``.weight`` is one of them."""

    @abstractmethod
    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        """Everything to write, in order.

        Args:
            read: the values; may be called again to read them once more.
            shape: of the matrix.
            where: names it in errors.

        Raises:
            CheckpointError: a value is no finite number.
        """


def energy(values: Array) -> float:
    """The sum of the squares of float32 values."""
    flat = values.reshape(-1)
    return float(np.dot(flat, flat))


def largest(values: Array, where: str, axis: int | None = None) -> Array:
    """The largest magnitude, of all values or along ``axis``, which stays.

    Raises:
        CheckpointError: a value is no finite number; ``where`` names the tensor.
    """
    most, least = (extreme(values, axis=axis, keepdims=axis is not None) for extreme in (np.max, np.min))
    result: Array = np.maximum(most, -least) + np.float32(0)  # no negative zero
    if not np.isfinite(result).all():
        raise CheckpointError(
            f"{where}: holds values that are not finite numbers; the file is damaged, download it again "
            "(`ltx2rt inspect --deep` looks at every tensor)."
        )
    return result

"""A message as bytes: a JSON head, and numpy arrays behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ltx2rt.types import Array

_LENGTH = 8  # bytes that say how long the head is


def packed(head: Any, arrays: Sequence[Array | None] = ()) -> Array:
    """(n,) uint8 of a message.

    Args:
        head: a JSON value.
        arrays: of dtypes that numpy has; None where there is none.
    """
    forms = [None if array is None else [array.dtype.str, array.shape] for array in arrays]
    text = json.dumps([head, forms], separators=(",", ":")).encode()
    parts = [len(text).to_bytes(_LENGTH, "little"), text]
    parts += [array.tobytes() for array in arrays if array is not None]
    return as_array(b"".join(parts))


def as_array(data: bytes) -> Array:
    """(n,) uint8 of some bytes; it may not be changed."""
    array: Array = np.ndarray((len(data),), np.uint8, data)
    return array


def unpacked(message: Array) -> tuple[Any, list[Array | None]]:
    """Head and arrays of a message; the arrays may not be changed."""
    data = message.tobytes()
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    head, forms = json.loads(data[_LENGTH:end])
    arrays: list[Array | None] = []
    for form in forms:
        if form is None:
            arrays.append(None)
            continue
        dtype, shape = form
        array: Array = np.ndarray(shape, dtype, data, end)
        arrays.append(array)
        end += array.nbytes
    return head, arrays

"""Arrays of Metal's float types as numpy holds them: bfloat16, which numpy lacks, as its 16 bits."""

from __future__ import annotations

import numpy as np

FLOAT_TYPES = ("float32", "float16", "bfloat16")


def storage_dtype(name: str) -> np.dtype:
    """The numpy dtype that stores elements of ``name``."""
    return np.dtype(np.uint16 if name == "bfloat16" else name)


def to_bits(values: np.ndarray, name: str) -> np.ndarray:
    """float32 values rounded to nearest even in ``float32``, ``float16`` or ``bfloat16``."""
    values = np.ascontiguousarray(values, np.float32)
    if name != "bfloat16":
        return values.astype(name)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 64
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def from_bits(stored: np.ndarray, name: str) -> np.ndarray:
    """The float32 values of an array made by `to_bits` or written by a kernel."""
    if name != "bfloat16":
        return stored.astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)

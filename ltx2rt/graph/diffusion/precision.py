"""Rounding of float32 arrays to the dtype in which a sampler keeps its state."""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

StateDtype = Literal["float32", "bfloat16", "float16"]
Float32Array = NDArray[np.float32]

_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def round_to(values: NDArray[Any], dtype: StateDtype) -> Float32Array:
    """The values rounded to ``dtype`` (nearest, ties to even), held in float32.

    Args:
        values: any real array; float64 is first rounded to float32, as torch does for bfloat16.
        dtype: ``float32`` (no further rounding), ``bfloat16`` or ``float16``.

    Returns:
        float32 array of the same shape. Infinities and NaN stay what they are; float16 overflows to infinity.

    Raises:
        ValueError: for another dtype name.
    """
    single = np.asarray(values, dtype=np.float32)
    if dtype == "float32":
        return single
    if dtype not in _DTYPES:
        raise ValueError(f"The state dtype must be float32, bfloat16 or float16, got {dtype!r}.")
    with np.errstate(over="ignore", invalid="ignore"):
        return single.astype(_DTYPES[dtype]).astype(np.float32)

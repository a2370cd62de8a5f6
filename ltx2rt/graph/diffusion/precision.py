"""Rounding of float32 arrays to the dtype in which a sampler keeps its state."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StateDtype = Literal["float32", "bfloat16", "float16"]
Float32Array = NDArray[np.float32]


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
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return single.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(single).view(np.uint32)
        # Half of the lowest kept bit, minus one when that bit is even: carries exactly when rounding goes up.
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        # Adding could turn a NaN's payload into infinity or wrap it around; keep NaN as it is.
        return np.where(np.isnan(single), single, rounded.view(np.float32)).reshape(single.shape)
    raise ValueError(f"The state dtype must be float32, bfloat16 or float16, got {dtype!r}.")

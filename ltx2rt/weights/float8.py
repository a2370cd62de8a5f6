"""Conversion of float32 values to 8-bit floats; `tensor_source.widen` is the way back."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from ltx2rt.types import Array

E4M3_MAX = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)  # type: ignore[no-untyped-call]  # ml_dtypes has no types here


def encode_e4m3(values: Array) -> Array:
    """uint8 E4M3 (fn) codes of float32 values, rounded to nearest even; beyond 448 saturates, NaN stays NaN."""
    # The conversion itself gives NaN beyond the largest value.
    bounded = np.clip(values.astype(np.float32, copy=False), -E4M3_MAX, E4M3_MAX)
    return bounded.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)

"""The one way from an `mx.array` to numpy."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import DTypeLike

from ltx2rt.types import Array


def to_numpy(x: mx.array) -> Array:
    """Evaluate, and copy to numpy.

    Evaluation comes first and by itself. Where numpy meets an array that is not evaluated (``np.array(x)``,
    ``np.stack([x])``, ``values + x``), MLX evaluates it while numpy asks for its buffer; numpy clears whatever error
    comes out of that, asks again, and gets memory that nobody wrote: a kernel that failed gives a picture of noise and
    no error. `tests/imports/test_numpy_conversion.py` keeps every other way out of the package.

    Args:
        x: of any shape and dtype.

    Returns:
        Values of the same shape and dtype, but float32 for bfloat16, which numpy does not have. The caller may change
        them.

    Raises:
        RuntimeError: a kernel that ``x`` depends on failed.
    """
    if x.dtype == mx.bfloat16:
        x = x.astype(mx.float32)
    mx.eval(x)
    return np.array(x)


def from_numbers(values: Any, dtype: DTypeLike | None = None) -> Array:
    """A numpy array of Python or numpy numbers, in nested lists and tuples if there are several.

    Args:
        values: numbers; no `mx.array` among them, which `to_numpy` is for.
        dtype: of the result; None: what numpy finds.

    Raises:
        TypeError: there is an `mx.array` among them.
    """
    _refuse_arrays(values)
    return np.array(values, dtype)


def _refuse_arrays(values: Any) -> None:
    if isinstance(values, mx.array):
        raise TypeError(f"numbers expected, got an mx.array of shape {values.shape}; to_numpy converts it.")
    if isinstance(values, (list, tuple)):
        for value in values:
            _refuse_arrays(value)


def writable_view(x: mx.array) -> Array:
    """Evaluate, and show the array's own memory to numpy, to fill or change it in place.

    Nothing else may use ``x`` or share its memory while it is written, and the view must not outlive it.

    Args:
        x: of a dtype that numpy has.

    Returns:
        The items of ``x``, not copied.

    Raises:
        RuntimeError: a kernel that ``x`` depends on failed.
    """
    mx.eval(x)
    return np.array(x, copy=False)

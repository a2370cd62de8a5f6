"""From MLX to numpy and back: every dtype, copies and views, and what is refused."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import _ext
from ltx2rt.kernels.host import from_numbers, to_numpy, writable_view

DTYPES = {
    mx.float32: np.float32,
    mx.float16: np.float16,
    mx.bfloat16: np.float32,
    mx.int32: np.int32,
    mx.uint8: np.uint8,
    mx.bool_: np.bool_,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_dtypes(dtype: mx.Dtype) -> None:
    x = (mx.arange(6).reshape(2, 3) % 2).astype(dtype)
    values = to_numpy(x.transpose(1, 0))
    assert values.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(values, [[0, 1], [1, 0], [0, 1]])


def test_the_result_is_a_copy() -> None:
    x = mx.ones((2, 2))
    values = to_numpy(x)
    values[:] = 5
    assert to_numpy(x).max() == 1


def test_shapes_without_items_or_axes() -> None:
    assert to_numpy(mx.zeros((0, 3), mx.bfloat16)).shape == (0, 3)
    assert to_numpy(mx.array(2.5)) == np.float32(2.5)


def test_a_view_writes_into_the_array() -> None:
    x = mx.zeros((2, 3), mx.uint16)
    writable_view(x)[1, 2] = 7
    assert to_numpy(x).tolist() == [[0, 0, 0], [0, 0, 7]]


def test_a_view_of_what_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="failing_kernel"):
        writable_view(_ext.failing_kernel(mx.ones(3), late=True))


def test_numbers_become_an_array_and_arrays_of_mlx_do_not() -> None:
    assert from_numbers([[1, 2], (3, np.int64(4))], np.int32).tolist() == [[1, 2], [3, 4]]
    assert from_numbers(np.arange(2)).tolist() == [0, 1]
    assert from_numbers(True).dtype == np.bool_
    for wrong in (mx.ones(3), [mx.array(1.0)], [[1.0], [mx.array(1.0)]]):
        with pytest.raises(TypeError, match="to_numpy converts it"):
            from_numbers(wrong)

"""Rounding to the state dtypes: exact values, ties, specials, rejection."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.graph.diffusion.precision import round_to


def test_bfloat16_keeps_eight_bits_and_breaks_ties_to_even() -> None:
    values = np.array([1.0, 1023.0, 0.1, -0.1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 0.0, -0.0], np.float32)
    expected = np.array([1.0, 1024.0, 0.10009765625, -0.10009765625, 1.0, 1 + 2**-6, 1 + 2**-7, 0.0, -0.0], np.float32)
    np.testing.assert_array_equal(round_to(values, "bfloat16"), expected)
    assert np.signbit(round_to(values, "bfloat16")[-1])


def test_bfloat16_keeps_infinities_and_nan_and_overflows_upwards() -> None:
    largest = np.finfo(np.float32).max
    rounded = round_to(np.array([np.inf, -np.inf, np.nan, largest], np.float32), "bfloat16")
    np.testing.assert_array_equal(rounded, np.array([np.inf, -np.inf, np.nan, np.inf], np.float32))


def test_float16_and_float32() -> None:
    values = np.array([1 + 2**-11, 65519.0, 65520.0, 1e-8])
    np.testing.assert_array_equal(round_to(values, "float16"), np.array([1, 65504, np.inf, 0], np.float32))
    np.testing.assert_array_equal(round_to(values, "float32"), values.astype(np.float32))


def test_scalars_and_non_contiguous_arrays_keep_their_shape() -> None:
    assert round_to(np.float32(0.1), "bfloat16").shape == ()
    grid = np.arange(12, dtype=np.float32).reshape(3, 4).T / 7
    np.testing.assert_array_equal(round_to(grid, "bfloat16"), round_to(grid.copy(), "bfloat16"))


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="float32, bfloat16 or float16, got 'int8'"):
        round_to(np.zeros(1), "int8")  # type: ignore[arg-type]


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_that_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'ltx2rt[parity]' to compare with PyTorch")
    bits = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(round_to(values, dtype), expected)  # type: ignore[arg-type]

"""The shader modulated_norm: clean and accurate for every option, aligned, ragged, strided and offset."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from shaders_under_test import DTYPES, Launched, Operand, as_mlx, assert_accurate, given, launched, rounded

from ltx2rt.kernels import modulated_norm

KINDS = ["rms", "layer", "none"]
EPS = 1e-6


def norm(
    x: np.ndarray,
    dtype: str,
    scale: Operand | None = None,
    shift: Operand | None = None,
    index: np.ndarray | None = None,
    *,
    kind: str = "rms",
    row_stride: int = 0,
    offset: int = 0,
    width: int = 0,
    **options: Any,
) -> Launched:
    rows, columns = x.shape
    a = mx.as_strided(as_mlx(x.reshape(-1), dtype), (rows, width or columns), (row_stride or columns, 1), offset)
    row_of = None if index is None else mx.array(index.astype(np.int32))
    return launched(
        lambda: modulated_norm(a, scale=given(scale), shift=given(shift), index=row_of, norm=kind, eps=EPS),
        **options,
    )


def formula(x: np.ndarray, scale: Any, shift: Any, index: Any, kind: str, dtype: str | None = None) -> np.ndarray:
    """The definition in float64, or as plain code that rounds every array to ``dtype``."""

    def step(values: np.ndarray) -> np.ndarray:
        return values if dtype is None else rounded(values, dtype)

    y = x
    if kind == "layer":
        y = step(y - step(y.mean(-1, keepdims=True)))
    if kind != "none":
        y = step(y * step(1 / np.sqrt((y * y).mean(-1, keepdims=True) + EPS)))
    rows = 0 if index is None else index
    if scale is not None:
        y = step(y * step(1 + scale.exact[rows]))
    if shift is not None:
        y = step(y + shift.exact[rows])
    return y


def check(width: int, dtype: str, kind: str, side: str | None, rows: int = 3, **options: Any) -> None:
    x = Operand((rows, width), dtype, 0, 2.0, 0.5)
    scale, shift = (None, None) if side is None else (Operand((2, width), side, s, 0.3) for s in (1, 2))
    index = None if side is None else np.array([1, 0, 1])[:rows]
    result = norm(x.bits, dtype, scale, shift, index, kind=kind, **options)
    exact = formula(x.exact, scale, shift, index, kind)
    assert_accurate(result, dtype, exact, formula(x.exact, scale, shift, index, kind, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [64, 50, 515, 1024])
def test_widths_and_kinds(width: int, kind: str, dtype: str) -> None:
    check(width, dtype, kind, dtype)


@pytest.mark.parametrize("side", DTYPES)
@pytest.mark.parametrize("width", [96, 33])
def test_scale_and_shift_of_any_type(width: int, side: str) -> None:
    check(width, "bfloat16", "rms", side)


@pytest.mark.parametrize("width", [512, 4096])
def test_without_modulation(width: int) -> None:
    check(width, "float32", "rms", None, seed=5)


def test_only_shift_and_one_row() -> None:
    x, shift = Operand((2, 64), "float16", 0), Operand((1, 64), "float32", 1)
    result = norm(x.bits, "float16", None, shift)
    exact = formula(x.exact, None, shift, None, "rms")
    assert_accurate(result, "float16", exact, formula(x.exact, None, shift, None, "rms", "float16"))


@pytest.mark.parametrize(("stride", "offset"), [(80, 0), (80, 4), (77, 0), (64, 3)])
def test_strided_and_offset_rows(stride: int, offset: int) -> None:
    x = Operand((3, 80), "bfloat16", 0)
    flat = x.bits.reshape(-1)
    result = norm(flat.reshape(3, 80), "bfloat16", row_stride=stride, offset=offset, width=64)
    rows = np.stack([x.exact.reshape(-1)[offset + r * stride :][:64] for r in range(3)])
    assert_accurate(
        result,
        "bfloat16",
        formula(rows, None, None, None, "rms"),
        formula(rows, None, None, None, "rms", "bfloat16"),
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    check(1500, "bfloat16", "layer", "float32", seed=seed)


def test_a_row_of_many_is_as_it_is_alone() -> None:
    x = Operand((4, 300), "bfloat16", 0)
    many = norm(x.bits, "bfloat16").bits
    alone = norm(x.bits[2:3], "bfloat16").bits
    np.testing.assert_array_equal(many[2:3], alone)


def test_each_value_is_read_and_written_once() -> None:
    x = Operand((2, 4096), "bfloat16", 0)
    counters = norm(x.bits, "bfloat16").counters[-1]
    assert counters.device_load_bytes == counters.device_store_bytes == 2 * 4096 * 2
    assert counters.threadgroup_barriers == 2
    narrow = norm(x.bits[:, :512].copy(), "bfloat16").counters[-1]
    assert narrow.threadgroup_barriers == 0


def test_indices_that_count_from_the_end() -> None:
    x, scale = Operand((4, 64), "float32", 0), Operand((3, 64), "float32", 1)
    ends = norm(x.bits, "float32", scale, None, np.array([-1, -3, 2, 1])).bits
    np.testing.assert_array_equal(ends, norm(x.bits, "float32", scale, None, np.array([2, 0, 2, 1])).bits)


@pytest.mark.parametrize("stride", [80, 77])
def test_parts_of_the_grid_make_the_whole(stride: int) -> None:
    x, scale = Operand((7, 80), "bfloat16", 0), Operand((2, 64), "bfloat16", 1)
    rows = np.arange(7) % 2
    whole, parts = (
        norm(x.bits[:6], "bfloat16", scale, None, rows[:6], row_stride=stride, width=64, most_operations=most)
        for most in (0, 34 * 2 * 64 * 2 * 4)
    )
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert [d.grid for d in parts.dispatches] == [(4, 1, 1), (2, 1, 1)]

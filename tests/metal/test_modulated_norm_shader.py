"""The shader modulated_norm: clean and accurate for every option, aligned, ragged, strided and offset."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from launch_plans import norm_threads
from shaders_under_test import DTYPES, ELEMENT_TYPE, ITEMSIZE, Operand, assert_accurate, launch, rounded

from tools.metal_sim import In, Inline, Out, Result

KINDS = {"rms": 0, "layer": 1, "none": 2}
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
) -> Result:
    rows, columns = x.shape
    width = width or columns
    aligned = width % 4 == 0 and (row_stride or columns) % 4 == 0 and offset % 4 == 0
    parameters = struct.pack("<qif", row_stride or columns, width, EPS)
    return launch(
        "modulated_norm",
        f"modulated_norm_{dtype}",
        {
            0: In(x, offset=offset * ITEMSIZE[dtype]),
            1: None if scale is None else In(scale.bits),
            2: None if shift is None else In(shift.bits),
            3: None if index is None else In(index.astype(np.int32)),
            4: Out((rows, width), dtype),
            5: Inline(parameters),
        },
        (rows, 1, 1),
        (norm_threads(width), 1, 1),
        {
            "norm_kind": KINDS[kind],
            "scale_type": ELEMENT_TYPE[scale.dtype if scale else None],
            "shift_type": ELEMENT_TYPE[shift.dtype if shift else None],
            "has_index": index is not None,
            "aligned": aligned,
        },
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
    assert_accurate(result, 4, dtype, exact, formula(x.exact, scale, shift, index, kind, dtype))


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
    assert_accurate(result, 4, "float16", exact, formula(x.exact, None, shift, None, "rms", "float16"))


@pytest.mark.parametrize(("stride", "offset"), [(80, 0), (80, 4), (77, 0), (64, 3)])
def test_strided_and_offset_rows(stride: int, offset: int) -> None:
    x = Operand((3, 80), "bfloat16", 0)
    flat = x.bits.reshape(-1)
    result = norm(flat.reshape(3, 80), "bfloat16", row_stride=stride, offset=offset, width=64)
    rows = np.stack([x.exact.reshape(-1)[offset + r * stride :][:64] for r in range(3)])
    assert_accurate(
        result,
        4,
        "bfloat16",
        formula(rows, None, None, None, "rms"),
        formula(rows, None, None, None, "rms", "bfloat16"),
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    check(1500, "bfloat16", "layer", "float32", seed=seed)


def test_a_row_of_many_is_as_it_is_alone() -> None:
    x = Operand((4, 300), "bfloat16", 0)
    many = norm(x.bits, "bfloat16").check().outputs[4]
    alone = norm(x.bits[2:3], "bfloat16").check().outputs[4]
    np.testing.assert_array_equal(many[2:3], alone)


def test_each_value_is_read_and_written_once() -> None:
    x = Operand((2, 4096), "bfloat16", 0)
    counters = norm(x.bits, "bfloat16").check().counters
    assert counters.device_load_bytes == counters.device_store_bytes == 2 * 4096 * 2
    assert counters.threadgroup_barriers == 2
    narrow = norm(x.bits[:, :512].copy(), "bfloat16").check().counters
    assert narrow.threadgroup_barriers == 0

"""The shaders of quantized_linear for packed weights and rotated ones: clean, accurate, the same bits on every path."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import packed_weights
import pytest
from linear_cases import Case, packed_weight, product
from shaders_under_test import DTYPES, Operand, assert_accurate, launched

from ltx2rt.kernels import quantized_linear
from ltx2rt.types import LinearWeight

FORMATS = ["int8_rows", "e4m3_rows", "q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8", "w4a8"]
# Up to so many rows linear_few is used.
FEW = dict.fromkeys(FORMATS, 16) | {"nvfp4": 32}
# A depth that the shaders read in words, and one with a rest where a format allows it.
ALIGNED = dict.fromkeys(FORMATS, 96) | dict.fromkeys(["q4_k", "q5_k", "q6_k"], 512)
RAGGED = (
    ALIGNED
    | {"int8_rows": 45, "e4m3_rows": 45, "nvfp4": 48, "mxfp8": 32, "w4a8": 36, "q8_0": 32}
    | dict.fromkeys(["q4_k", "q5_k", "q6_k"], 256)
)


def group_size(format_: str, depth: int) -> int:
    return 4 if format_ == "w4a8" and depth % 16 else 16


def case(rows: int, columns: int, depth: int, dtype: str, format_: str, epilogue: bool = True, **options: Any) -> Case:
    x = Operand((rows, depth), dtype, 1)
    weight = packed_weight(format_, columns, depth, 2, options.pop("group_size", group_size(format_, depth)), **options)
    if not epilogue:
        return Case(x, weight)
    return Case(
        x,
        weight,
        bias=Operand((columns,), "float32", 3),
        activation="silu",
        residual=Operand((rows, columns), dtype, 4),
        gate=Operand((3, columns), "bfloat16", 5),
        gate_index=np.arange(rows) % 3,
    )


def check(c: Case, **options: Any) -> list[str]:
    """Accurate; gives the kernels."""
    done = product(c, **options)
    assert_accurate(done, c.x.dtype, c.formula(), c.formula(c.x.dtype))
    return done.kernels


@pytest.mark.parametrize("format_", FORMATS)
def test_the_number_of_rows_chooses_the_kernels(format_: str) -> None:
    most, depth = FEW[format_], RAGGED[format_]
    assert check(case(most, 8, depth, "float16", format_)) == ["linear_few_float16"]
    size = "32x64" if most < 32 else "64x64"
    assert check(case(most + 1, 8, depth, "float16", format_)) == [f"linear_tile_float16_codes_{size}"]
    assert check(case(513, 8, depth, "float16", format_)) == [
        "dequantise_float16",
        "linear_tile_float16_float16_128x64",
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
def test_few_rows(format_: str, dtype: str) -> None:
    # More than a simdgroup's step over the depth, with a rest; whole vectors of columns.
    deep = 768 if ALIGNED[format_] == 512 else 352
    check(case(4, 20, deep, dtype, format_))
    check(case(3, 18, RAGGED[format_], dtype, format_))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
def test_tiles(format_: str, dtype: str) -> None:
    check(case(40, 72, ALIGNED[format_], dtype, format_))
    check(case(35, 67, RAGGED[format_], dtype, format_))


@pytest.mark.parametrize("format_", FORMATS)
def test_every_size_of_tile(format_: str) -> None:
    if FEW[format_] < 21:
        check(case(21, 66, RAGGED[format_], "bfloat16", format_))
    check(case(70, 66, RAGGED[format_], "bfloat16", format_))


@pytest.mark.parametrize("format_", FORMATS)
def test_slabs_of_expanded_weights(format_: str) -> None:
    depth = RAGGED[format_]
    c = case(520, 130, depth, "bfloat16", format_)
    assert check(c, slab_bytes=64 * depth * 2) == ["dequantise_bfloat16", "linear_tile_bfloat16_bfloat16_128x64"] * 3


@pytest.mark.parametrize("format_", FORMATS)
def test_weights_expanded_before_and_in_the_tiles_give_the_same_bits(format_: str) -> None:
    many = case(520, 70, ALIGNED[format_], "bfloat16", format_, epilogue=False)
    few = case(520, 70, ALIGNED[format_], "bfloat16", format_, epilogue=False)
    few.x.bits, few.x.exact = few.x.bits[:70], few.x.exact[:70]
    np.testing.assert_array_equal(product(few).bits, product(many).bits[:70])


@pytest.mark.parametrize("spare", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("format_", FORMATS)
def test_bytes_that_begin_at_an_odd_place(format_: str, rows: int, spare: int) -> None:
    c = case(rows, 8, ALIGNED[format_], "bfloat16", format_, epilogue=False)
    whole = product(c).bits
    c.weight.spare_bytes = spare
    np.testing.assert_array_equal(product(c).bits, whole)


@pytest.mark.parametrize("size", [4, 8, 16, 48, 64])
@pytest.mark.parametrize("rows", [3, 20, 513])
def test_groups_of_w4a8(rows: int, size: int) -> None:
    check(case(rows, 10, 192, "bfloat16", "w4a8", group_size=size))


def test_one_row_of_weights() -> None:
    for format_ in ("int8_rows", "w4a8"):
        check(case(2, 1, 96, "float32", format_, epilogue=False))


def test_factors_of_rows_at_an_odd_place() -> None:
    c = case(5, 8, 96, "bfloat16", "int8_rows", epilogue=False)
    whole = product(c).bits
    assert c.weight.packed is not None
    scale = mx.concatenate([mx.zeros((1,)), c.weight.packed.scale])
    mx.eval(scale)
    c.weight.packed = c.weight.packed._replace(scale=scale[1:])
    np.testing.assert_array_equal(product(c).bits, whole)


def test_every_code_of_small_floats() -> None:
    """Exactly, by identity rows: all E2M1 codes with many scales, and E4M3 codes with scales of 2^-127 (0) to 2^100."""
    codes = np.arange(256, dtype=np.uint8)
    nvfp4 = np.stack([codes[i : i + 8] for i in range(0, 256, 8)])  # (32, 16 values)
    scale = np.delete(codes, [0x7F, 0xFF])[: 32 * 7 : 7].reshape(32, 1)
    exact = packed_weights.nvfp4(nvfp4, scale, 0.5)
    weight = LinearWeight("nvfp4", mx.array(nvfp4), mx.array(scale), mx.array(0.5))
    for rows in (16, 33):
        got = identity_product(weight, 16, rows)
        np.testing.assert_array_equal(got, exact.T)
    numbers = np.where(codes & 0x7F == 0x7F, 0, codes)
    mxfp8 = np.tile(numbers.reshape(8, 32), (4, 1))
    exponents = np.array([0, 1, 17, 100, 120, 127, 130, 227], np.uint8).repeat(4).reshape(32, 1)
    exact = packed_weights.mxfp8(mxfp8, exponents)
    weight = LinearWeight("mxfp8", mx.array(mxfp8), mx.array(exponents))
    for rows in (16, 32):
        got = identity_product(weight, 32, rows)
        np.testing.assert_array_equal(got, exact.T[: got.shape[0]].astype(np.float32))


def identity_product(weight: LinearWeight, depth: int, rows: int) -> np.ndarray:
    """W^T, or its first ``rows`` rows, in float32; more rows than that are zeros, so that tiles make it."""

    x = mx.array(np.eye(max(rows, depth), depth, dtype=np.float32)[:rows])
    return launched(lambda: quantized_linear(x, weight)).bits[:depth]


ROTATIONS = [4, 16, 64, 256]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", ROTATIONS)
def test_rotations(group: int, dtype: str) -> None:
    """Widths of part of a threadgroup, of some of one and of several, with few rows and many."""
    for rows, depth in ((3, group), (20, 3 * group), (2, max(group, 4608)), (6, 36 if group == 4 else 2 * group)):
        kernels = check(case(rows, 12, depth, dtype, "int8_rows", rotation=group))
        assert kernels[0] == f"rotate_rows_{dtype}"
        assert len(kernels) == 2


@pytest.mark.parametrize("group", ROTATIONS)
def test_a_rotation_is_that_of_its_matrix(group: int) -> None:
    """To the last place of float32, by a weight that is one."""
    depth = 2 * group
    x = Operand((5, depth), "float32", 1)
    one = LinearWeight("int8", mx.array(np.eye(depth, dtype=np.int8)), mx.ones((depth,)), rotation=group)

    got = launched(lambda: quantized_linear(x.mlx, one)).bits
    exact = (x.exact.reshape(-1, group) @ packed_weights.rotation_matrix(group)).reshape(x.exact.shape)
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6 * np.abs(x.exact).max())


@pytest.mark.parametrize("format_", [*FORMATS, "bfloat16"])
def test_every_format_takes_a_rotation(format_: str) -> None:
    if format_ != "bfloat16":
        check(case(6, 10, 256, "bfloat16", format_, rotation=64))
        check(case(40, 10, 256, "float16", format_, rotation=256))
        return
    dense = Operand((10, 256), "bfloat16", 2, 0.1)
    weight = packed_weight("int8_rows", 10, 256, 2, rotation=256)
    weight.packed = LinearWeight("dense", dense.mlx, rotation=256)
    weight.exact = dense.exact
    check(Case(Operand((6, 256), "bfloat16", 1), weight))


@pytest.mark.parametrize("rows", [4, 20])
@pytest.mark.parametrize(("stride", "offset"), [(300, 0), (300, 8), (297, 0), (300, 3)])
def test_rotated_rows_are_read_where_they_lie(stride: int, offset: int, rows: int) -> None:
    c = case(rows, 16, 256, "bfloat16", "int8_rows", rotation=64)
    c.x = Operand((rows, 320), "bfloat16", 1)
    c.x_row_stride, c.x_offset = stride, offset
    assert len(check(c)) == 2


def test_rotated_rows_of_any_strides_are_copied_first() -> None:
    c = case(12, 16, 64, "float32", "int8_rows", rotation=16, epilogue=False)
    whole = product(c).bits
    x = mx.array(np.ascontiguousarray(c.x.exact.astype(np.float32).T))

    assert c.weight.packed is not None
    done = launched(lambda: quantized_linear(x.T, c.weight.packed))
    assert done.kernels[:2] == ["strided_copy_4", "rotate_rows_float32"]
    np.testing.assert_array_equal(done.bits, whole)


def test_a_rotation_without_a_shader_is_the_reference_graph() -> None:
    assert check(case(3, 8, 1024, "float32", "int8_rows", epilogue=False, rotation=1024)) == []


def test_parts_of_rotations_make_the_whole() -> None:
    c = case(9, 24, 8192, "bfloat16", "int8_rows", rotation=256, epilogue=False)
    whole = product(c)
    parts = product(c, most_operations=34 * 2 * 2 * 4096 * 3)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert parts.kernels.count("rotate_rows_bfloat16") > 1 == whole.kernels.count("rotate_rows_bfloat16")


def test_a_rotated_row_of_many_is_as_it_is_with_others() -> None:
    c = case(50, 12, 256, "bfloat16", "int8_rows", epilogue=False, rotation=256)
    part = Case(Operand((50, 256), "bfloat16", 1), c.weight)
    part.x.bits, part.x.exact = part.x.bits[7:30], part.x.exact[7:30]
    np.testing.assert_array_equal(product(c).bits[7:30], product(part).bits)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("format_", ["q4_k", "q6_k", "w4a8"])
def test_random_schedules(format_: str, seed: int) -> None:
    check(case(40, 70, 256, "bfloat16", format_, rotation=64), seed=seed)
    check(case(4, 20, 512, "bfloat16", format_), seed=seed)

"""The shaders of quantized_linear: clean and accurate for every weight format, size, epilogue and layout."""

from __future__ import annotations

import numpy as np
import pytest
from linear_cases import Case, product, random_weight
from shaders_under_test import DTYPES, Operand, assert_accurate

# The most rows that linear_few takes.
FEW = {"float32": 4, "float16": 4, "bfloat16": 4, "e4m3": 16, "int8": 16, "int4": 32}
FORMATS = list(FEW)


def case(rows: int, columns: int, depth: int, dtype: str, format_: str, epilogue: bool = True) -> Case:
    x = Operand((rows, depth), dtype, 1)
    weight = random_weight(format_, columns, depth, 2)
    if not epilogue:
        return Case(x, weight)
    return Case(
        x,
        weight,
        bias=Operand((columns,), "float32", 3),
        activation="gelu_tanh",
        residual=Operand((rows, columns), dtype, 4),
        gate=Operand((3, columns), "bfloat16", 5),
        gate_index=np.arange(rows) % 3,
    )


def check(c: Case, **options: object) -> None:
    assert_accurate(product(c, **options), c.x.dtype, c.formula(), c.formula(c.x.dtype))


def kernels(c: Case) -> list[str]:
    return [name.removeprefix("linear_") for name in product(c).kernels]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_number_of_rows_chooses_the_kernels(format_: str) -> None:
    most, dense = FEW[format_], format_ in DTYPES
    weight = format_ if dense else "codes"
    assert kernels(case(most, 8, 32, "float16", format_)) == ["few_float16"]
    for rows, size in ((most + 1, "32x64" if most < 32 else "64x64"), (33, "64x64"), (65, "128x64"), (512, "128x64")):
        assert kernels(case(rows, 8, 32, "float16", format_)) == [f"tile_float16_{weight}_{size}"]
    many = [f"tile_float16_{format_}_128x64"] if dense else ["dequantise_float16", "tile_float16_float16_128x64"]
    assert kernels(case(513, 8, 32, "float16", format_)) == many


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("rows", "columns", "depth"), [(4, 32, 256), (3, 18, 96), (6, 5, 320)])
def test_few_rows(rows: int, columns: int, depth: int, format_: str, dtype: str) -> None:
    check(case(rows, columns, depth, dtype, format_))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_per_threadgroup(rows: int) -> None:
    check(case(rows, 20, 64, "bfloat16", "int8"))


@pytest.mark.parametrize("format_", [*DTYPES, "e4m3"])
@pytest.mark.parametrize("rows", [2, 40])
def test_ragged_depth(rows: int, format_: str) -> None:
    check(case(rows, 7, 45, "float16", format_))


@pytest.mark.parametrize("group_type", DTYPES)
@pytest.mark.parametrize("rows", [2, 40])
def test_types_of_groups(rows: int, group_type: str) -> None:
    check(Case(Operand((rows, 64), "float32", 1), random_weight("int4", 8, 64, 2, group_type)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("rows", [21, 40, 70])
def test_tiles(rows: int, format_: str, dtype: str) -> None:
    check(case(rows, 72, 64, dtype, format_))


@pytest.mark.parametrize("format_", ["e4m3", "int8", "int4"])
@pytest.mark.parametrize(("columns", "slabs"), [(64, 1), (65, 2), (200, 4)])
def test_slabs_of_expanded_weights(columns: int, slabs: int, format_: str) -> None:
    # One buffer of 64 columns for all slabs: the simulated device finds one that is overwritten while it may be read.
    c = case(520, columns, 32, "bfloat16", format_, epilogue=columns == 200)
    done = product(c, slab_bytes=64 * 32 * 2)
    assert_accurate(done, "bfloat16", c.formula(), c.formula("bfloat16"))
    assert done.kernels == ["dequantise_bfloat16", "linear_tile_bfloat16_bfloat16_128x64"] * slabs


@pytest.mark.parametrize("format_", ["e4m3", "int4"])
def test_weights_expanded_before_and_in_the_tiles_give_the_same_bits(format_: str) -> None:
    many = case(520, 70, 32, "bfloat16", format_, epilogue=False)
    few = Case(Operand((520, 32), "bfloat16", 1), many.weight)
    few.x.bits, few.x.exact = few.x.bits[:70], few.x.exact[:70]
    np.testing.assert_array_equal(product(few).bits, product(many).bits[:70])


def test_slabs_of_ragged_depth_and_other_types() -> None:
    check(case(513, 67, 45, "float16", "e4m3"), slab_bytes=1)
    check(case(513, 67, 32, "float32", "int4"), slab_bytes=1)


@pytest.mark.parametrize("format_", ["bfloat16", "int8"])
def test_fences_change_no_bit(format_: str) -> None:
    c = case(40, 70, 64, "bfloat16", format_)
    plain, fenced = product(c), product(c, fenced=True)
    np.testing.assert_array_equal(fenced.bits, plain.bits)
    assert plain.counters[-1].simdgroup_barriers == 0
    assert fenced.counters[-1].simdgroup_barriers > 0
    assert product(case(2, 70, 64, "bfloat16", format_), fenced=True).counters[0].simdgroup_barriers == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(64, 64, 32), (33, 64, 64), (64, 41, 64), (64, 64, 50), (9, 3, 7)]
)
def test_tiles_ragged_in_each_dimension(rows: int, columns: int, depth: int, dtype: str) -> None:
    check(case(rows, columns, depth, dtype, dtype))


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("rows", [4, 5])
def test_activations_without_the_rest(rows: int, activation: str) -> None:
    check(Case(Operand((rows, 64), "bfloat16", 1, 2.0), random_weight("bfloat16", 24, 64, 2), activation=activation))


@pytest.mark.parametrize("rows", [4, 9])
@pytest.mark.parametrize(("stride", "offset"), [(100, 0), (100, 8), (97, 0), (100, 3)])
def test_strided_and_offset_rows(stride: int, offset: int, rows: int) -> None:
    c = case(rows, 16, 64, "bfloat16", "bfloat16")
    c.x = Operand((rows, 120), "bfloat16", 1)
    c.x_row_stride, c.x_offset = stride, offset
    check(c)


@pytest.mark.parametrize("rows", [3, 6])
def test_one_gate_row_serves_all_rows(rows: int) -> None:
    x, weight = Operand((rows, 32), "float32", 1), random_weight("float32", 8, 32, 2)
    check(Case(x, weight, gate=Operand((1, 8), "float16", 3)))


@pytest.mark.parametrize("rows", [3, 70])
def test_gate_indices_that_count_from_the_end(rows: int) -> None:
    c = case(rows, 16, 64, "bfloat16", "e4m3")
    whole = product(c).bits
    c.gate_index = np.where(c.gate_index == 2, -1, c.gate_index)
    np.testing.assert_array_equal(product(c).bits, whole)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("rows", [9, 40])
def test_random_schedules(rows: int, seed: int) -> None:
    check(case(rows, 70, 96, "bfloat16", "e4m3"), seed=seed)


@pytest.mark.parametrize(("rows", "some"), [(5, slice(3, 4)), (50, slice(7, 30))])
def test_a_row_of_many_is_as_it_is_with_others(rows: int, some: slice) -> None:
    c = case(rows, 12, 64, "bfloat16", "int8", epilogue=False)
    part = Case(Operand((rows, 64), "bfloat16", 1), c.weight)
    part.x.bits, part.x.exact = part.x.bits[some], part.x.exact[some]
    np.testing.assert_array_equal(product(c).bits[some], product(part).bits)


@pytest.mark.parametrize(("rows", "dispatches"), [(3, 2), (70, 3), (513, 1 + 3 * 5)])
def test_parts_of_the_grid_make_the_whole(rows: int, dispatches: int) -> None:
    # Parts of whole column blocks or of rows of them, and of the weights that are expanded first.
    c = case(rows, 150, 32, "bfloat16", "int8")
    most = 34 * 16 * 32 * 8 if rows == 3 else 2 * 32 * 128 * 64
    whole, parts = product(c), product(c, most_operations=most)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert len(parts.dispatches) >= dispatches > len(whole.dispatches)

"""The shaders of quantized_linear: clean and accurate for every weight format, size, epilogue and layout."""

from __future__ import annotations

import numpy as np
import pytest
from linear_cases import Case, product, random_weight
from shaders_under_test import DTYPES, Launched, Operand, assert_accurate

from tools.metal_sim import from_bits, to_bits

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


@pytest.mark.parametrize("rows", [4, 9])
def test_rows_that_are_too_far_apart_are_copied(rows: int) -> None:
    c = case(rows, 16, 64, "bfloat16", "bfloat16")
    c.x = Operand((rows, 120), "bfloat16", 1)
    c.x_row_stride, c.x_offset = 100, 4
    near, far = product(c), product(c, reach=127 * 100 + 63)
    assert far.kernels == ["strided_copy_2", *near.kernels]
    assert product(c, reach=127 * 100 + 64).kernels == near.kernels
    np.testing.assert_array_equal(far.bits, near.bits)


IN_PARTS = {"least_depth_in_parts": 128}  # parts of at least 32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns", "depth", "parts"), [(40, 72, 160, 5), (33, 70, 173, 3), (130, 9, 128, 4)])
def test_sums_in_parts(rows: int, columns: int, depth: int, parts: int, dtype: str) -> None:
    c = case(rows, columns, depth, dtype, dtype)
    done = product(c, **IN_PARTS)
    assert_accurate(done, dtype, c.formula(), c.formula(dtype))
    size = "128x64" if rows > 64 else "64x64"
    assert done.kernels == [f"linear_tile_{dtype}_{dtype}_{size}", f"linear_join_{dtype}"]
    assert done.dispatches[0].grid == (2, parts, 1)


@pytest.mark.parametrize("format_", ["e4m3", "int8", "int4"])
def test_sums_in_parts_of_quantised_weights(format_: str) -> None:
    c = case(40, 72, 160, "bfloat16", format_)
    done = product(c, **IN_PARTS)
    assert done.kernels == ["linear_tile_bfloat16_codes_64x64", "linear_join_bfloat16"]
    assert_accurate(done, "bfloat16", c.formula(), c.formula("bfloat16"))


def test_sums_in_parts_of_strided_rows_and_random_schedules() -> None:
    c = case(33, 70, 136, "bfloat16", "bfloat16")
    c.x = Operand((33, 150), "bfloat16", 1)
    c.x_row_stride, c.x_offset = 149, 3
    whole = product(c, **IN_PARTS)
    assert_accurate(whole, "bfloat16", c.formula(), c.formula("bfloat16"))
    np.testing.assert_array_equal(product(c, seed=1, **IN_PARTS).bits, whole.bits)
    cut = product(c, most_operations=2 * 32 * 64 * 64, **IN_PARTS)  # a tile and a part, and some rows of the join
    assert len(cut.dispatches) > 2 * 5
    np.testing.assert_array_equal(cut.bits, whole.bits)


def test_what_is_not_summed_in_parts() -> None:
    for c in (case(40, 72, 127, "bfloat16", "bfloat16"), case(4, 72, 160, "bfloat16", "bfloat16")):
        assert len(product(c, **IN_PARTS).kernels) == 1


def test_threadgroups_at_work_together_share_rows_of_both_operands() -> None:
    """A wave of 20 tiles reads 5 blocks of rows of x and 4 of columns of W once; in rows, it would be 1 and 20."""
    c = case(640, 1280, 32, "bfloat16", "bfloat16", epilogue=False)
    (counters,) = product(c, wave=20).counters
    line = 64 / 128  # of a row of 32 values
    assert counters.wave_lines == 5 * line * (5 * 128 + 4 * 64)


def test_few_rows_read_a_weight_once() -> None:
    """Blocks of four rows at the same columns are at work together."""
    c = case(16, 256, 512, "bfloat16", "e4m3", epilogue=False)
    (counters,) = product(c, wave=16).counters
    x_lines, w_lines, factor = 16 * 1024 // 128, 64 * 512 // 128, 1
    assert counters.wave_lines == 4 * (x_lines + w_lines + factor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("format_", ["float32", "float16", "bfloat16", "e4m3", "int4"])
@pytest.mark.parametrize(("rows", "columns", "depth"), [(40, 40, 64), (70, 70, 77)])
def test_half_operands(rows: int, columns: int, depth: int, format_: str, dtype: str) -> None:
    if format_ == "int4":
        depth = 96
    c = case(rows, columns, depth, dtype, format_)
    done = product(c, half=True)
    assert done.kernels[0].endswith("_half")
    assert_accurate(done, dtype, c.formula(), c.formula(dtype))


def test_half_operands_of_slabs_strided_rows_and_parts() -> None:
    many = case(513, 67, 45, "bfloat16", "e4m3", epilogue=False)
    done = product(many, slab_bytes=1, half=True)
    assert done.kernels[:2] == ["dequantise_float16", "linear_tile_bfloat16_float16_128x64_half"]
    assert_accurate(done, "bfloat16", many.formula(), many.formula("bfloat16"))
    c = case(40, 70, 136, "bfloat16", "bfloat16")
    c.x = Operand((40, 150), "bfloat16", 1)
    c.x_row_stride, c.x_offset = 149, 3
    done = product(c, half=True, **IN_PARTS)
    assert done.kernels == ["linear_tile_bfloat16_bfloat16_64x64_half", "linear_join_bfloat16"]
    assert_accurate(done, "bfloat16", c.formula(), c.formula("bfloat16"))


def whole_numbers(c: Case, seed: int) -> Case:
    """With operands that float16 has, too."""
    for operand, bits in ((c.x, c.x.bits), (c.weight, c.weight.stored)):
        values = np.random.default_rng(seed).integers(-40, 41, operand.exact.shape).astype(np.float32)
        operand.exact, bits[...] = values.astype(np.float64), to_bits(values, "bfloat16")
    return c


@pytest.mark.parametrize("large", [0.0, 70000.0, -(2.0**17)])
def test_half_operands_of_values_that_float16_has_give_the_same_bits(large: float) -> None:
    """So do values of x beyond its range, which are added apart."""
    c = whole_numbers(case(40, 70, 96, "bfloat16", "bfloat16"), 1)
    if large:
        values = c.x.exact.astype(np.float32)
        values[17, 40] = values[3, 95] = from_bits(to_bits(np.array([large], np.float32), "bfloat16"), "bfloat16")[0]
        c.x.bits, c.x.exact = to_bits(values, "bfloat16"), values.astype(np.float64)
    plain, half = product(c), product(c, half=True)
    np.testing.assert_array_equal(half.bits, plain.bits)
    # Two passes for the two blocks of depth with large values.
    extra = (half.counters[0].multiplies - plain.counters[0].multiplies) / plain.counters[0].multiplies
    assert extra == (2 / 3 if large else 0)


def test_half_operands_of_the_largest_values() -> None:
    c = case(40, 24, 64, "bfloat16", "bfloat16", epilogue=False)
    values = c.x.exact.astype(np.float32)
    values[5, 33] = from_bits(to_bits(np.array([4.2e9], np.float32), "bfloat16"), "bfloat16")[0]
    c.x.bits, c.x.exact = to_bits(values, "bfloat16"), values.astype(np.float64)
    done, exact, plain = product(c, half=True), c.formula(), c.formula("bfloat16")
    for some in (slice(5, 6), np.arange(40) != 5):
        part = Launched(done.bits[some], done.dispatches)
        assert_accurate(part, "bfloat16", exact[some], plain[some])


def test_half_operands_need_tiles_and_16_bits() -> None:
    for c in (case(4, 24, 64, "bfloat16", "bfloat16"), case(40, 24, 64, "float32", "bfloat16")):
        assert not product(c, half=True).kernels[0].endswith("_half")

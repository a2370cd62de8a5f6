"""The shaders of quantized_linear: clean and accurate for every weight format, size, epilogue and layout."""

from __future__ import annotations

import numpy as np
import pytest
from linear_launcher import Case, Weight, dequantise, few, random_weight, tile
from shaders_under_test import DTYPES, Operand, assert_accurate

from tools.metal_sim import from_bits

FORMATS = [*DTYPES, "e4m3", "int8", "int4"]
QUANTISED = ["e4m3", "int8", "int4"]


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("rows", "columns", "depth"), [(4, 32, 256), (3, 18, 96), (6, 5, 320)])
def test_few_rows(rows: int, columns: int, depth: int, format_: str, dtype: str) -> None:
    c = case(rows, columns, depth, dtype, format_)
    assert_accurate(few(c), 7, dtype, c.formula(), c.formula(dtype))


@pytest.mark.parametrize("rows_per_group", [1, 2, 3])
def test_few_rows_per_threadgroup(rows_per_group: int) -> None:
    c = case(3, 20, 64, "bfloat16", "int8")
    assert_accurate(few(c, rows_per_group), 7, "bfloat16", c.formula(), c.formula("bfloat16"))


@pytest.mark.parametrize("format_", [*DTYPES, "e4m3"])
def test_few_rows_of_ragged_depth(format_: str) -> None:
    c = case(2, 7, 45, "float16", format_)
    assert_accurate(few(c), 7, "float16", c.formula(), c.formula("float16"))


@pytest.mark.parametrize("group_type", DTYPES)
def test_types_of_groups(group_type: str) -> None:
    c = Case(Operand((2, 64), "float32", 1), random_weight("int4", 8, 64, 2, group_type))
    assert_accurate(few(c), 7, "float32", c.formula(), c.formula("float32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("size", ["32x64", "64x64", "128x64"])
def test_tiles(size: str, format_: str, dtype: str) -> None:
    c = case(70, 72, 64, dtype, format_)
    assert_accurate(tile(c, size), 7, dtype, c.formula(), c.formula(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(64, 64, 32), (33, 64, 64), (64, 41, 64), (64, 64, 50), (1, 3, 7)]
)
def test_tiles_ragged_in_each_dimension(rows: int, columns: int, depth: int, dtype: str) -> None:
    c = case(rows, columns, depth, dtype, dtype)
    assert_accurate(tile(c), 7, dtype, c.formula(), c.formula(dtype))


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("launcher", [few, tile])
def test_activations_without_the_rest(activation: str, launcher: object) -> None:
    c = Case(Operand((5, 64), "bfloat16", 1, 2.0), random_weight("bfloat16", 24, 64, 2), activation=activation)
    result = launcher(c)  # type: ignore[operator]
    assert_accurate(result, 7, "bfloat16", c.formula(), c.formula("bfloat16"))


@pytest.mark.parametrize("launcher", [few, tile])
@pytest.mark.parametrize(("stride", "offset"), [(100, 0), (100, 8), (97, 0), (100, 3)])
def test_strided_and_offset_rows(stride: int, offset: int, launcher: object) -> None:
    c = case(4, 16, 64, "bfloat16", "bfloat16")
    c.x = Operand((4, 120), "bfloat16", 1)
    c.x_row_stride, c.x_offset = stride, offset
    result = launcher(c)  # type: ignore[operator]
    assert_accurate(result, 7, "bfloat16", c.formula(), c.formula("bfloat16"))


def test_one_gate_row_serves_all_rows() -> None:
    c = Case(Operand((6, 32), "float32", 1), random_weight("float32", 8, 32, 2), gate=Operand((1, 8), "float16", 3))
    for result in (few(c), tile(c)):
        assert_accurate(result, 7, "float32", c.formula(), c.formula("float32"))


@pytest.mark.parametrize("format_", QUANTISED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantised_weights(format_: str, dtype: str) -> None:
    weight = random_weight(format_, 12, 96, 7)
    values = from_bits(dequantise(weight, dtype).check().outputs[3], dtype).astype(np.float64)
    if format_ == "e4m3":  # exact in every type, before the factor of the tensor
        np.testing.assert_allclose(values * float(weight.scale[0]), weight.exact, rtol=1e-6)
    else:
        step = {"float32": 2**-22, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
        np.testing.assert_allclose(values, weight.exact, atol=step * np.abs(weight.exact).max())


def test_dequantised_weights_of_ragged_size() -> None:
    weight = random_weight("e4m3", 3, 15, 7)
    values = from_bits(dequantise(weight, "bfloat16").check().outputs[3], "bfloat16")
    np.testing.assert_allclose(values * float(weight.scale[0]), weight.exact, rtol=1e-6)


def test_every_e4m3_code() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    sign = np.where(codes & 128, -1.0, 1.0)
    exponent, mantissa = (codes >> 3 & 15).astype(int), (codes & 7) / 8.0
    exact = sign * np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    result = dequantise(Weight("e4m3", codes, exact), "bfloat16").check()
    np.testing.assert_array_equal(from_bits(result.outputs[3], "bfloat16"), exact)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("launcher", [few, tile])
def test_random_schedules(launcher: object, seed: int) -> None:
    c = case(9, 70, 96, "bfloat16", "e4m3")
    result = launcher(c, seed=seed)  # type: ignore[operator]
    assert_accurate(result, 7, "bfloat16", c.formula(), c.formula("bfloat16"))


def test_a_row_of_many_is_as_it_is_alone() -> None:
    c = case(5, 12, 64, "bfloat16", "int8", epilogue=False)
    alone = Case(Operand((5, 64), "bfloat16", 1), c.weight)
    alone.x.bits, alone.x.exact = alone.x.bits[3:4], alone.x.exact[3:4]
    for launcher in (few, tile):
        np.testing.assert_array_equal(launcher(c).outputs[7][3:4], launcher(alone).outputs[7])


def test_a_slice_of_the_row_blocks() -> None:
    c = case(70, 16, 32, "bfloat16", "bfloat16")
    whole, part = tile(c).check().outputs[7], tile(c, first_row_block=1).check().outputs[7]
    np.testing.assert_array_equal(part[64:], whole[64:])
    assert (part[:64] == 0xFFFF).all()

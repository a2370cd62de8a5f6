"""The shaders of causal_conv3d: clean and accurate for every padding, stride, dilation, prologue, size and layout."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import Case, Triple, convolve
from launch_plans import conv_plan
from shaders_under_test import DTYPES, Operand, assert_accurate

CAUSAL = ((2, 0), (1, 1), (1, 1))
SAME = ((1, 1), (1, 1), (1, 1))
ONE = (1, 1, 1)


def case(
    size: tuple[int, ...], channels: int, out_channels: int, kernel: tuple[int, ...], dtype: str, *, batch: int = 1
) -> Case:
    return Case(
        Operand((batch, *size, channels), dtype, 1),
        Operand((out_channels, *kernel, channels), dtype, 2, 0.2),
        bias=Operand((out_channels,), "float32", 3),
    )


def check(c: Case, **options: object) -> None:
    assert_accurate(convolve(c, **options), c.x.dtype, c.formula(), c.formula(c.x.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "out_channels"), [(32, 64), (20, 40), (7, 5), (32, 32)])
def test_three_axes(channels: int, out_channels: int, dtype: str) -> None:
    c = case((3, 5, 9), channels, out_channels, (3, 3, 3), dtype)
    c.padding = CAUSAL
    check(c)


def test_few_channels_have_a_kernel_of_their_own() -> None:
    for channels, columns in ((32, 32), (33, 64)):
        assert convolve(case((1, 2, 3), 8, channels, (1, 1, 1), "float16")).kernels == [
            f"causal_conv3d_float16_128x{columns}"
        ]


@pytest.mark.parametrize("time", ["zeros", "edge", "reflect"])
@pytest.mark.parametrize("space", ["zeros", "edge", "reflect"])
def test_paddings(time: str, space: str) -> None:
    c = case((4, 5, 6), 8, 8, (3, 3, 3), "bfloat16")
    c.padding, c.modes = SAME, (time, space, space)
    check(c)


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_fused(dtype: str) -> None:
    c = case((3, 4, 9), 24, 36, (3, 3, 3), dtype, batch=2)
    c.padding, c.modes = ((0, 0), (1, 1), (1, 1)), ("edge", "reflect", "reflect")
    c.halo = Operand((2, 2, 4, 9, 24), dtype, 4, 2.0)
    c.norm, c.activation = True, "silu"
    c.scale, c.shift = Operand((2, 24), "bfloat16", 5, 0.3), Operand((2, 24), "float32", 6, 0.3)
    c.residual = Operand((2, *c.out_size, 36), dtype, 7)
    check(c)


def test_a_halo_is_padded_beyond_its_first_frame() -> None:
    c = case((2, 3, 4), 8, 8, (3, 3, 3), "float32")
    c.halo, c.padding = Operand((1, 1, 3, 4, 8), "float32", 4), ((1, 0), (1, 1), (1, 1))
    check(c)


def test_zero_padding_follows_the_prologue() -> None:
    c = case((2, 3, 4), 8, 8, (3, 3, 3), "float32")
    c.padding, c.modes = SAME, ("zeros", "zeros", "zeros")
    c.shift = Operand((1, 8), "float32", 4)  # an input of zero would become the shift
    check(c)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("stride", "kernel"), [((2, 2, 2), (3, 3, 3)), ((1, 2, 2), (1, 3, 3)), ((1, 1, 4), (1, 1, 8))])
def test_strides(stride: tuple[int, int, int], kernel: tuple[int, ...], dtype: str) -> None:
    c = case((5, 9, 17) if kernel[0] == 3 else (1, 9, 40), 16, 12, kernel, dtype)
    c.stride, c.padding = stride, tuple((k // 2, k // 2) for k in kernel)
    check(c)


@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_one_axis_with_dilation(kernel: int, dilation: int) -> None:
    c = case((1, 1, 150), 16, 16, (1, 1, kernel), "bfloat16")
    reach = dilation * (kernel - 1)
    c.dilation, c.padding = (1, 1, dilation), ((0, 0), (0, 0), (reach // 2, reach - reach // 2))
    c.modes, c.activation = ("zeros", "zeros", "zeros"), "leaky_relu"
    check(c)


def test_two_axes_and_one_voxel_kernels() -> None:
    c = case((1, 7, 20), 16, 20, (1, 3, 3), "float16")
    c.padding = ((0, 0), (1, 1), (1, 1))
    check(c)
    check(case((2, 3, 5), 40, 70, (1, 1, 1), "float16"))


# Sizes for which each tile of launch_plans.h is chosen, with a region for all taps and with a phase per tap.
TILES = {
    (4, 4, 8): (4, 4, 8),
    (2, 8, 8): (2, 8, 8),
    (1, 8, 16): (1, 8, 16),
    (2, 4, 16): (2, 4, 16),
    (1, 4, 32): (1, 3, 32),
    (1, 1, 128): (1, 1, 100),
}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("one_phase", [True, False])
def test_every_tile(one_phase: bool, tile: Triple) -> None:
    out = TILES[tile]
    kernel = tuple(min(2, n) for n in out)
    stride = ONE if one_phase else tuple(4 if n > 1 else 1 for n in out)
    size = tuple((n - 1) * s + k for n, s, k in zip(out, stride, kernel, strict=True))
    c = case(size, 8, 8, kernel, "bfloat16")
    c.stride = stride
    plan = conv_plan(c.out_size, kernel, stride, ONE)
    assert (plan.tile, plan.one_phase) == (tile, one_phase)
    check(c)


def test_parts_of_the_grid_make_the_whole() -> None:
    c = case((5, 9, 9), 8, 40, (3, 3, 3), "bfloat16", batch=2)
    c.norm, c.padding = True, CAUSAL
    c.halo = Operand((2, 1, 9, 9, 8), "bfloat16", 4)
    whole, parts = convolve(c), convolve(c, most_operations=2 * 128 * 64 * 27 * 8 * 2)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert len(whole.dispatches) == 3 < parts.kernels.count("causal_conv3d_bfloat16_128x64")
    finer = convolve(c, most_operations=34 * 8 * 8 * 2 * 3)
    np.testing.assert_array_equal(finer.bits, whole.bits)
    assert finer.kernels.count("causal_conv3d_row_scale_bfloat16") > 4


@pytest.mark.parametrize("weight_type", DTYPES)
def test_weights_of_any_type(weight_type: str) -> None:
    c = case((2, 4, 8), 8, 8, (3, 3, 3), "float32")
    c.weight, c.bias = Operand((8, 3, 3, 3, 8), weight_type, 2, 0.2), Operand((8,), weight_type, 3)
    c.padding = CAUSAL
    check(c)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    c = case((3, 5, 9), 20, 40, (3, 3, 3), "bfloat16")
    c.padding, c.norm = CAUSAL, True
    check(c, seed=seed)


def test_fences_change_no_bit() -> None:
    c = case((3, 5, 9), 20, 40, (3, 3, 3), "bfloat16")
    plain, fenced = convolve(c), convolve(c, fenced=True)
    np.testing.assert_array_equal(fenced.bits, plain.bits)
    assert plain.counters[-1].simdgroup_barriers == 0
    assert fenced.counters[-1].simdgroup_barriers > 0


def test_empty_parts_of_a_tile_are_not_loaded() -> None:
    c = case((1, 1, 3), 16, 32, (1, 1, 1), "bfloat16")
    counters = convolve(c).counters[-1]
    assert counters.device_load_bytes == 2 * (3 * 16 + 32 * 16) + 3 * 32 * 4
    assert counters.device_store_bytes == 3 * 32 * 2


def test_voxels_of_a_batch_item_are_as_they_are_alone() -> None:
    c = case((2, 3, 4), 16, 8, (3, 3, 3), "bfloat16", batch=2)
    c.padding = CAUSAL
    both = convolve(c).bits
    c.x.bits, c.x.exact = c.x.bits[1:], c.x.exact[1:]
    np.testing.assert_array_equal(convolve(c).bits, both[1:])


def test_frames_beyond_the_reach_of_32_bits_are_copied() -> None:
    c = case((3, 4, 5), 8, 8, (3, 3, 3), "bfloat16")
    c.padding = CAUSAL
    c.residual = Operand((1, *c.out_size, 8), "bfloat16", 7)
    near, far = convolve(c), convolve(c, reach=1)
    assert [near.kernels.count("strided_copy_2"), far.kernels.count("strided_copy_2")] == [0, 2]
    np.testing.assert_array_equal(far.bits, near.bits)

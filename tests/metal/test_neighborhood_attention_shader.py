"""The shader of neighborhood_attention: clean and accurate for windows, borders, frames, strides and dtypes."""

from __future__ import annotations

import copy
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from neighborhood_cases import Case, attention, shifted
from shaders_under_test import DTYPES, Operand, assert_accurate

BORDERS = ("shift", "mask", "replicate")
KERNEL = "neighborhood_attention_bfloat16"


def check(case: Case, **options: object) -> None:
    assert_accurate(attention(case, **options), case.dtype, case.formula(), case.formula(case.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("size", "window"), [((4, 4, 8), (3, 3)), ((5, 6, 11), (3, 5))])
def test_whole_and_ragged_bricks(size: tuple[int, int, int], window: tuple[int, int], plain: bool, dtype: str) -> None:
    check(Case.random(size, shifted(size[0], 3), window, dtype=dtype, plain=plain))


@pytest.mark.parametrize("of_columns", BORDERS)
@pytest.mark.parametrize("of_rows", BORDERS)
@pytest.mark.parametrize("window", [(3, 5), (4, 2)])
def test_borders(window: tuple[int, int], of_rows: str, of_columns: str) -> None:
    check(Case.random((3, 6, 10), shifted(3, 2), window, (of_rows, of_columns)))


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize("border", ["shift", "mask"])
def test_large_windows_around_several_bricks(border: str, replicated: bool) -> None:
    borders = (border, "replicate" if replicated else border)
    check(Case.random((5, 11, 19), shifted(5, 4), (11, 11), borders))


@pytest.mark.parametrize("border", BORDERS)
def test_windows_of_more_rows_than_a_piece(border: str) -> None:
    check(Case.random((2, 19, 16), [[0], [1]], (15, 13), (border, border)))


@pytest.mark.parametrize("border", ["mask", "replicate"])
def test_windows_larger_than_the_volume(border: str) -> None:
    check(Case.random((2, 3, 2), shifted(2, 2), (7, 9), (border, border)))


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 9), (9, 1, 1), (1, 5, 1)])
def test_thin_volumes(size: tuple[int, int, int]) -> None:
    check(Case.random(size, shifted(size[0], 1), (3, 3), ("replicate", "mask")))


# Six frames of video and two planes after them, as a decode with key frames has them: windows in time and the planes,
# and planes with the frames that are nearest.
VIDEO_OF_PLANES = [
    [-1, 0, 1, 6, 7],
    [0, 1, 2, 6, 7],
    [1, 2, 3, 6, 7],
    [2, 3, 4, 6, 7],
    [3, 4, 5, 6, 7],
    [4, 5, -1, 6, 7],
]
PLANES_OF_VIDEO = [[6, 0, 1], [7, 4, 5]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_of_two_streams(dtype: str) -> None:
    borders = ("mask", "replicate")
    check(Case.random((6, 4, 6), VIDEO_OF_PLANES, (3, 3), borders, dtype, frames_of_keys=8))
    check(Case.random((2, 4, 6), PLANES_OF_VIDEO, (3, 3), borders, dtype, frames_of_keys=8))


def test_frames_in_any_order_twice_and_none() -> None:
    key_frames = [[4, 0, 4, 2], [-1, -1, -1, -1], [3, -1, 3, 3], [0, 1, 2, 3], [-1, 4, -1, 4]]
    case = Case.random((5, 4, 5), key_frames, (3, 3), dtype="float32")
    check(case)
    assert not attention(case).bits[:, 1].any()


def test_a_brick_without_any_key_gives_zeros() -> None:
    case = Case.random((5, 3, 3), [[0, 1]] * 4 + [[-1, -1]], (3, 3))
    values = attention(case).bits
    assert not values[:, 4].any()
    assert values[:, :4].all()


def test_the_most_slots() -> None:
    key_frames = [[(3 * i + j) % 20 for j in range(16)] for i in range(5)]
    check(Case.random((5, 3, 3), key_frames, (1, 3), frames_of_keys=20))


def test_more_slots_than_the_shader_takes_are_left_to_the_reference() -> None:
    assert attention(Case.random((2, 3, 3), np.zeros((2, 17)), (3, 3))).kernels == []
    assert attention(Case.random((2, 3, 3), np.zeros((2, 16)), (3, 3))).kernels == [KERNEL]


@pytest.mark.parametrize("lanes", [(8, 8, 48), (32, 16, 16), (0, 32, 32), (16, 48, 0)])
def test_other_lanes_of_the_axes(lanes: tuple[int, int, int]) -> None:
    case = Case.random((2, 5, 9), shifted(2, 2), (3, 5))
    case.lanes = lanes
    check(case)


@pytest.mark.parametrize(
    ("window", "lanes", "fits"),
    [((16, 16), (16, 24, 24), True), ((16, 17), (16, 24, 24), False), ((3, 3), (12, 26, 26), False)],
)
def test_turns_that_do_not_fit_are_left_to_the_reference(
    window: tuple[int, int], lanes: tuple[int, int, int], fits: bool
) -> None:
    case = Case.random((1, 17, 17), [[0]], window)
    case.lanes = lanes
    assert attention(case).kernels == ([KERNEL] if fits else [])


@pytest.mark.parametrize("only", ["q_norm", "k_norm", "times"])
def test_each_of_norms_and_rotation_alone(only: str) -> None:
    case = Case.random((3, 4, 9), shifted(3, 3), (3, 3))
    for name in {"q_norm", "k_norm", "times"} - {only}:
        setattr(case, name, None)
    check(case)


def test_heads_and_batches() -> None:
    check(Case.random((3, 4, 9), shifted(3, 2), (3, 3), heads=3, batch=2))


def of_projections(case: Case, stride: int, offset: int) -> Case:
    """q, k and v as views of one array whose cells have ``stride`` values."""
    shape = case.q.exact.shape
    cells = int(np.prod(shape[:-1]))
    flat = Operand((cells * stride,), case.dtype, 5).mlx
    strides = [stride * int(np.prod(shape[axis + 1 : -1])) for axis in range(4)] + [1]
    for number, operand in enumerate((case.q, case.k, case.v)):
        operand.strided = mx.as_strided(flat, shape, strides, offset + number * shape[-1])
        operand.exact = np.array(operand.strided.astype(mx.float32)).astype(np.float64)
    return case


@pytest.mark.parametrize(
    ("stride", "offset", "copies"), [(384, 0, 0), (512, 128, 0), (388, 4, 0), (386, 0, 3), (385, 0, 3), (390, 2, 3)]
)
def test_views_of_projections_are_copied_only_where_they_must_be(stride: int, offset: int, copies: int) -> None:
    case = of_projections(Case.random((3, 4, 5), shifted(3, 2), (3, 3), heads=2, batch=2), stride, offset)
    check(case)
    assert attention(case).kernels.count("strided_copy_2") == copies


def test_transposed_and_broadcast_operands() -> None:
    case = Case.random((3, 4, 5), shifted(3, 2), (3, 3), heads=2)
    case.q.strided = mx.contiguous(case.q.mlx.transpose(0, 3, 2, 1, 4)).transpose(0, 3, 2, 1, 4)
    for operand in (case.k, case.v):
        operand.strided = mx.broadcast_to(operand.mlx[:, :1, :, :1], operand.exact.shape)
        operand.exact = np.array(operand.strided.astype(mx.float32)).astype(np.float64)
    check(case)
    assert attention(case).kernels == [KERNEL]


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    check(Case.random((5, 5, 9), shifted(5, 3), (3, 5), ("mask", "replicate")), seed=seed)


def test_fences_change_no_bit() -> None:
    case = Case.random((5, 5, 9), shifted(5, 3), (3, 5))
    plain, fenced = attention(case), attention(case, fenced=True)
    np.testing.assert_array_equal(fenced.bits, plain.bits)
    assert fenced.counters[0].simdgroup_barriers
    assert not plain.counters[0].simdgroup_barriers


def test_parts_of_the_grid_make_the_whole() -> None:
    case = Case.random((5, 5, 9), shifted(5, 3), (3, 3), heads=3, batch=2)
    whole, parts = attention(case), attention(case, most_operations=3 * 4 * 128 * 2 * 3 * 4 * 6 * 64)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert len(whole.kernels) == 1
    assert parts.kernels == 6 * 3 * [KERNEL]  # eight bricks, three at once


def test_scores_beyond_what_a_power_takes() -> None:
    """Weights of all keys but one vanish, whichever piece it is in."""
    case = Case.random((3, 5, 9), shifted(3, 3), (3, 5), dtype="float32", plain=True)
    for operand in (case.q, case.k):
        operand.bits *= 60
        operand.exact = operand.bits.astype(np.float64)
    check(case)


def test_nothing_is_rounded_twice_in_float32() -> None:
    case = Case.random((4, 6, 9), shifted(4, 3), (5, 5), dtype="float32")
    exact = case.formula()
    assert np.abs(attention(case).bits - exact).max() < 2e-6 * np.abs(exact).max()


def test_keys_that_no_query_sees_are_not_multiplied() -> None:
    """A block of 2 x 2 x 2 queries sees 4 x 4 x 4 keys, of the 6 x 6 x 10 that its brick sees."""
    key_frames = np.arange(8)[:, None] + np.arange(3)
    case = Case.random((8, 8, 16), key_frames, (3, 3), ("replicate", "replicate"), frames_of_keys=10)
    multiplied = attention(case).counters[0].multiplies
    blocks, products = 8 * 8 * 16 // 8, 2 * 64 // 8  # of fragments, for scores and for sums
    assert multiplied == blocks * 4 * 4 * 4 // 8 * products


def part_of_frames(case: Case, frames: slice, order: np.ndarray) -> Case:
    """Some frames of queries alone, the frames of keys in another order of memory."""
    places = np.append(np.argsort(order), -1)  # of each frame, and of none
    part = replace(case, key_frames=places[case.key_frames][frames].astype(np.int32))
    part.q, part.k, part.v = (copy.copy(operand) for operand in (case.q, case.k, case.v))
    part.q.bits = case.q.bits[:, frames]
    for name in ("k", "v"):
        getattr(part, name).bits = getattr(case, name).bits[:, order]
    part.times = (case.times[0][frames], case.times[1][order])
    return part


@pytest.mark.parametrize("key_frames", [shifted(8, 5), VIDEO_OF_PLANES])
def test_bits_do_not_depend_on_what_else_is_in_a_brick_or_on_where_frames_lie(key_frames: np.ndarray) -> None:
    """So that frames can be computed a few at a time, with keys in a ring."""
    case = Case.random((len(key_frames), 5, 9), key_frames, (3, 5), ("mask", "replicate"), frames_of_keys=8)
    whole = attention(case).bits
    for step in (1, 2, 3, 5):
        order = np.roll(np.arange(8), step)
        parts = [slice(start, start + step) for start in range(0, len(key_frames), step)]
        pieces = [attention(part_of_frames(case, part, order)).bits for part in parts]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)

"""Launch plans: threads, tiles and slices for the sizes at which they change."""

from __future__ import annotations

import math

import launch_plans
import pytest
from shaders_under_test import ELEMENT_TYPE

from ltx2rt.kernels import variants
from ltx2rt.kernels.selection import ext

ONE = (1, 1, 1)


def test_norm_threads() -> None:
    assert [launch_plans.norm_threads(n) for n in (1, 512, 513, 4096, 16384)] == [32, 32, 64, 256, 1024]


def test_linear_tiles() -> None:
    assert [launch_plans.linear_tile(n) for n in (5, 32, 33, 64, 65, 10**6)] == [
        *("32x64", "32x64", "64x64", "64x64", "128x64", "128x64")
    ]


SLAB = 16 << 20
# Numbers of WeightFormat in csrc/op_types.h.
FORMATS = {name: number for name, number in ELEMENT_TYPE.items() if name} | {
    name: number
    for number, name in enumerate(
        ["e4m3", "int8", "int4", "int8_rows", "q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8", "w4a8"], 3
    )
}
E4M3, INT8, INT4 = (FORMATS[name] for name in ("e4m3", "int8", "int4"))


@pytest.mark.parametrize("name", FORMATS)
def test_few_rows(name: str) -> None:
    most = 4 if name in ELEMENT_TYPE else 32 if name in ("int4", "nvfp4") else 16
    assert launch_plans.linear_uses_few(FORMATS[name], most)
    assert not launch_plans.linear_uses_few(FORMATS[name], most + 1)


def test_rotations_with_a_shader() -> None:
    assert [n for n in range(5000) if launch_plans.linear_has_shader(n)] == [0, 4, 16, 64, 256]
    assert [launch_plans.rotate_threads(n) for n in (4, 512, 513, 2048, 4096, 16384)] == [32, 32, 64, 128, 256, 256]


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (3, 5), (8, 4), (9, 3), (20, 40), (48, 2)])
def test_tiles_are_numbered_once_down_swaths_of_eight_blocks_of_rows(rows: int, columns: int) -> None:
    places = [launch_plans.tile_position(number, rows, columns) for number in range(rows * columns)]
    assert len(set(places)) == rows * columns
    assert max(row for row, _ in places) == rows - 1
    assert max(column for _, column in places) == columns - 1
    assert places == sorted(places, key=lambda place: (place[0] // 8, place[1], place[0]))


def test_sums_in_parts() -> None:
    """Of K from 8192 on, where fewer than 512 simdgroups would work; parts are whole blocks and at least 2048 deep."""
    parts, bf16 = launch_plans.linear_parts, ELEMENT_TYPE["bfloat16"]
    assert parts(bf16, 64, 4096, 16384) == (2, 8192)
    assert parts(bf16, 32, 4096, 16384) == (4, 4096)
    assert parts(bf16, 128, 4096, 16384) == (1, 16384)
    assert parts(bf16, 126, 2048, 8192) == (2, 4096)
    assert parts(bf16, 64, 64, 8192) == (4, 2048)
    assert parts(bf16, 64, 64, 8191) == (1, 8191)
    assert parts(bf16, 4, 2048, 16384) == (1, 16384)
    assert parts(E4M3, 16, 2048, 16384) == (1, 16384)
    assert parts(E4M3, 17, 2048, 16384) == (8, 2048)
    assert parts(E4M3, 600, 64, 16384) == (1, 16384)  # expanded in slabs
    assert parts(bf16, 64, 3840, 15360) == (3, 5120)
    assert parts(bf16, 40, 300, 9001) == (4, 2272)
    assert launch_plans.linear_temporary_bytes(bf16, 64, 4096, 16384) == 2 * 64 * 4096 * 4
    assert ext.metal_linear_parts("bfloat16", rows=64, columns=4096, depth=16384) == 2
    assert [parts(bf16, 64, 64, depth)[0] > 1 for depth in (8191, variants.LEAST_DEPTH_IN_PARTS)] == [False, True]


def test_what_32_bits_reach() -> None:
    """A tile's 128 rows of x or W, 64 queries' rows of a bias, a frame of a volume, the weights of 64 channels."""
    assert launch_plans.linear_has_shader(0, 2**24 - 1)
    assert not launch_plans.linear_has_shader(0, 2**24)
    assert launch_plans.attention_has_shader(128, 32, 2**25 - 1)
    assert not launch_plans.attention_has_shader(128, 32, 2**25)
    assert not launch_plans.attention_has_shader(128, 32, 100, rope_values=2**31)
    assert launch_plans.bias_within_reach(2**25, 1, 1000)
    assert not launch_plans.bias_within_reach(2**26, 1, 1000)
    assert not launch_plans.bias_within_reach(0, -(2**22), 513)
    assert launch_plans.conv_has_shader(4096, 4096, 127, 27)
    assert not launch_plans.conv_has_shader(4096, 4096, 128, 27)
    assert not launch_plans.conv_has_shader(1, 1, 2**20, 64)


def test_rotated_rows_are_temporary() -> None:
    """Beside a slab, where there is one, and for few rows, too."""
    int8_rows = FORMATS["int8_rows"]
    of = launch_plans.linear_temporary_bytes
    assert of(int8_rows, 3, 16384, 4096, 2, 256) == 3 * 4096 * 2
    assert of(int8_rows, 6144, 16384, 4096, 2, 256) == 6144 * 4096 * 2 + SLAB
    assert of(FORMATS["bfloat16"], 6144, 16384, 4096, 4, 64) == 6144 * 4096 * 4


def test_slabs_of_expanded_weights() -> None:
    slab = launch_plans.linear_slab_columns
    assert slab(ELEMENT_TYPE["bfloat16"], 6144, 16384, 4096) == 0  # dense
    assert slab(INT8, 16, 16384, 4096) == 0  # few rows
    assert [slab(E4M3, rows, 16384, 4096) for rows in (17, 512, 513, 6144)] == [0, 0, 2048, 2048]
    assert slab(INT4, 6144, 40, 4096) == 40
    assert slab(INT4, 6144, 4096, 16384) == 512
    assert slab(INT4, 6144, 4096, 1 << 24) == 64  # one tile, however deep


@pytest.mark.parametrize("columns", [1, 64, 65, 2047, 2049, 3000, 16384])
@pytest.mark.parametrize(("depth", "itemsize"), [(64, 2), (4096, 2), (4096, 4), (15360, 2)])
def test_slabs_are_even_whole_tiles_within_their_bytes(columns: int, depth: int, itemsize: int) -> None:
    slab = launch_plans.linear_slab_columns(E4M3, 1000, columns, depth, itemsize)
    assert 0 < slab <= columns
    assert slab % 64 == 0 or slab == columns
    slabs = math.ceil(columns / slab)
    assert columns > (slabs - 1) * slab >= 0
    assert slabs == 1 or slab - columns / slabs < 64
    assert launch_plans.linear_temporary_bytes(E4M3, 1000, columns, depth, itemsize) == slab * depth * itemsize <= SLAB


def test_the_module_tells_the_plan() -> None:
    sizes = {"columns": 16384, "depth": 4096, "itemsize": 2}
    assert ext.metal_linear_temporary_bytes("int8", rows=6144, **sizes) == SLAB
    assert ext.metal_linear_temporary_bytes("int4", rows=512, **sizes) == 0
    assert ext.metal_linear_temporary_bytes("bfloat16", rows=6144, **sizes) == 0
    assert ext.metal_linear_temporary_bytes("int8_rows", rows=6144, rotation=256, **sizes) == SLAB + 6144 * 4096 * 2
    for name, number in FORMATS.items():
        told = ext.metal_linear_temporary_bytes(name, rows=600, **sizes)
        assert told == launch_plans.linear_temporary_bytes(number, 600, 16384, 4096)
    with pytest.raises(ValueError, match=r'weight format must be one of float32, .* but is "nf4"'):
        ext.metal_linear_temporary_bytes("nf4", rows=6144, **sizes)


def test_the_self_proof_knows_where_launches_change() -> None:
    """Row classes of its variants, and output channels, are those of launch_plans.h."""
    found = set()
    for weight, format_ in FORMATS.items():

        def launch(rows: int, format_: int = format_) -> str:
            if launch_plans.linear_uses_few(format_, rows):
                return f"few {min(rows, launch_plans.few_rows_most())}"
            return f"{launch_plans.linear_tile(rows)} {launch_plans.linear_slab_columns(format_, rows, 4096, 4096) > 0}"

        limits = {rows for rows in range(1, 2000) if launch(rows) != launch(rows + 1)}
        assert limits <= set(variants.row_limits(weight))
        found |= limits
        for rows in range(1, 600):
            row_class = next((most for most in variants.row_limits(weight) if rows <= most), 0)
            has_tiles = not launch_plans.linear_uses_few(format_, rows)
            assert variants.LinearVariant("bfloat16", weight, rows=row_class).has_fences == has_tiles
    assert found == set(variants.row_limits("int4"))
    assert set(variants.FEW_ROWS) == set(FORMATS) - set(ELEMENT_TYPE)
    assert launch_plans.rotate_threads(10**6) * launch_plans.rotated_per_thread() == variants.ROTATED_AT_ONCE
    channels = [n for n in range(1, 1000) if launch_plans.conv_columns(n) != launch_plans.conv_columns(n + 1)]
    assert channels == [variants.CONV_FEW_OUTPUTS]


def test_attention_tiles() -> None:
    assert launch_plans.attention_tile(128) == (64, 256)
    assert launch_plans.attention_tile(64) == (64, 128)
    assert launch_plans.attention_tile(48) == (0, 0)
    assert [launch_plans.attention_keys_threads(n) for n in (64, 512, 4096)] == [32, 32, 256]


PAIRS = (8, 12, 12)


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ({}, True),
        ({"head_size": 32}, False),
        ({"head_size": 128}, False),
        ({"slots": 16}, True),
        ({"slots": 17}, False),
        ({"slots": 0}, False),
        ({"size": (4095, 8192), "channels": 64}, True),
        ({"size": (4096, 8192), "channels": 64}, False),  # 2^31 elements of a frame
        ({"window": (16, 16)}, True),
        ({"window": (17, 16)}, False),
        ({"window": (40, 90), "pairs": None}, True),
        ({"pairs": (10, 11, 11)}, False),
        ({"pairs": (0, 16, 16)}, True),
        ({"pairs": (4, 4, 24)}, True),
    ],
)
def test_what_the_shader_of_neighborhood_attention_takes(changed: dict, fits: bool) -> None:
    published = {"head_size": 64, "slots": 11, "size": (128, 192), "channels": 256, "window": (11, 11), "pairs": PAIRS}
    assert launch_plans.neighborhood_has_shader(**(published | changed)) == fits


def test_operations_of_neighborhoods() -> None:
    """Of 128 queries, each of two lists of frames, in blocks that see whole fragments of rows and columns."""
    assert launch_plans.neighborhood_operations(11, (11, 11)) == 4 * 128 * 64 * 22 * 12 * 14
    assert launch_plans.neighborhood_operations(3, (5, 5)) == 4 * 128 * 64 * 6 * 8 * 8
    assert launch_plans.neighborhood_operations(1, (15, 3)) == 4 * 128 * 64 * 2 * (16 + 4) * 6  # two pieces


def test_conv_plans() -> None:
    video = launch_plans.conv_plan((16, 64, 64), (3, 3, 3), ONE, ONE)
    assert video == ((4, 4, 8), (6, 6, 10), (4, 16, 8), True)
    assert launch_plans.conv_plan((1, 64, 64), (1, 3, 3), ONE, ONE).region == (1, 10, 18)
    signal = launch_plans.conv_plan((1, 1, 4000), (1, 1, 11), ONE, (1, 1, 5))
    assert signal == ((1, 1, 128), (1, 1, 178), (1, 1, 32), True)
    patches = launch_plans.conv_plan((1, 40, 40), (1, 7, 7), (1, 4, 4), ONE)
    assert not patches.one_phase
    assert patches.region == patches.tile


def test_regions_beyond_an_int_fit_nowhere() -> None:
    plan = launch_plans.conv_plan((1, 1, 1), (3, 3, 3), (2**29,) * 3, (2**30,) * 3)
    assert not plan.one_phase
    assert plan.region == plan.tile


@pytest.mark.parametrize("out", [(1, 1, 1), (1, 3, 200), (9, 17, 33), (121, 512, 768)])
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (1, 3, 3), (1, 1, 11), (4, 4, 4)])
@pytest.mark.parametrize("stride", [ONE, (2, 2, 2)])
def test_conv_plans_cover_the_output_and_fit(out: tuple, kernel: tuple, stride: tuple) -> None:
    plan = launch_plans.conv_plan(out, kernel, stride, ONE)
    assert math.prod(plan.tile) == 128
    assert math.prod(plan.region) <= 432
    assert all(n * t >= o > (n - 1) * t for n, t, o in zip(plan.tiles, plan.tile, out, strict=True))


def test_conv_columns() -> None:
    assert [launch_plans.conv_columns(n) for n in (3, 32, 33, 512)] == [32, 32, 64, 64]


def test_no_dispatch_does_more_than_the_limit() -> None:
    limit = 25 * 10**9
    assert launch_plans.units_per_dispatch(10, 10**9) == 10
    assert launch_plans.units_per_dispatch(100, 10**9) == limit // 10**9
    assert launch_plans.units_per_dispatch(100, 10**12) == 1
    assert launch_plans.units_per_dispatch(3, 0) == 3

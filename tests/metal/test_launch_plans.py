"""Launch plans: threads, tiles and slices for the sizes at which they change."""

from __future__ import annotations

import math

import launch_plans
import pytest
from shaders_under_test import ELEMENT_TYPE

from ltx2rt.kernels import variants

ONE = (1, 1, 1)


def test_norm_threads() -> None:
    assert [launch_plans.norm_threads(n) for n in (1, 512, 513, 4096, 16384)] == [32, 32, 64, 256, 1024]


def test_linear_tiles() -> None:
    assert [launch_plans.linear_tile(n) for n in (5, 32, 33, 64, 65, 10**6)] == [
        *("32x64", "32x64", "64x64", "64x64", "128x64", "128x64")
    ]


@pytest.mark.parametrize(("format_", "most"), [(ELEMENT_TYPE["bfloat16"], 4), (3, 16), (4, 16), (5, 32)])
def test_few_rows(format_: int, most: int) -> None:
    assert launch_plans.linear_uses_few(format_, most)
    assert not launch_plans.linear_uses_few(format_, most + 1)


def test_the_self_proof_knows_where_launches_change() -> None:
    """Row classes of its variants, and output channels, are those of launch_plans.h."""
    formats = {**{name: ELEMENT_TYPE[name] for name in ("float32", "bfloat16")}, "e4m3": 3, "int8": 4, "int4": 5}

    def launch(format_: int, rows: int) -> str:
        if launch_plans.linear_uses_few(format_, rows):
            return f"few {min(rows, launch_plans.few_rows_most())}"
        return launch_plans.linear_tile(rows)

    limits = {
        rows for format_ in formats.values() for rows in range(1, 1000)
        if launch(format_, rows) != launch(format_, rows + 1)
    }  # fmt: skip
    assert limits == set(variants.LINEAR_ROWS)
    for weight, format_ in formats.items():
        for rows in range(1, 100):
            row_class = next((most for most in variants.LINEAR_ROWS if rows <= most), 0)
            has_tiles = not launch_plans.linear_uses_few(format_, rows)
            assert variants.LinearVariant("bfloat16", weight, rows=row_class).has_fences == has_tiles
    channels = [n for n in range(1, 1000) if launch_plans.conv_columns(n) != launch_plans.conv_columns(n + 1)]
    assert channels == [variants.CONV_FEW_OUTPUTS]


def test_attention_tiles() -> None:
    assert launch_plans.attention_tile(128) == (64, 256)
    assert launch_plans.attention_tile(64) == (64, 128)
    assert launch_plans.attention_tile(48) == (0, 0)
    assert [launch_plans.attention_keys_threads(n) for n in (64, 512, 4096)] == [32, 32, 256]


def test_conv_plans() -> None:
    video = launch_plans.conv_plan((16, 64, 64), (3, 3, 3), ONE, ONE)
    assert video == ((4, 4, 8), (6, 6, 10), (4, 16, 8), True)
    assert launch_plans.conv_plan((1, 64, 64), (1, 3, 3), ONE, ONE).region == (1, 10, 18)
    signal = launch_plans.conv_plan((1, 1, 4000), (1, 1, 11), ONE, (1, 1, 5))
    assert signal == ((1, 1, 128), (1, 1, 178), (1, 1, 32), True)
    patches = launch_plans.conv_plan((1, 40, 40), (1, 7, 7), (1, 4, 4), ONE)
    assert not patches.one_phase
    assert patches.region == patches.tile


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

"""The functions of csrc/metal/launch_plans.h, compiled for this machine, so that tests launch as the product does."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tools.metal_sim.build import build_host_library

ROOT = Path(__file__).parents[2]
Triple = tuple[int, int, int]


@lru_cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_host_library([Path(__file__).with_suffix(".cpp")], [ROOT])))
    for name in ("linear_slab_columns", "linear_temporary_bytes", "neighborhood_operations", "units_per_dispatch"):
        getattr(library, f"{name}_of").restype = ctypes.c_int64
    return library


def few_rows_most() -> int:
    """Rows per threadgroup of linear_few."""
    return int(_library().few_rows_most())


def norm_threads(width: int) -> int:
    return int(_library().norm_threads_of(ctypes.c_int64(width)))


def linear_tile(rows: int) -> str:
    out = (ctypes.c_int * 2)()
    _library().linear_tile_of(ctypes.c_int64(rows), out)
    return f"{out[0]}x{out[1]}"


def linear_uses_few(format_: int, rows: int) -> bool:
    return bool(_library().linear_uses_few_of(format_, ctypes.c_int64(rows)))


def linear_slab_columns(format_: int, rows: int, columns: int, depth: int, itemsize: int = 2) -> int:
    """Output columns whose weights are expanded at a time; 0: none are."""
    sizes = (ctypes.c_int64(n) for n in (rows, columns, depth, itemsize))
    return int(_library().linear_slab_columns_of(format_, *sizes))


def linear_temporary_bytes(
    format_: int, rows: int, columns: int, depth: int, itemsize: int = 2, rotation: int = 0
) -> int:
    sizes = (ctypes.c_int64(n) for n in (rows, columns, depth, itemsize, rotation))
    return int(_library().linear_temporary_bytes_of(format_, *sizes))


def linear_has_shader(rotation: int, depth: int = 4096) -> bool:
    return bool(_library().linear_has_shader_of(ctypes.c_int64(rotation), ctypes.c_int64(depth)))


def linear_parts(format_: int, rows: int, columns: int, depth: int) -> tuple[int, int]:
    """Parts of the sum over depth, and the depth of each but the last."""
    out = (ctypes.c_int64 * 2)()
    _library().linear_parts_of(format_, *(ctypes.c_int64(n) for n in (rows, columns, depth)), out)
    return out[0], out[1]


def tile_position(number: int, row_blocks: int, column_blocks: int) -> tuple[int, int]:
    """Block of rows and block of columns of a tile."""
    out = (ctypes.c_int * 2)()
    _library().tile_position_of(number, row_blocks, column_blocks, out)
    return out[0], out[1]


def rotated_per_thread() -> int:
    return int(_library().rotated_per_thread())


def rotate_threads(depth: int) -> int:
    return int(_library().rotate_threads_of(ctypes.c_int64(depth)))


def attention_tile(head_size: int) -> tuple[int, int]:
    """Queries and threads per threadgroup; zeros where there is no shader."""
    out = (ctypes.c_int * 2)()
    _library().attention_tile_of(ctypes.c_int64(head_size), out)
    return out[0], out[1]


def attention_has_shader(head_size: int, kv_heads: int, keys: int, rope_axes: int = 3, rope_values: int = 1) -> bool:
    sizes = (ctypes.c_int64 * 5)(head_size, kv_heads, keys, rope_axes, rope_values)
    return bool(_library().attention_has_shader_of(sizes))


def bias_within_reach(query_stride: int, key_stride: int, keys: int) -> bool:
    sizes = (ctypes.c_int64(n) for n in (query_stride, key_stride, keys))
    return bool(_library().bias_within_reach_of(*sizes))


def conv_has_shader(rows: int, columns: int, channels: int, taps: int) -> bool:
    sizes = (ctypes.c_int64(n) for n in (rows, columns, channels, taps))
    return bool(_library().conv_has_shader_of(*sizes))


def attention_keys_threads(width: int) -> int:
    return int(_library().attention_keys_threads_of(ctypes.c_int64(width)))


def neighborhood_has_shader(
    head_size: int, slots: int, size: tuple[int, int], channels: int, window: tuple[int, int], pairs: Triple | None
) -> bool:
    sizes = (ctypes.c_int64 * 7)(head_size, slots, *size, channels, *window)
    given = None if pairs is None else (ctypes.c_int64 * 3)(*pairs)
    return bool(_library().neighborhood_has_shader_of(sizes, given))


def neighborhood_operations(slots: int, window: tuple[int, int]) -> int:
    """Of a threadgroup, at most."""
    return int(_library().neighborhood_operations_of(*(ctypes.c_int64(n) for n in (slots, *window))))


class ConvPlan(NamedTuple):
    """How outputs are cut into tiles, and whether a region serves all taps."""

    tile: Triple
    region: Triple
    tiles: Triple
    one_phase: bool


def conv_plan(out: Triple, kernel: Triple, stride: Triple, dilation: Triple) -> ConvPlan:
    result = (ctypes.c_int * 10)()
    _library().conv_plan_of((ctypes.c_int64 * 12)(*out, *kernel, *stride, *dilation), result)
    tile, region, tiles = (tuple(result[i : i + 3]) for i in (0, 3, 6))
    return ConvPlan(tile, region, tiles, bool(result[9]))  # type: ignore[arg-type]


def conv_columns(out_channels: int) -> int:
    return int(_library().conv_columns_of(ctypes.c_int64(out_channels)))


def units_per_dispatch(units: int, operations: int) -> int:
    return int(_library().units_per_dispatch_of(ctypes.c_int64(units), ctypes.c_int64(operations)))

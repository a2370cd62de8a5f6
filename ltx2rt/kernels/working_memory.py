"""Bytes of the buffers that the CPU kernels take while they run; the constants are those of csrc/cpu."""

from __future__ import annotations

import os

from ltx2rt.kernels.selection import ext

_FLOAT = 4
# Instruction sets that multiply pairs of bfloat16, so that kernels keep such values in half the memory.
_PAIRS = ("avx512bf16", "neonbf16")
# quantized_linear.cpp: rows of x prepared at a time.
_PREPARED_BYTES = 24 << 20
_DEPTH_BLOCK = 256
_LEAST_ROWS = 16
# rope_attention.cpp: packed keys and values, and the states of waiting queries.
_PACKED_FLOATS = 1 << 19
_MOST_PACKED_FLOATS = 8 << 20
_STATE_FLOATS = 4 << 20
_QUERY_BLOCK = 144
# causal_conv3d.cpp: packed weights, and a region of one thread that leaves room in its cache; conv_winograd.cpp:
# transformed inputs.
_PANEL_FLOATS = 4 << 20
_SLAB_FLOATS = 3 << 20
_REGION_FLOATS = 64 << 10
# Panels, sums and states of one thread.
_THREAD_BYTES = 256 << 10


def _threads() -> int:
    return int(ext.num_threads()) if ext is not None else os.cpu_count() or 1


def _has_pairs(itemsize: int) -> bool:
    """Whether values of this size, bfloat16 that is, are multiplied as pairs."""
    return ext is not None and itemsize == 2 and ext.isa() in _PAIRS


def linear_bytes(rows: int, depth: int, itemsize: int = _FLOAT) -> int:
    """Of `quantized_linear` for ``rows`` rows of x and K = ``depth``; two bytes of an item of x mean bfloat16."""
    row = -(-depth // _DEPTH_BLOCK) * _DEPTH_BLOCK * (2 if _has_pairs(itemsize) else _FLOAT)
    most = max(_LEAST_ROWS, _PREPARED_BYTES // row)
    # In even parts.
    at_a_time = -(-rows // -(-rows // most))
    return at_a_time * row + _threads() * _THREAD_BYTES


def attention_bytes(
    batch: int, kv_heads: int, head_size: int, queries: int, keys: int, group: int = 1, itemsize: int = _FLOAT
) -> int:
    """Of `rope_attention`; ``group`` query heads share one of keys and values, two bytes of an item mean bfloat16."""
    one_head = max(1, keys * head_size * (1 if _has_pairs(itemsize) else 2))
    tasks = group * -(-queries // _QUERY_BLOCK)
    heads = max(_PACKED_FLOATS // one_head, -(-4 * _threads() // max(1, tasks)), 1)
    packed = min(min(heads, kv_heads) * one_head, _MOST_PACKED_FLOATS)
    states = _STATE_FLOATS if one_head > _MOST_PACKED_FLOATS else 0
    return (packed + states) * _FLOAT + _threads() * _THREAD_BYTES


def convolution_bytes(weights: int, itemsize: int = _FLOAT, values: int | None = None) -> int:
    """Of `causal_conv3d` and its relatives for a weight of so many elements; two bytes of an item mean bfloat16.

    ``values`` are those of the input; None: so many that it is worked on in parts.
    """
    slab = 0
    if itemsize == 2:  # Winograd form: 16 transformed values for every 9 of the weight and every 4 of the input
        weights = weights * 16 // 9
        slab = _SLAB_FLOATS if values is None else min(_SLAB_FLOATS, 4 * values // (2 if _has_pairs(itemsize) else 1))
    words = weights // 2 if _has_pairs(itemsize) else weights
    return (min(words, _PANEL_FLOATS) + slab + _threads() * _REGION_FLOATS) * _FLOAT + _threads() * _THREAD_BYTES

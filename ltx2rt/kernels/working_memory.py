"""Bytes of the buffers that the CPU kernels take while they run; the constants are those of csrc/cpu."""

from __future__ import annotations

import os

from ltx2rt.kernels.selection import ext

_FLOAT = 4
# quantized_linear.cpp: rows of x prepared at a time, in float32 or, for instruction sets with dot products, in bfloat16.
_PREPARED_BYTES = 24 << 20
_DEPTH_BLOCK = 256
_LEAST_ROWS = 16
_PAIRS = ("avx512bf16", "neonbf16")
# rope_attention.cpp: packed keys and values, and the states of waiting queries.
_PACKED_FLOATS = 2 << 20
_MOST_PACKED_FLOATS = 8 << 20
_STATE_FLOATS = 4 << 20
_QUERY_BLOCK = 144
# causal_conv3d.cpp: packed weights, and the region of one thread; conv_winograd.cpp: transformed inputs.
_PANEL_FLOATS = 4 << 20
_SLAB_FLOATS = 3 << 20
_REGION_FLOATS = 512 << 10
_THREAD_BYTES = 1 << 20


def _threads() -> int:
    return int(ext.num_threads()) if ext is not None else os.cpu_count() or 1


def linear_bytes(rows: int, depth: int, itemsize: int = _FLOAT) -> int:
    """Of `quantized_linear` for ``rows`` rows of x and K = ``depth``; two bytes of an item of x mean bfloat16."""
    pairs = ext is not None and itemsize == 2 and ext.isa() in _PAIRS
    row = -(-depth // _DEPTH_BLOCK) * _DEPTH_BLOCK * (2 if pairs else _FLOAT)
    most = max(_LEAST_ROWS, _PREPARED_BYTES // row)
    # In even parts.
    at_a_time = -(-rows // -(-rows // most))
    return at_a_time * row + _threads() * _THREAD_BYTES


def attention_bytes(batch: int, kv_heads: int, head_size: int, queries: int, keys: int) -> int:
    """Of `rope_attention`."""
    one_head = keys * 2 * head_size
    tasks = -(-queries // _QUERY_BLOCK)
    heads = max(_PACKED_FLOATS // max(1, one_head), -(-4 * _threads() // tasks), 1)
    packed = min(min(heads, batch * kv_heads) * one_head, _MOST_PACKED_FLOATS)
    states = _STATE_FLOATS if one_head > _MOST_PACKED_FLOATS else 0
    return (packed + states) * _FLOAT + _threads() * _THREAD_BYTES


def convolution_bytes(weights: int) -> int:
    """Of `causal_conv3d` and its relatives for a weight of so many elements."""
    # Transformed weights have 16 values for every nine.
    shared = min(2 * weights, _PANEL_FLOATS) + _SLAB_FLOATS
    return (shared + _threads() * _REGION_FLOATS) * _FLOAT + _threads() * _THREAD_BYTES

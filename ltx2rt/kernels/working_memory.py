"""Bytes of the buffers that the CPU kernels take while they run; the constants are those of csrc/cpu."""

from __future__ import annotations

import os
from math import prod

import mlx.core as mx

from ltx2rt.kernels.selection import ext, use_reference

_FLOAT = 4
# Instruction sets that multiply pairs of bfloat16, so that kernels keep such values in half the memory.
_PAIRS = ("avx512bf16", "neonbf16")
# quantized_linear.cpp: rows of x prepared at a time, of all threads and at least of each.
_PREPARED_BYTES = 24 << 20
_THREAD_PREPARED_BYTES = 3 << 20
_DEPTH_BLOCK = 256
_LEAST_ROWS = 16
# rope_attention.cpp: packed keys and values, and the states of waiting queries.
_PACKED_FLOATS = 1 << 19
_MOST_PACKED_FLOATS = 8 << 20
_STATE_FLOATS = 4 << 20
_QUERY_BLOCK = 144
# Panels, sums and states of one thread.
_THREAD_BYTES = 256 << 10


def _compiled() -> bool:
    """Whether the kernels run, and not the plain MLX formulas of ``LTX2RT_KERNELS=reference``."""
    return ext is not None and not use_reference()


def _threads() -> int:
    return int(ext.num_threads()) if ext is not None else os.cpu_count() or 1


def _dtype(itemsize: int) -> mx.Dtype:
    return mx.bfloat16 if itemsize == 2 else mx.float32


def _has_pairs(itemsize: int) -> bool:
    """Whether values of this size, bfloat16 that is, are multiplied as pairs."""
    return ext is not None and itemsize == 2 and ext.isa() in _PAIRS


def linear_bytes(rows: int, depth: int, itemsize: int = _FLOAT) -> int:
    """Of `quantized_linear` for ``rows`` rows of x and K = ``depth``; two bytes of an item of x mean bfloat16."""
    row = -(-depth // _DEPTH_BLOCK) * _DEPTH_BLOCK * (2 if _has_pairs(itemsize) else _FLOAT)
    most = max(_LEAST_ROWS, max(_PREPARED_BYTES, _threads() * _THREAD_PREPARED_BYTES) // row)
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


def convolution_bytes(
    outputs: tuple[int, int, int],
    weight: tuple[int, int, int, int, int],
    itemsize: int = _FLOAT,
    *,
    batch: int = 1,
    stride: tuple[int, int, int] = (1, 1, 1),
    dilation: tuple[int, int, int] = (1, 1, 1),
    activation: str | None = None,
) -> int:
    """Of `causal_conv3d` and its relatives.

    Args:
        outputs: (F', H', W') of the result; a signal of S' samples is (1, 1, S').
        weight: shape (O, kt, kh, kw, C).
        itemsize: bytes of a value of x and of the weight; 2 means bfloat16.
        batch: items of x.
        stride, dilation, activation: as for the kernel.
    """
    taps = weight[1:4]
    sizes = [
        (n - 1) * step + (count - 1) * apart + 1
        for n, step, count, apart in zip(outputs, stride, taps, dilation, strict=True)
    ]
    x = (batch, *sizes, weight[4])
    if not _compiled():
        # MLX copies the values under every output, padded float32 activations and the weight in float32.
        return _FLOAT * (batch * prod(outputs) * prod(weight[1:]) + 2 * prod(x) + prod(weight))
    dtype = _dtype(itemsize)
    return int(
        ext.causal_conv3d_scratch_bytes(
            x,
            weight,
            dtype=dtype,
            weight_dtype=dtype,
            stride=stride,
            dilation=dilation,
            activation=activation,
            threads=_threads(),
        )
    )


def snake_bytes(samples: int, channels: int, batch: int = 1) -> int:
    """Of `antialiased_snake` for x (batch, samples, channels)."""
    x = (batch, samples, channels)
    if not _compiled():
        # The padded samples, and at twice the rate the values, their squared sines and their padded sum.
        return _FLOAT * 8 * prod(x)
    return int(ext.antialiased_snake_scratch_bytes(x, threads=_threads()))

"""MLX's own Metal kernels, instantiated unmodified from the headers of the installed wheel, in the simulator."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tools.metal_sim import In, Inline, Out, Result, run

INCLUDE = Path(mx.__file__).parent / "include"
KERNELS = "mlx/backend/metal/kernels/"
MSL_TYPES = {"float32": "float", "float16": "half", "bfloat16": "bfloat16_t"}


def _source(headers: tuple[str, ...], function: str, *arguments: str | int) -> str:
    """A shader with one kernel of MLX under the name ``k``."""
    includes = "\n".join(f'#include "{KERNELS}{name}"' for name in ("utils.h", *headers))
    return f'{includes}\ninstantiate_kernel("k", {function}, {", ".join(map(str, arguments))})\n'


def _run(source: str, buffers: dict[int, Any], grid: tuple, group: tuple, constants: dict, options: dict) -> Result:
    # Metal drops what a function constant switches off, and with it reads of buffers that are then not bound.
    options = {"specialise": True, **options}
    return run(source, "k", buffers, grid, group, constants, include=[INCLUDE], **options)


def _int(value: int) -> Inline:
    return Inline(struct.pack("<i", value))


def _element_strides(a: np.ndarray) -> list[int]:
    return [s // a.itemsize for s in a.strides]


def softmax(x: np.ndarray, dtype: str, **options: Any) -> Result:
    """softmax_single_row over the last axis of x (rows, n), n <= 4096; output 1."""
    rows, n = x.shape
    threads = (-(-n // 4) + 31) // 32 * 32
    source = _source(("softmax.h",), "softmax_single_row", MSL_TYPES[dtype], "float")
    buffers = {0: In(x), 1: Out(x.shape, dtype), 2: _int(n)}
    return _run(source, buffers, (rows, 1, 1), (threads, 1, 1), {}, options)


def logsumexp(x: np.ndarray, dtype: str, **options: Any) -> Result:
    """logsumexp over the last axis of x (rows, n): in registers to n = 4096, else a loop of 1024 threads; output 1."""
    rows, n = x.shape
    function, threads = ("logsumexp", (-(-n // 4) + 31) // 32 * 32) if n <= 4096 else ("logsumexp_looped", 1024)
    source = _source(("logsumexp.h",), function, MSL_TYPES[dtype], "float")
    buffers = {0: In(x), 1: Out((rows,), dtype), 2: _int(n)}
    return _run(source, buffers, (rows, 1, 1), (threads, 1, 1), {}, options)


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: str, *, causal: bool = False, **options: Any
) -> Result:
    """steel_attention of q (H, L, D) and k, v (H, S, D), with the tiles that MLX picks; output 3."""
    heads, queries, width = q.shape
    keys = k.shape[1]
    bq, bk = 32, 32 if width < 128 else 16
    query_blocks, key_blocks = -(-queries // bq), -(-keys // bk)
    parameters = struct.pack(
        "<6if8i",
        *(1, heads, width, queries, keys, 1, width**-0.5, query_blocks, key_blocks, queries // bq, keys // bk),
        *(queries % bq, keys % bk, keys - queries, 0),
    )[:56]
    for tokens in (queries, keys, keys, queries):
        parameters += struct.pack("<3q", heads * tokens * width, tokens * width, width)
    name = MSL_TYPES[dtype]
    source = _source(("steel/attn/kernels/steel_attention.h",), "attention", name, bq, bk, width, width, 4, 1, name)
    buffers = {0: In(q), 1: In(k), 2: In(v), 3: Out(q.shape, dtype), 4: Inline(parameters)}
    constants = {200: queries % bq == 0, 201: keys % bk == 0, 300: False, 301: causal, 302: False}
    return _run(source, buffers, (query_blocks, heads, 1), (32, 4, 1), constants, options)


def quantised_matmul(
    x: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    dtype: str,
    group_size: int,
    bits: int,
    **options: Any,
) -> Result:
    """affine_qmm_t: x (M, K) times codes (N, K * bits / 32); output 4."""
    rows, depth = x.shape
    columns = codes.shape[0]
    source = _source(
        ("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h"),
        "affine_qmm_t",
        *(MSL_TYPES[dtype], group_size, bits, "true" if columns % 32 == 0 else "false", "false"),
    )
    buffers = {0: In(codes), 1: In(scales), 2: In(biases), 3: In(x), 4: Out((rows, columns), dtype)}
    buffers |= {5: _int(depth), 6: _int(columns), 7: _int(rows)}
    return _run(source, buffers, (-(-columns // 32), -(-rows // 32), 1), (32, 2, 2), {}, options)


def matmul(a: np.ndarray, b: np.ndarray, dtype: str, **options: Any) -> Result:
    """steel gemm of a (M, K) and the transpose of b (N, K), with MLX's tiles for large matrices; output 3."""
    rows, depth = a.shape
    columns = b.shape[0]
    tiles_n, tiles_m = -(-columns // 64), -(-rows // 64)
    parameters = struct.pack(
        "<8i3q3i4x", rows, columns, depth, depth, depth, columns, tiles_n, tiles_m, 0, 0, 0, 0, depth // 16, 0
    )
    name = MSL_TYPES[dtype]
    source = _source(
        ("steel/gemm/gemm.h", "steel/gemm/kernels/steel_gemm_fused.h"),
        "gemm",
        *(name, 64, 64, 16, 2, 2, "false", "true", "float"),
    )
    constants = {10: False, 100: False, 110: False, 200: rows % 64 == 0, 201: columns % 64 == 0, 202: depth % 16 == 0}
    buffers = {0: In(a), 1: In(b), 3: Out((rows, columns), dtype), 4: Inline(parameters)}
    return _run(source, buffers, (tiles_n, tiles_m, 1), (32, 2, 2), constants, options)


def conv3d(x: np.ndarray, weight: np.ndarray, dtype: str, padding: int, tile_rows: int = 64, **options: Any) -> Result:
    """implicit_gemm_conv_3d of x (1, D, H, W, C) and weight (O, 3, 3, 3, C), 16 | C; output 2.

    MLX takes tiles of 64 rows from 8192 outputs and 64 channels on, and of 32 rows below.
    """
    channels, size, kernel = x.shape[-1], x.shape[1:4], weight.shape[1:4]
    out_channels = weight.shape[0]
    out_size = [s + 2 * padding - k + 1 for s, k in zip(size, kernel, strict=True)]
    out = np.zeros((1, *out_size, out_channels), x.dtype)
    rows = int(np.prod(out_size))
    bn = 64 if tile_rows == 64 or out_channels >= 64 else 32
    tiles_n, tiles_m = -(-out_channels // bn), -(-rows // tile_rows)
    jump_d, jump_h, jump_w = _element_strides(x)[1:4]
    parameters = struct.pack(
        "<24i", 1, channels, out_channels, *size, *kernel, *out_size, *(1,) * 3, *(padding,) * 3, *(1,) * 6
    )
    parameters += struct.pack("<15q", *(s for a in (x, weight, out) for s in _element_strides(a)))
    parameters += struct.pack("<i?3x", 1, False)
    gemm = struct.pack(
        "<11i",
        *(rows, out_channels, channels * int(np.prod(kernel)), int(np.prod(kernel)) * -(-channels // 16)),
        *(jump_w, jump_h - 2 * jump_w, jump_d - 2 * jump_h - 2 * jump_w, 16 - 2 * jump_d - 2 * jump_h - 2 * jump_w),
        *(tiles_n, tiles_m, 0),
    )
    source = _source(
        ("steel/gemm/mma.h", "steel/conv/conv.h", "steel/conv/kernels/steel_conv_3d.h"),
        "implicit_gemm_conv_3d",
        *(MSL_TYPES[dtype], tile_rows, bn, 16, 2, 2, "true"),
    )
    buffers = {0: In(x), 1: In(weight), 2: Out(out.shape, dtype), 3: Inline(parameters), 4: Inline(gemm)}
    return _run(source, buffers, (tiles_n, tiles_m, 1), (32, 2, 2), {}, options)


def quantised_matvec(
    x: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    dtype: str,
    group_size: int,
    bits: int,
    **options: Any,
) -> Result:
    """affine_qmv_fast: rows of x (M, K), 512 | K, times codes (N, K * bits / 32), 8 | N; output 4."""
    rows, depth = x.shape
    columns = codes.shape[0]
    headers = ("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
    source = _source(headers, "affine_qmv_fast", MSL_TYPES[dtype], group_size, bits, "false")
    buffers = {0: In(codes), 1: In(scales), 2: In(biases), 3: In(x), 4: Out((rows, columns), dtype)}
    buffers |= {5: _int(depth), 6: _int(columns)}
    return _run(source, buffers, (rows, columns // 8, 1), (32, 2, 1), {}, options)

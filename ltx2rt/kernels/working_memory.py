"""Bytes that a kernel takes while it runs, besides inputs and outputs: the answers of the CPU kernels themselves.

With ``LTX2RT_KERNELS=reference`` nothing is asked: the answers are the arrays that MLX's own ops make on the way.
"""

from __future__ import annotations

from math import prod

import mlx.core as mx

from ltx2rt.kernels.reference import SCORES_AT_ONCE
from ltx2rt.kernels.selection import ext, use_reference
from ltx2rt.types import FLOAT32_BYTES


def _compiled() -> bool:
    """Whether the kernels run, and not the plain MLX formulas of ``LTX2RT_KERNELS=reference``."""
    return ext is not None and not use_reference()


def _dtype(itemsize: int) -> mx.Dtype:
    return mx.bfloat16 if itemsize == 2 else mx.float32


def linear_bytes(
    rows: int,
    depth: int,
    width: int,
    itemsize: int = FLOAT32_BYTES,
    *,
    rotation: int = 0,
    int8_activations: bool = False,
) -> int:
    """Of `quantized_linear` for x (rows, depth) and a weight (width, depth).

    ``itemsize``: bytes of a value of x; 2 means bfloat16. The weight is taken as one that such values are multiplied
    with as they are, any but float32 and float16 ones. ``rotation``: the largest groups in which weights of the model
    rotate x, 0: none do; where they do not divide the depth, this weight is none of those. ``int8_activations``: x is
    multiplied as 8-bit codes.
    """
    if not _compiled():
        return FLOAT32_BYTES * (rows * depth + depth * width + rows * width)  # x, the weight and the sums in float32
    return int(
        ext.quantized_linear_scratch_bytes(
            rows,
            depth,
            width,
            dtype=_dtype(itemsize),
            weight_format="bfloat16",
            strided_x=False,
            rotation=rotation if rotation and depth % rotation == 0 else 0,
            int8_activations=int8_activations,
            threads=ext.num_threads(),
        )
    )


def attention_bytes(
    batch: int,
    kv_heads: int,
    head_size: int,
    queries: int,
    keys: int,
    itemsize: int = FLOAT32_BYTES,
    *,
    group: int = 1,
    wide_norms: bool = False,
) -> int:
    """Of `rope_attention`.

    ``group`` query heads share one of keys and values; two bytes of an item mean bfloat16; ``wide_norms``: q and k are
    normalised over all heads.
    """
    heads = kv_heads * group
    if not _compiled():
        # Scores and weights, and in float32 the queries, the result, and keys and values of every query head.
        return FLOAT32_BYTES * batch * heads * (2 * queries * keys + 2 * (queries + keys) * head_size)
    return int(
        ext.rope_attention_scratch_bytes(
            batch=batch,
            queries=queries,
            keys=keys,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            dtype=_dtype(itemsize),
            wide_norms=wide_norms,
            threads=ext.num_threads(),
        )
    )


def neighborhood_bytes(
    q: tuple[int, int, int, int, int],
    key_frames: int,
    slots: int,
    heads: int,
    window: tuple[int, int],
    borders: tuple[str, str],
    itemsize: int = FLOAT32_BYTES,
) -> int:
    """Of `neighborhood_attention`.

    Args:
        q: its shape (B, T, H, W, N*K).
        key_frames: frames of k.
        slots: frames that each query sees, J.
        heads: N.
        window, borders: as for the kernel.
        itemsize: bytes of a value; 2 means bfloat16.
    """
    if not _compiled():
        batch, frames, height, width, channels = q
        row = batch * heads * width * slots * window[0]
        # Queries, keys and values in float32, those of the frames that one frame sees, and of some rows of queries the
        # scores, their weights, and keys and values.
        across = width + window[1] - 1
        rows = max(1, min(height, SCORES_AT_ONCE // max(1, row * across)))
        held = (frames * height * width + 2 * (key_frames + slots) * (height + window[0] - 1) * across) * channels
        return FLOAT32_BYTES * (batch * held + rows * row * (2 * across + 2 * channels // heads))
    return int(
        ext.neighborhood_attention_scratch_bytes(
            q,
            key_frames=key_frames,
            slots=slots,
            heads=heads,
            window=window,
            borders=borders,
            dtype=_dtype(itemsize),
            threads=ext.num_threads(),
        )
    )


def convolution_bytes(
    outputs: tuple[int, int, int],
    weight: tuple[int, int, int, int, int],
    itemsize: int = FLOAT32_BYTES,
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
        return FLOAT32_BYTES * (batch * prod(outputs) * prod(weight[1:]) + 2 * prod(x) + prod(weight))
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
            threads=ext.num_threads(),
        )
    )


def snake_bytes(samples: int, channels: int, batch: int = 1) -> int:
    """Of `antialiased_snake` for x (batch, samples, channels)."""
    x = (batch, samples, channels)
    if not _compiled():
        # The padded samples, and at twice the rate the values, their squared sines and their padded sum.
        return FLOAT32_BYTES * 8 * prod(x)
    return int(ext.antialiased_snake_scratch_bytes(x, threads=ext.num_threads()))


def norm_bytes(rows: int, width: int) -> int:
    """Of `modulated_norm` for x (rows, width)."""
    if not _compiled():
        return FLOAT32_BYTES * 2 * rows * width  # x in float32, normalised
    return int(ext.modulated_norm_scratch_bytes(rows, width, threads=ext.num_threads()))

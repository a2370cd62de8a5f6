"""The formula of every kernel in plain MLX, float32 inside; it judges the kernels and differentiates them."""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.types import GGML_BLOCKS, LinearWeight


class RopeTable(NamedTuple):
    """Separable rotary tables: one row per distinct (axis, position), shared by all tokens that have it.

    The rotation angle of lane ``l`` of token ``t`` is ``table[index[t, p], j]`` with ``l - pad = j * P + p``;
    the first ``pad = lanes - M * P`` lanes are not rotated.

    Attributes:
        cos: (R, M) float32.
        sin: (R, M) float32.
        index: (T, P) or (B, T, P) int32, row of each token along each of the P axes.
    """

    cos: mx.array
    sin: mx.array
    index: mx.array  # type: ignore[assignment]  # hides tuple.index


def rope_table(cos: mx.array | None, sin: mx.array | None, index: mx.array | None) -> RopeTable | None:
    """The table of three arrays that are given together or not at all."""
    return None if cos is None or sin is None or index is None else RopeTable(cos, sin, index)


def rope_lanes(table: RopeTable, lanes: int) -> tuple[mx.array, mx.array]:
    """Dense cos and sin, each (1 or B, T, lanes) float32, of a separable table."""
    index = table.index if table.index.ndim == 3 else table.index[None]
    batch, tokens, axes = index.shape
    columns = table.cos.shape[1] * axes
    pad = lanes - columns

    def dense(rows: mx.array, fill: float) -> mx.array:
        values = mx.swapaxes(rows[index], 2, 3).reshape(batch, tokens, columns)
        if pad == 0:
            return values
        return mx.concatenate([mx.full((batch, tokens, pad), fill, dtype=mx.float32), values], axis=2)

    return dense(table.cos, 1.0), dense(table.sin, 0.0)


def rotate(x: mx.array, table: RopeTable, num_heads: int, layout: str) -> mx.array:
    """Rotary embedding of x (B, T, N*K) float32."""
    batch, tokens, width = x.shape
    half = width // num_heads // 2
    per_head = table.cos.shape[1] * table.index.shape[-1] <= half and num_heads > 1
    cos, sin = rope_lanes(table, half if per_head else num_heads * half)
    heads = 1 if per_head else num_heads
    cos = cos.reshape(cos.shape[0], tokens, heads, half)
    sin = sin.reshape(sin.shape[0], tokens, heads, half)
    x = x.reshape(batch, tokens, num_heads, 2 * half)
    if layout == "split":
        a, b = x[..., :half], x[..., half:]
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(batch, tokens, width)
    a, b = x[..., 0::2], x[..., 1::2]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(batch, tokens, width)


def rms_normalise(x: mx.array, weight: mx.array, num_heads: int, eps: float) -> mx.array:
    """RMSNorm with weight over the whole width (weight (N*K,)) or over each head (weight (K,))."""
    batch, tokens, width = x.shape
    if weight.shape[0] != width:
        x = x.reshape(batch, tokens, num_heads, width // num_heads)
    x = x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + eps) * weight.astype(mx.float32)
    return x.reshape(batch, tokens, width)


def rope_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    num_heads: int,
    num_kv_heads: int,
    q_norm: mx.array | None,
    k_norm: mx.array | None,
    norm_eps: float,
    rope_q: RopeTable | None,
    rope_k: RopeTable | None,
    rope_layout: str,
    bias: mx.array | None,
    gate_logits: mx.array | None,
    causal: bool,
    scale: float,
) -> mx.array:
    dtype = q.dtype
    batch, q_tokens, width = q.shape
    k_tokens = k.shape[1]
    head = width // num_heads
    q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    if q_norm is not None:
        q = rms_normalise(q, q_norm, num_heads, norm_eps)
    if k_norm is not None:
        k = rms_normalise(k, k_norm, num_kv_heads, norm_eps)
    if rope_q is not None:
        q = rotate(q, rope_q, num_heads, rope_layout)
    if rope_k is not None:
        k = rotate(k, rope_k, num_kv_heads, rope_layout)

    def split(a: mx.array, heads: int) -> mx.array:
        a = a.reshape(batch, -1, heads, head).transpose(0, 2, 1, 3)
        return mx.repeat(a, num_heads // heads, axis=1) if heads != num_heads else a

    scores = (split(q, num_heads) * scale) @ split(k, num_kv_heads).swapaxes(-1, -2)
    if bias is not None:
        scores = scores + bias.astype(mx.float32)
    if causal:
        allowed = mx.arange(k_tokens)[None] <= mx.arange(q_tokens)[:, None] + (k_tokens - q_tokens)
        scores = mx.where(allowed, scores, -math.inf)
    if k_tokens == 0:
        return mx.zeros((batch, q_tokens, width), dtype=dtype)
    seen = mx.max(scores, axis=-1, keepdims=True) != -math.inf  # a query without any key gives zeros, not NaN
    out = mx.where(seen, mx.softmax(mx.where(seen, scores, 0.0), axis=-1) @ split(v, num_kv_heads), 0.0)
    out = out.transpose(0, 2, 1, 3)
    if gate_logits is not None:
        out = out * (2.0 * mx.sigmoid(gate_logits.astype(mx.float32)))[..., None]
    return out.reshape(batch, q_tokens, width).astype(dtype)


class NeighborhoodRope(NamedTuple):
    """Cosines ``[0]`` and sines ``[1]`` of the angles of `neighborhood_attention`, float32.

    The axes own consecutive lanes of a head: 2 Ft for time, then 2 Fh, then 2 Fw; lanes 2j and 2j + 1 of an axis turn
    by the angle of column j.

    Attributes:
        q_time: (2, T, Ft), of each frame of q.
        k_time: (2, S, Ft), of each frame of k.
        height: (2, H + Kh - 1, Fh); row r is that of position r - Kh // 2.
        width: (2, W + Kw - 1, Fw), likewise.
    """

    q_time: mx.array
    k_time: mx.array
    height: mx.array
    width: mx.array


def neighborhood_rope(*tables: mx.array | None) -> NeighborhoodRope | None:
    """The tables of four arrays that are given together or not at all."""
    q_time, k_time, height, width = tables
    if q_time is None or k_time is None or height is None or width is None:
        return None
    return NeighborhoodRope(q_time, k_time, height, width)


# Values of scores that the reference of neighborhood_attention makes together, about.
SCORES_AT_ONCE = 1 << 23


def neighborhood_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    key_frames: mx.array,
    *,
    num_heads: int,
    window: tuple[int, int],
    borders: tuple[str, str],
    q_norm: mx.array | None,
    k_norm: mx.array | None,
    norm_eps: float,
    rope: NeighborhoodRope | None,
    scale: float,
) -> mx.array:
    """Rows of queries against all columns of the rows and frames that they see, what is outside a window masked."""
    dtype = q.dtype
    batch, frames, height, width, channels = q.shape
    head = channels // num_heads
    slots = key_frames.shape[1]
    if q.size == 0 or k.size == 0 or slots == 0:
        return mx.zeros(q.shape, dtype)
    rows, columns = (
        Windows(n, count, border) for n, count, border in zip((height, width), window, borders, strict=True)
    )

    def prepared(x: mx.array, norm: mx.array | None, tables: AxisTables | None) -> mx.array:
        x = x.astype(mx.float32).reshape(*x.shape[:4], num_heads, head)
        if norm is not None:
            x = x * mx.rsqrt(mx.mean(mx.square(x), axis=-1, keepdims=True) + norm_eps) * norm.astype(mx.float32)
        return x if tables is None else turned(x, *tables)

    k, v = (x[:, :, rows.cells][:, :, :, columns.cells] for x in (k, v))
    q_tables, k_tables = window_tables(rope, rows, columns)
    q = prepared(q, q_norm, q_tables) * scale
    k = prepared(k, k_norm, k_tables)
    v = v.astype(mx.float32).reshape(*v.shape[:4], num_heads, head)

    seen_columns = mx.array(columns.dense)  # (W, columns)
    per_row = max(1, batch * num_heads * width * slots * window[0] * columns.cells.size)
    together = max(1, min(height, SCORES_AT_ONCE // per_row))
    results = []
    for frame in range(frames):
        seen_frames = key_frames[frame] >= 0  # (J,)
        at = mx.maximum(key_frames[frame], 0)
        k_frames, v_frames = k[:, at], v[:, at]  # (B, J, rows, columns, N, K)
        for first in range(0, height, together):
            part = slice(first, min(first + together, height))
            index = mx.array(rows.index[part])  # (R, Kh)
            seen_rows = mx.array(rows.valid[part])
            # (B, R, N, columns of keys, K), their order J, Kh, W
            keys, values = (
                x[:, :, index].transpose(0, 2, 5, 1, 3, 4, 6).reshape(batch, index.shape[0], num_heads, -1, head)
                for x in (k_frames, v_frames)
            )
            scores = q[:, frame, part].transpose(0, 1, 3, 2, 4) @ keys.swapaxes(-1, -2)  # (B, R, N, W, keys)
            seen = (
                seen_frames[None, None, :, None, None]
                & seen_rows[:, None, None, :, None]
                & seen_columns[None, :, None, None, :]
            ).reshape(1, index.shape[0], 1, width, -1)
            some = mx.any(seen, axis=-1, keepdims=True)  # a query without any key gives zeros, not NaN
            weights = mx.softmax(mx.where(seen | ~some, scores, -math.inf), axis=-1)
            results.append(mx.where(some, weights @ values, 0.0).transpose(0, 1, 3, 2, 4))
    return mx.concatenate(results, axis=1).reshape(*q.shape[:4], channels).astype(dtype)


class Windows:
    """The windows of `neighborhood_attention` along an axis of n cells.

    Attributes:
        own: (n,) int32, rows of a `NeighborhoodRope` table that belong to the queries.
        cells: (M,) int32, the cells whose keys are made: n, and for replicated edges those outside again.
        positions: (M,) int32, their rows of a `NeighborhoodRope` table.
        index: (n, K) int32, which of the M each query sees.
        valid: (n, K) bool, false where nothing is there.
        dense: (n, M) bool, whether a query sees a cell.
    """

    def __init__(self, n: int, count: int, border: str) -> None:
        query, offset = np.arange(n)[:, None], np.arange(count)[None]
        before = count // 2
        outside = border == "replicate"
        positions = np.arange(n + count - 1) if outside else np.arange(before, before + n)
        self.own = mx.array(np.arange(before, before + n).astype(np.int32))
        self.positions = mx.array(positions.astype(np.int32))
        self.cells = mx.array(np.clip(positions - before, 0, n - 1).astype(np.int32))
        if border == "shift":
            index = np.clip(query - before, 0, n - count) + offset
        else:
            index = query - (0 if outside else before) + offset
        self.valid = (index >= 0) & (index < len(positions))
        self.index = np.clip(index, 0, len(positions) - 1).astype(np.int32)
        self.dense = np.zeros((n, len(positions)), dtype=bool)
        np.logical_or.at(self.dense, (query, self.index), self.valid)


# Cosines and sines of time, height and width.
AxisTables = tuple[mx.array, mx.array, mx.array]


def window_tables(
    rope: NeighborhoodRope | None, rows: Windows, columns: Windows
) -> tuple[AxisTables | None, AxisTables | None]:
    """The tables of the cells of q, and of those whose keys are made."""
    if rope is None:
        return None, None
    return (
        (rope.q_time, rope.height[:, rows.own], rope.width[:, columns.own]),
        (rope.k_time, rope.height[:, rows.positions], rope.width[:, columns.positions]),
    )


def turned(x: mx.array, time: mx.array, height: mx.array, width: mx.array) -> mx.array:
    """x (B, T, H, W, N, K) float32, interleaved pairs of lanes turned by the angles of three axes."""
    shape = x.shape[1:4]

    def dense(part: int) -> mx.array:
        axes = (
            time[part][:, None, None],
            height[part][None, :, None],
            width[part][None, None],
        )
        spread = [mx.broadcast_to(a, (*shape, a.shape[-1])) for a in axes]
        return mx.concatenate(spread, axis=-1)[None, :, :, :, None]

    cos, sin = dense(0), dense(1)
    a, b = x[..., 0::2], x[..., 1::2]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


# Values of the codes of E2M1, whose highest bit is the sign.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def rotate_groups(x: mx.array, group: int) -> mx.array:
    """x (..., K) float32 with each ``group`` values multiplied by R (`LinearWeight`); by itself it undoes it."""
    shape, stride = x.shape, 1
    while stride < group:
        fours = x.reshape(*shape[:-1], -1, 4, stride)
        x = (0.5 * mx.sum(fours, axis=-2, keepdims=True) - fours[..., ::-1, :]).reshape(shape)
        stride *= 4
    return x


def dequantise(weight: LinearWeight) -> mx.array:
    """The matrix (N, K) float32 that x is multiplied with: W, or W R if x is to be rotated."""
    stored = stored_weight(weight)
    return rotate_groups(stored, weight.rotation) if weight.rotation else stored


def stored_weight(weight: LinearWeight) -> mx.array:
    """W (N, K) float32 as stored: that of a rotated x, if there is a rotation."""
    mode, values = weight.mode, weight.values
    decoded: mx.array
    if mode == "affine":
        return mx.dequantize(
            values,
            weight.scale.astype(mx.float32),
            weight.zero.astype(mx.float32),
            group_size=weight.group_size,
            bits=weight.bits,
        ).astype(mx.float32)
    if mode in GGML_BLOCKS:
        return _ggml_values(mode, values)
    if mode == "e4m3":
        scale = weight.scale.astype(mx.float32)
        decoded = mx.from_fp8(values, mx.float32) * (scale[:, None] if scale.ndim == 1 else scale)
    elif mode == "int8":
        decoded = values.astype(mx.float32) * weight.scale[:, None]
    elif mode == "nvfp4":
        codes = mx.stack([values >> 4, values & 15], axis=-1).reshape(values.shape[0], -1)
        scale = mx.repeat(mx.from_fp8(weight.scale, mx.float32), 16, axis=1)
        decoded = mx.array(E2M1)[codes] * scale * weight.zero.reshape(())
    elif mode == "mxfp8":
        exponents = (weight.scale.astype(mx.uint32) << 23).view(mx.float32)
        decoded = mx.from_fp8(values, mx.float32) * mx.repeat(exponents, 32, axis=1)
    elif mode == "w4a8":
        codes = mx.stack([values & 15, values >> 4], axis=-1).reshape(values.shape[0], -1)
        scale = mx.repeat(mx.from_fp8(weight.scale, mx.float32), weight.group_size, axis=1)
        decoded = mx.clip(mx.round(weight.table[codes] * scale), -127, 127) * weight.zero[:, None]
    else:
        decoded = values.astype(mx.float32)
    return decoded


def _ggml_values(mode: str, values: mx.array) -> mx.array:
    """Rows of GGML's blocks (N, bytes) uint8 as (N, K) float32."""
    blocks = values.reshape(values.shape[0], -1, GGML_BLOCKS[mode][1])

    def half_at(byte: int) -> mx.array:
        """(N, blocks, 1, 1) float32."""
        return mx.contiguous(blocks[..., byte : byte + 2]).view(mx.float16).astype(mx.float32)[..., None]

    def bits(piece: mx.array, shifts: tuple[int, ...], mask: int) -> mx.array:
        """(N, blocks, len(shifts), bytes) of (N, blocks, bytes)."""
        return (piece[..., None, :] >> mx.array(shifts, mx.uint8)[:, None]) & mask

    if mode == "q8_0":
        decoded = half_at(0) * blocks[..., None, 2:].view(mx.int8).astype(mx.float32)
    elif mode == "q6_k":
        low = bits(blocks[..., :128].reshape(*blocks.shape[:-1], 2, 64), (0, 4), 15)  # (..., half, shift, 64)
        high = bits(blocks[..., 128:192].reshape(*blocks.shape[:-1], 2, 32), (0, 2, 4, 6), 3)  # (..., half, run, 32)
        codes = (low.reshape(*high.shape) | high << 4).astype(mx.float32) - 32
        scales = blocks[..., 192:208].view(mx.int8).astype(mx.float32)[..., None]
        decoded = half_at(208) * scales * codes.reshape(*blocks.shape[:-1], 16, 16)
    else:  # q4_k and q5_k: eight sub-blocks of 32
        s = blocks[..., 4:16]
        first, second, third = s[..., :4], s[..., 4:8], s[..., 8:]
        scale = mx.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=-1).astype(mx.float32)
        least = mx.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=-1).astype(mx.float32)
        packed = blocks[..., -128:].reshape(*blocks.shape[:-1], 4, 32)
        codes = bits(packed, (0, 4), 15).reshape(*blocks.shape[:-1], 8, 32)
        if mode == "q5_k":
            codes = codes | bits(blocks[..., 16:48], tuple(range(8)), 1) << 4
        decoded = half_at(0) * scale[..., None] * codes.astype(mx.float32) - half_at(2) * least[..., None]
    return decoded.reshape(values.shape[0], -1)


def gelu_tanh(x: mx.array) -> mx.array:
    return 0.5 * x * (1.0 + mx.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def int8_product(x: mx.array, weight: LinearWeight) -> mx.array:
    """The product of codes of float32 rows with int8 rows, (..., N); sums are exact up to 2^24."""
    most = mx.max(mx.abs(x), axis=-1, keepdims=True)
    is_number = mx.all(mx.isfinite(x), axis=-1, keepdims=True)
    is_zero = most < 1e-35
    codes = mx.round(mx.where(is_zero | ~is_number, 0.0, x * (127.0 / most)))
    scale = mx.where(is_number, mx.where(is_zero, 0.0, most / 127.0), mx.nan)
    sums: mx.array = codes @ weight.values.astype(mx.float32).T
    product: mx.array = sums * scale * weight.scale
    return product


def quantized_linear(
    x: mx.array,
    weight: LinearWeight,
    bias: mx.array | None,
    *,
    activation: str | None,
    residual: mx.array | None,
    gate: mx.array | None,
    gate_index: mx.array | None,
) -> mx.array:
    wide = x.astype(mx.float32)
    if weight.rotation:
        wide = rotate_groups(wide, weight.rotation).astype(x.dtype).astype(mx.float32)
    out = int8_product(wide, weight) if weight.activations == "int8" else wide @ stored_weight(weight).T
    if bias is not None:
        out = out + bias.astype(mx.float32)
    if activation == "gelu_tanh":
        out = gelu_tanh(out)
    elif activation == "silu":
        out = out * mx.sigmoid(out)
    if gate is not None:
        out = out * gate.astype(mx.float32)[0 if gate_index is None else gate_index]
    if residual is not None:
        out = residual.astype(mx.float32) + out
    return out.astype(x.dtype)


def modulated_norm(
    x: mx.array,
    *,
    scale: mx.array | None,
    shift: mx.array | None,
    index: mx.array | None,
    norm: str,
    eps: float,
) -> mx.array:
    y = x.astype(mx.float32)
    if norm == "layer":
        y = y - mx.mean(y, axis=-1, keepdims=True)
    if norm != "none":
        y = y * mx.rsqrt(mx.mean(mx.square(y), axis=-1, keepdims=True) + eps)
    rows = 0 if index is None else index
    if scale is not None:
        y = y * (1.0 + scale.astype(mx.float32)[rows])
    if shift is not None:
        y = y + shift.astype(mx.float32)[rows]
    return y.astype(x.dtype)


def pad_axis(x: mx.array, axis: int, before: int, after: int, mode: str) -> mx.array:
    """Padding of one axis: ``zeros``, ``edge`` (repeat the border) or ``reflect`` (mirror without the border)."""
    if before == 0 and after == 0:
        return x
    if mode == "zeros":
        widths = [(0, 0)] * x.ndim
        widths[axis] = (before, after)
        return mx.pad(x, widths)
    size = x.shape[axis]
    positions = mx.arange(-before, size + after)
    if mode == "edge":
        positions = mx.clip(positions, 0, size - 1)
    else:
        positions = mx.abs(positions)
        positions = mx.where(positions >= size, 2 * (size - 1) - positions, positions)
    return mx.take(x, positions, axis=axis)


def causal_conv3d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    *,
    stride: tuple[int, int, int],
    dilation: tuple[int, int, int],
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    padding_mode: tuple[str, str, str],
    pixel_norm_eps: float | None,
    scale: mx.array | None,
    shift: mx.array | None,
    activation: str | None,
    negative_slope: float,
    residual: mx.array | None,
    halo: mx.array | None,
) -> mx.array:
    y = x.astype(mx.float32)
    if halo is not None:
        y = mx.concatenate([halo.astype(mx.float32), y], axis=1)
    if pixel_norm_eps is not None:
        y = y * mx.rsqrt(mx.mean(mx.square(y), axis=-1, keepdims=True) + pixel_norm_eps)
    if scale is not None:
        y = y * (1.0 + scale.astype(mx.float32)[:, None, None, None])
    if shift is not None:
        y = y + shift.astype(mx.float32)[:, None, None, None]
    if activation == "silu":
        y = y * mx.sigmoid(y)
    elif activation == "leaky_relu":
        y = mx.where(y >= 0, y, negative_slope * y)
    for axis in range(3):
        y = pad_axis(y, axis + 1, *padding[axis], padding_mode[axis])
    out = mx.conv_general(y, weight.astype(mx.float32), stride=stride, kernel_dilation=dilation)
    if bias is not None:
        out = out + bias.astype(mx.float32)
    if residual is not None:
        out = out + residual.astype(mx.float32)
    return out.astype(x.dtype)


def antialiased_snake(x: mx.array, alpha: mx.array, beta: mx.array, rise: mx.array, fall: mx.array) -> mx.array:
    alpha, beta, rise, fall = (a.astype(mx.float32) for a in (alpha, beta, rise, fall))
    batch, samples, channels = x.shape
    near = pad_axis(x.astype(mx.float32), 1, 3, 3, "edge")
    even = sum((rise[11 - 2 * j] * near[:, j : j + samples] for j in range(6)), start=mx.array(0.0))
    odd = sum((rise[10 - 2 * j] * near[:, j + 1 : j + 1 + samples] for j in range(6)), start=mx.array(0.0))
    doubled = 2.0 * mx.stack([even, odd], axis=2).reshape(batch, 2 * samples, channels)
    doubled = doubled + mx.square(mx.sin(doubled * mx.exp(alpha))) / (mx.exp(beta) + 1e-9)
    near = pad_axis(doubled, 1, 5, 6, "edge")
    out = sum((fall[t] * near[:, t : t + 2 * samples : 2] for t in range(12)), start=mx.array(0.0))
    return out.astype(x.dtype)

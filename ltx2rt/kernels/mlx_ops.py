"""The ops as MLX's own kernels compute them, in the dtype of x: what a GPU uses where ours is slower."""

from __future__ import annotations

import math

import mlx.core as mx

from ltx2rt.kernels import reference
from ltx2rt.kernels.reference import NeighborhoodRope, RopeTable
from ltx2rt.types import LinearWeight


def modulated_norm(
    x: mx.array,
    *,
    scale: mx.array | None,
    shift: mx.array | None,
    index: mx.array | None,
    norm: str,
    eps: float,
) -> mx.array:
    y = x
    if norm == "rms":
        y = mx.fast.rms_norm(x, None, eps)
    elif norm == "layer":
        y = mx.fast.layer_norm(x, None, None, eps)
    rows = 0 if index is None else index
    if scale is not None:
        y = y * (1 + scale.astype(x.dtype)[rows])
    if shift is not None:
        y = y + shift.astype(x.dtype)[rows]
    return y


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
    dtype = x.dtype
    if weight.rotation:
        x = reference.rotate_groups(x.astype(mx.float32), weight.rotation).astype(dtype)
    if weight.mode == "affine":
        out = mx.quantized_matmul(
            x,
            weight.values,
            weight.scale.astype(dtype),
            weight.zero.astype(dtype),
            transpose=True,
            group_size=weight.group_size,
            bits=weight.bits,
        )
    elif weight.mode == "e4m3":
        out = (x @ mx.from_fp8(weight.values, dtype).T) * weight.scale.astype(dtype)
    elif weight.mode != "dense":
        out = x @ reference.stored_weight(weight).astype(dtype).T
    else:
        out = x @ weight.values.astype(dtype).T
    if bias is not None:
        out = out + bias.astype(dtype)
    if activation == "gelu_tanh":
        out = reference.gelu_tanh(out)
    elif activation == "silu":
        out = out * mx.sigmoid(out)
    if gate is not None:
        out = out * gate.astype(dtype)[0 if gate_index is None else gate_index]
    return out if residual is None else residual + out


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
    dtype, head = q.dtype, q.shape[-1] // num_heads
    batch, q_tokens, width = q.shape
    if k.shape[1] == 0:
        return mx.zeros(q.shape, dtype)

    def heads_of(a: mx.array, heads: int) -> mx.array:
        return a.reshape(batch, -1, heads, head).transpose(0, 2, 1, 3)

    def prepared(a: mx.array, heads: int, norm: mx.array | None, rope: RopeTable | None) -> mx.array:
        if norm is not None:
            rows = a if norm.shape[0] == a.shape[-1] else a.reshape(batch, -1, heads, head)
            a = mx.fast.rms_norm(rows, norm.astype(dtype), norm_eps).reshape(a.shape)
        if rope is not None:
            a = reference.rotate(a.astype(mx.float32), rope, heads, rope_layout).astype(dtype)
        return heads_of(a, heads)

    mask = None if bias is None else mx.broadcast_to(bias, (batch, num_heads, q_tokens, k.shape[1])).astype(dtype)
    if causal:
        unseen = mx.arange(k.shape[1])[None] > mx.arange(q_tokens)[:, None] + (k.shape[1] - q_tokens)
        hidden = mx.where(unseen, -math.inf, 0.0).astype(dtype)
        mask = hidden if mask is None else mask + hidden
    out = mx.fast.scaled_dot_product_attention(
        prepared(q, num_heads, q_norm, rope_q),
        prepared(k, num_kv_heads, k_norm, rope_k),
        heads_of(v, num_kv_heads),
        scale=scale,
        mask=mask,
    ).transpose(0, 2, 1, 3)
    if gate_logits is not None:
        out = out * (2 * mx.sigmoid(gate_logits)).astype(dtype)[..., None]
    return out.reshape(batch, q_tokens, width)


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
    """MLX's attention of each row of queries to the columns of the rows and frames that it sees, masked."""
    dtype = q.dtype
    batch, frames, height, width, channels = q.shape
    head = channels // num_heads
    if q.size == 0 or k.size == 0 or key_frames.size == 0:
        return mx.zeros(q.shape, dtype)
    rows, columns = (
        reference.Windows(n, count, border) for n, count, border in zip((height, width), window, borders, strict=True)
    )
    k, v = (x[:, :, rows.cells][:, :, :, columns.cells] for x in (k, v))
    q_tables, k_tables = reference.window_tables(rope, rows, columns)

    def prepared(x: mx.array, norm: mx.array | None, tables: reference.AxisTables | None) -> mx.array:
        x = x.reshape(*x.shape[:4], num_heads, head)
        if norm is not None:
            x = mx.fast.rms_norm(x, norm.astype(dtype), norm_eps)
        return x if tables is None else reference.turned(x.astype(mx.float32), *tables).astype(dtype)

    q, k = prepared(q, q_norm, q_tables), prepared(k, k_norm, k_tables)
    v = v.reshape(*v.shape[:4], num_heads, head)
    seen_columns = mx.array(columns.dense)[:, None, None]  # (W, 1, 1, columns)
    results = []
    for frame in range(frames):
        at = mx.maximum(key_frames[frame], 0)
        k_frames, v_frames = k[:, at], v[:, at]
        for row in range(height):
            keys, values = (
                x[:, :, mx.array(rows.index[row])].transpose(0, 4, 1, 2, 3, 5).reshape(batch, num_heads, -1, head)
                for x in (k_frames, v_frames)
            )
            seen = (key_frames[frame] >= 0)[:, None, None] & mx.array(rows.valid[row])[:, None] & seen_columns
            out = mx.fast.scaled_dot_product_attention(
                q[:, frame, row].transpose(0, 2, 1, 3), keys, values, scale=scale, mask=seen.reshape(width, -1)
            )
            some = mx.any(key_frames[frame] >= 0)
            results.append(mx.where(some, out, 0).transpose(0, 2, 1, 3))
    return mx.stack(results, axis=1).reshape(*q.shape[:4], channels)


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
    dtype = x.dtype
    y = x if halo is None else mx.concatenate([halo, x], axis=1)
    if pixel_norm_eps is not None:
        y = mx.fast.rms_norm(y, None, pixel_norm_eps)
    if scale is not None:
        y = y * (1 + scale.astype(dtype)[:, None, None, None])
    if shift is not None:
        y = y + shift.astype(dtype)[:, None, None, None]
    if activation == "silu":
        y = y * mx.sigmoid(y)
    elif activation == "leaky_relu":
        y = mx.where(y >= 0, y, negative_slope * y)
    symmetric = [0, 0, 0]
    for axis in range(3):
        before, after = padding[axis]
        if before == after and padding_mode[axis] == "zeros":
            symmetric[axis] = before  # MLX pads these without a copy
        else:
            y = reference.pad_axis(y, axis + 1, before, after, padding_mode[axis])
    out = mx.conv_general(y, weight.astype(dtype), stride=stride, padding=symmetric, kernel_dilation=dilation)
    if bias is not None:
        out = out + bias.astype(dtype)
    return out if residual is None else out + residual


def antialiased_snake(x: mx.array, alpha: mx.array, beta: mx.array, rise: mx.array, fall: mx.array) -> mx.array:
    alpha, beta, rise, fall = (a.astype(x.dtype) for a in (alpha, beta, rise, fall))
    batch, samples, channels = x.shape
    near = reference.pad_axis(x, 1, 3, 3, "edge")
    zero = mx.array(0.0, x.dtype)
    even = sum((rise[11 - 2 * j] * near[:, j : j + samples] for j in range(6)), start=zero)
    odd = sum((rise[10 - 2 * j] * near[:, j + 1 : j + 1 + samples] for j in range(6)), start=zero)
    doubled = 2 * mx.stack([even, odd], axis=2).reshape(batch, 2 * samples, channels)
    doubled = doubled + mx.square(mx.sin(doubled * mx.exp(alpha))) / (mx.exp(beta) + 1e-9)
    near = reference.pad_axis(doubled, 1, 5, 6, "edge")
    return sum((fall[t] * near[:, t : t + 2 * samples : 2] for t in range(12)), start=zero)

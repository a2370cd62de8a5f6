"""Problems for the self-proof of a kernel variant: small awkward ones to compare, and one of a useful size to time."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.reference import NeighborhoodRope, RopeTable
from ltx2rt.kernels.variants import (
    CONV_FEW_OUTPUTS,
    FEW_ROWS,
    JOINED_IN_A_ROW,
    LEAST_DEPTH_IN_PARTS,
    MANY_QUERIES,
    ROTATED_AT_ONCE,
    STAGED_CODE_ROWS,
    AttentionVariant,
    ConvVariant,
    LinearVariant,
    NeighborhoodVariant,
    NormVariant,
    SnakeVariant,
    Variant,
    dtype_of,
    row_limits,
)
from ltx2rt.types import GGML_BLOCKS, Array, LinearWeight

# The arguments of an op's front-end.
Problem = dict[str, Any]


class _Values:
    """Random arrays of one problem, made on the CPU."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def array(self, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> mx.array:
        values = mx.array((scale * self._rng.standard_normal(shape)).astype(np.float32))
        return values.astype(dtype_of(dtype), stream=mx.cpu)

    def optional(self, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> mx.array | None:
        """None for an empty dtype."""
        return self.array(shape, dtype, scale) if dtype else None

    def integers(self, shape: tuple[int, ...], below: int) -> mx.array:
        return mx.array(self._rng.integers(0, below, shape).astype(np.int32))

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Array:
        return self._rng.uniform(low, high, shape)

    def bytes(self, shape: tuple[int, ...], low: int = 0, high: int = 256) -> Array:
        """uint8 below ``high``."""
        return self._rng.integers(low, high, shape).astype(np.uint8)

    def codes(self, shape: tuple[int, ...]) -> mx.array:
        """E4M3 codes without NaN."""
        codes = self._rng.integers(0, 256, shape).astype(np.uint8)
        return mx.array(np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8))

    def rope(self, axes: int, tokens: int, heads: int, head: int) -> RopeTable | None:
        """A table of |axes| axes; negative: shared by the heads."""
        if axes == 0:
            return None
        lanes = head // 2 if axes < 0 else heads * head // 2
        angles = self._rng.uniform(-3, 3, (11, max(1, lanes // abs(axes)))).astype(np.float32)
        index = self.integers((tokens, abs(axes)), 11)
        return RopeTable(mx.array(np.cos(angles)), mx.array(np.sin(angles)), index)


def check_problems(variant: Variant, *, metal: bool = True) -> list[Problem]:
    """Small problems that take every path through the kernels of a variant.

    Each way of reading and writing (whole vectors where four divides the sizes, single values where not, and one of
    each); several threadgroups along every axis of a grid, several simdgroups and several steps over the depth, with
    a rest, wherever the graphs of the published models have them (tests/metal/test_published_graphs.py).

    Args:
        variant: what to make them for.
        metal: with a problem of many weights, for a path that only the Metal kernels have.
    """
    if isinstance(variant, NormVariant):
        return [
            _norm(variant, (3,), 1032, 0),
            _norm(variant, (5,), 1030, 1, spare=3),
            _norm(variant, (2, 3), 1032, 2, unseen=1),
        ]
    if isinstance(variant, LinearVariant):
        limits = row_limits(variant.weight)
        rows = variant.rows or limits[-1] + 86
        if rows == STAGED_CODE_ROWS:
            rows = 150
        fewer = rows if rows <= 4 else max(rows - 3, rows // 2 + 1, limits[-1] + 1 if variant.rows == 0 else 0)
        # Sums that are made in parts are longer; the last part has another length than the others.
        longer, columns = 0, 136
        if variant.in_parts:
            longer, columns = LEAST_DEPTH_IN_PARTS, max(136, 4 * (JOINED_IN_A_ROW // rows + 1))
        problems = [
            _linear(variant, rows, longer + 544, columns, 0),
            _linear(variant, fewer, longer + 333, 69, 1),
            _linear(variant, rows, longer + 333, 136, 2, transposed=True),
            _linear(variant, fewer, longer + 544, 69, 3),
        ]
        if metal and variant.weight in FEW_ROWS and variant.rows == 0:  # weights of more than one slab of 16 MB
            problems.append(_linear(variant, fewer, 8192, 1088, 4))
        elif metal and variant.rotation and not longer:  # rows that several threadgroups rotate
            problems.append(_linear(variant, fewer, ROTATED_AT_ONCE + variant.rotation, 24, 4))
        return problems
    if isinstance(variant, AttentionVariant):
        queries = MANY_QUERIES + 37 if variant.many else 77
        # A row of k for several simdgroups, and one for a single one; heads share keys in twos.
        many, few = max(6, 768 // max(1, variant.head)), 4
        if variant.shared_kv:
            many *= 2
        # A causal query sees nothing where the keys are fewer; few of these are enough.
        keys = queries - 8 if variant.causal else 29
        return [_attention(variant, 2, many, queries, 70, 0), _attention(variant, 1, few, queries - 5, keys, 1)]
    if isinstance(variant, NeighborhoodVariant):
        height, width = variant.window
        return [
            _neighborhood(variant, 2, 2, (5, height + 2, width + 2), 0),
            _neighborhood(variant, 1, 1, (3, height, width + 9), 1),
        ]
    if isinstance(variant, ConvVariant):
        few, more = CONV_FEW_OUTPUTS - 12, CONV_FEW_OUTPUTS - 15
        if not variant.few_outputs:
            few, more = 2 * CONV_FEW_OUTPUTS + 8, 2 * CONV_FEW_OUTPUTS + 5
        return [
            _conv(variant, 20, few, 9, 0),
            _conv(variant, 17, more, 5, 1),
            _conv(variant, 20, more, 3, 2),
            _conv(variant, 17, few, 3, 3),
        ]
    if isinstance(variant, SnakeVariant):
        return [_snake(variant, 2, 250, 40, 0), _snake(variant, 1, 7, 17, 1)]
    raise TypeError(f"no problems for {variant}")


def timing_problem(variant: Variant) -> Problem:
    """About a millisecond of work for a large GPU."""
    if isinstance(variant, NormVariant):
        return _norm(variant, (2048,), 4096, 2)
    if isinstance(variant, LinearVariant):
        if variant.in_parts:
            return _linear(variant, variant.rows or 128, 2 * LEAST_DEPTH_IN_PARTS, 2048, 2)
        return _linear(variant, variant.rows or 1024, 2048, 2048, 2)
    if isinstance(variant, AttentionVariant):
        return _attention(variant, 1, 8, 1024 if variant.many else MANY_QUERIES, 1024, 2)
    if isinstance(variant, NeighborhoodVariant):
        return _neighborhood(variant, 1, 4, (12, 24, 32), 2)
    if isinstance(variant, ConvVariant):
        return _conv(variant, 128, CONV_FEW_OUTPUTS if variant.few_outputs else 128, 16, 2)
    if isinstance(variant, SnakeVariant):
        return _snake(variant, 1, 65536, 64, 2)
    raise TypeError(f"no problems for {variant}")


def exact_arguments(problem: Problem) -> Problem:
    """The same values as float32, so that the result is not rounded to a narrower dtype."""

    def widen(value: Any) -> Any:
        if isinstance(value, LinearWeight):
            scale, zero = widen(value.scale), widen(value.zero)
            return value._replace(values=widen(value.values), scale=scale, zero=zero, table=widen(value.table))
        if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating):
            return value.astype(mx.float32, stream=mx.cpu)
        return value

    return {name: widen(value) for name, value in problem.items()}


def _norm(
    variant: NormVariant, rows: tuple[int, ...], width: int, seed: int, *, spare: int = 0, unseen: int = 0
) -> Problem:
    """``spare``: rows of a wider array; ``unseen``: rows that do not lie at one distance from each other."""
    values = _Values(seed)
    every = (*rows[:-1], rows[-1] + unseen, width + spare)
    x = values.array(every, variant.dtype, 3.0)[..., : rows[-1], :width]
    table = 4 if variant.index else 1
    return {
        "x": x,
        "scale": values.optional((table, width), variant.scale),
        "shift": values.optional((table, width), variant.shift),
        "index": values.integers(rows, table) if variant.index else None,
        "norm": variant.norm,
    }


# Of packed weights: how many values of a row share a scale or a block.
_PACKED_UNITS = {"int8_rows": 1, "nvfp4": 16, "mxfp8": 32} | {
    mode: weights for mode, (weights, _) in GGML_BLOCKS.items()
}


def packed_weight(kind: str, columns: int, depth: int, seed: int, group_size: int = 16) -> LinearWeight:
    """A random weight (columns, depth), values about 1 / sqrt(depth), of a packed kind of `LinearVariant.weight`."""
    values = _Values(seed)
    size = depth**-0.5
    per_row = (size * values.uniform((columns,), 0.5, 1.5)).astype(np.float32)
    if kind == "int8_rows":
        return LinearWeight("int8", mx.array(values.bytes((columns, depth)).view(np.int8)), mx.array(per_row / 64))
    if kind == "nvfp4":
        scale = values.bytes((columns, depth // 16), 0x28, 0x40)  # 0.25 to 1.875
        return LinearWeight(
            "nvfp4", mx.array(values.bytes((columns, depth // 2))), mx.array(scale), mx.array(np.float32(size / 3))
        )
    if kind == "mxfp8":
        exponent = 118 + math.frexp(size)[1]
        scale = values.bytes((columns, depth // 32), exponent, exponent + 4)
        scale[::5, ::3] = 0
        return LinearWeight("mxfp8", values.codes((columns, depth)), mx.array(scale))
    if kind == "w4a8":
        table = np.sort(values.uniform((16,), -127, 127).astype(np.float32))
        scale = values.bytes((columns, depth // group_size), 0x28, 0x40)
        codes = mx.array(values.bytes((columns, depth // 2)))
        return LinearWeight(
            "w4a8", codes, mx.array(scale), mx.array(per_row / 64), group_size=group_size, table=mx.array(table)
        )
    weights, size_of_block = GGML_BLOCKS[kind]
    blocks = values.bytes((columns, depth // weights, size_of_block))

    def put_half(byte: int, largest: float) -> None:
        halves = values.uniform((*blocks.shape[:2], 1), 0.5 * largest, largest).astype(np.float16)
        blocks[..., byte : byte + 2] = halves.view(np.uint8)

    # What makes the largest values of a block about three times `size`.
    if kind == "q8_0":
        put_half(0, size / 42)
    elif kind == "q6_k":
        put_half(208, size / 1300)
    else:
        put_half(0, size / (150 if kind == "q4_k" else 300))
        put_half(2, size / 20)
    return LinearWeight(kind, mx.array(blocks.reshape(columns, -1)))  # type: ignore[arg-type]  # a mode, too


def _linear(
    variant: LinearVariant, rows: int, depth: int, columns: int, seed: int, *, transposed: bool = False
) -> Problem:
    """``transposed``: neighbours of a row of x are not neighbours in memory."""
    values = _Values(seed)
    unit = math.lcm(_PACKED_UNITS.get(variant.weight, 1), variant.groups or 1, variant.rotation or 1)
    depth = -(-depth // unit) * unit
    if variant.weight == "e4m3":
        scale = mx.array(0.37 / math.sqrt(depth))
        if variant.groups:
            scale = scale * mx.abs(values.array((columns,), "float32"))
        weight = LinearWeight("e4m3", values.codes((columns, depth)), scale)
    elif variant.weight in _PACKED_UNITS or variant.weight == "w4a8":
        weight = packed_weight(variant.weight, columns, depth, seed, variant.groups)
    elif variant.groups:
        dense = values.array((columns, depth), "float32", depth**-0.5)
        bits = int(variant.weight.removeprefix("int"))
        codes, scale, zero = mx.quantize(dense, group_size=variant.groups, bits=bits, stream=mx.cpu)
        group_type = dtype_of(variant.scale)
        scale, zero = (a.astype(group_type, stream=mx.cpu) for a in (scale, zero))
        weight = LinearWeight("affine", codes, scale, zero, variant.groups, bits)
    else:
        weight = LinearWeight("dense", values.array((columns, depth), variant.weight, depth**-0.5))
    table = 3 if variant.gate_index else 1
    x = values.array((depth, rows) if transposed else (rows, depth), variant.dtype)
    return {
        "x": mx.transpose(x, stream=mx.cpu) if transposed else x,
        "weight": weight._replace(rotation=variant.rotation, fits_half=variant.half),
        "bias": values.optional((columns,), variant.bias),
        "activation": variant.activation or None,
        "residual": values.array((rows, columns), variant.dtype) if variant.residual else None,
        "gate": values.optional((table, columns), variant.gate),
        "gate_index": values.integers((rows,), table) if variant.gate_index else None,
    }


def _attention(variant: AttentionVariant, batch: int, heads: int, queries: int, keys: int, seed: int) -> Problem:
    values, head = _Values(seed), variant.head
    kv_heads = heads // 2 if variant.shared_kv else heads
    bias = None
    if variant.bias:
        shape = (batch, 1, 1, keys) if seed else (1, heads, queries, keys)
        bias = values.array(shape, variant.bias)
        if seed == 0:  # the last query sees nothing
            hidden = mx.array(np.where(np.arange(queries) == queries - 1, -np.inf, 0.0).astype(np.float32))
            bias = mx.add(bias, hidden[:, None].astype(bias.dtype, stream=mx.cpu), stream=mx.cpu)

    def norm(kind: str, heads: int) -> mx.array | None:
        return values.optional(((heads if kind == "row" else 1) * head,), variant.dtype if kind else "")

    return {
        "q": values.array((batch, queries, heads * head), variant.dtype),
        "k": values.array((batch, keys, kv_heads * head), variant.dtype),
        "v": values.array((batch, keys, kv_heads * head), variant.dtype),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "q_norm": norm(variant.q_norm, heads),
        "k_norm": norm(variant.k_norm, kv_heads),
        "rope_q": values.rope(variant.rope_q, queries, heads, head),
        "rope_k": values.rope(variant.rope_k, keys, kv_heads, head),
        "rope_layout": variant.layout or "split",
        "bias": bias,
        "gate_logits": values.optional((batch, queries, heads), variant.gate),
        "causal": variant.causal,
    }


def _neighborhood(
    variant: NeighborhoodVariant, batch: int, heads: int, size: tuple[int, int, int], seed: int
) -> Problem:
    """Odd seeds: views of one array of projections, more frames than queries have, and frames that see less."""
    values, head, slots = _Values(seed), variant.head, variant.slots
    frames, height, width = size
    height, width = (max(n, window) for n, window in zip((height, width), variant.window, strict=True))
    channels, key_count = heads * head, max(frames, slots)
    if seed % 2:
        key_count += 2
        projections = values.array((batch, key_count, height, width, 3 * channels), variant.dtype)
        q, k, v = (projections[..., i * channels : (i + 1) * channels] for i in range(3))
        q = q[:, 1 : 1 + frames]
        key_frames = (np.arange(frames)[:, None] + 2 * np.arange(slots)) % key_count
        key_frames[-1] = -1  # the last frame sees nothing, the first one less than the others
        key_frames[0, 1:2] = -1
    else:
        q = values.array((batch, frames, height, width, channels), variant.dtype)
        k, v = (values.array((batch, key_count, height, width, channels), variant.dtype) for _ in range(2))
        first = np.clip(np.arange(frames) - slots // 2, 0, key_count - slots)
        key_frames = first[:, None] + np.arange(slots)
    rope = None
    if variant.rope:
        rows, columns = (n + window - 1 for n, window in zip((height, width), variant.window, strict=True))
        time, *others = variant.rope
        shapes = zip((frames, key_count, rows, columns), (time, time, *others), strict=True)
        angles = [values.uniform(shape, -3, 3) for shape in shapes]
        rope = NeighborhoodRope(*(mx.array(np.stack([np.cos(a), np.sin(a)]).astype(np.float32)) for a in angles))
    return {
        "q": q,
        "k": k,
        "v": v,
        "key_frames": mx.array(key_frames.astype(np.int32)),
        "num_heads": heads,
        "window": variant.window,
        "borders": variant.borders,
        "q_norm": values.optional((head,), variant.q_norm),
        "k_norm": values.optional((head,), variant.k_norm),
        "rope": rope,
    }


def _conv(variant: ConvVariant, channels: int, out_channels: int, outputs: int, seed: int) -> Problem:
    """``outputs`` along each axis that the kernel moves on, about."""
    values = _Values(seed)
    reach = [(k - 1) * d for k, d in zip(variant.kernel, variant.dilation, strict=True)]
    size = [outputs * s + r for s, r in zip(variant.stride, reach, strict=True)]
    padding = [
        (0, 0) if mode == "none" else (max(1, r), max(0, r - 1)) for mode, r in zip(variant.modes, reach, strict=True)
    ]
    batch = 2
    if seed % 2 == 0:
        x = values.array((batch, *size, channels), variant.dtype)
    else:  # channels that are not neighbours are copied first
        x = values.array((batch, channels, *size), variant.dtype).transpose(0, 2, 3, 4, 1)
    out = [(n + sum(p) - r - 1) // s + 1 for n, p, r, s in zip(size, padding, reach, variant.stride, strict=True)]
    halo_frames = 2 if variant.halo else 0
    out[0] = (size[0] + halo_frames + sum(padding[0]) - reach[0] - 1) // variant.stride[0] + 1
    taps = math.prod(variant.kernel) * channels
    return {
        "x": x,
        "weight": values.array((out_channels, *variant.kernel, channels), variant.weight, taps**-0.5),
        "bias": values.optional((out_channels,), variant.bias),
        "stride": variant.stride,
        "dilation": variant.dilation,
        "padding": tuple(padding),
        "padding_mode": tuple("zeros" if mode == "none" else mode for mode in variant.modes),
        "pixel_norm_eps": 1e-6 if variant.pixel_norm else None,
        "scale": values.optional((batch, channels), variant.scale),
        "shift": values.optional((batch, channels), variant.shift),
        "activation": variant.activation or None,
        "residual": values.array((batch, *out, out_channels), variant.dtype) if variant.residual else None,
        "halo": values.array((batch, halo_frames, *size[1:], channels), variant.dtype) if variant.halo else None,
    }


def _snake(variant: SnakeVariant, batch: int, samples: int, channels: int, seed: int) -> Problem:
    values = _Values(seed)
    return {
        "x": values.array((batch, samples, channels), variant.dtype),
        "alpha": values.array((channels,), variant.alpha, 0.5),
        "beta": values.array((channels,), variant.beta, 0.5),
        "rise": values.array((12,), variant.rise, 0.3),
        "fall": values.array((12,), variant.fall, 0.3),
    }

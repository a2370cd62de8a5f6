"""Computes something for many tokens part by part, so that only one part's intermediate values exist at a time.

What is computed for a token must not depend on the part it is in; then the bits do not depend on the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from ltx2rt.kernels import RopeTable

# Parts begin at multiples of this, so that the kernels' blocks of rows stay whole.
_GRAIN = 192


def token_parts(tokens: int, limit: int | None) -> list[slice]:
    """Parts of at most ``limit`` tokens (but at least the grain) and nearly equal length; None: one part."""
    if limit is None or tokens <= limit:
        return [slice(0, tokens)]
    most = max(_GRAIN, limit // _GRAIN * _GRAIN)
    count = -(-tokens // most)
    length = -(-tokens // (count * _GRAIN)) * _GRAIN
    return [slice(start, min(start + length, tokens)) for start in range(0, tokens, length)]


def with_part(whole: mx.array, part: mx.array, where: slice) -> mx.array:
    """``whole`` (B, T, D) with other values in the tokens ``where``; in the same memory if nobody else holds it."""
    return mx.slice_update(whole, part, mx.array([where.start], dtype=mx.int32), axes=[1])


def joined(parts: Sequence[slice], compute: Callable[[slice], mx.array]) -> mx.array:
    """(B, T, D): ``compute`` of every part, side by side. Several parts are evaluated one after the other."""
    if len(parts) == 1:
        return compute(parts[0])
    whole: mx.array | None = None
    for where in parts:
        part = compute(where)
        mx.eval(part)
        if whole is None:
            whole = mx.zeros((part.shape[0], parts[-1].stop, part.shape[2]), dtype=part.dtype)
        whole = with_part(whole, part, where)
        mx.eval(whole)
    assert whole is not None
    return whole


def rope_part(table: RopeTable | None, where: slice) -> RopeTable | None:
    """The rotary table of some of the tokens."""
    return None if table is None else table._replace(index=table.index[..., where, :])


def bias_part(bias: mx.array | None, where: slice) -> mx.array | None:
    """The score bias (B, 1, Tq or 1, Tk) of some of the queries."""
    return bias if bias is None or bias.shape[2] == 1 else bias[:, :, where]

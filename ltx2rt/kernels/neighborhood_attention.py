"""Attention within 3-D windows: q/k RMSNorm, rotary embedding, softmax over the window's keys."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.host import from_numbers
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.reference import NeighborhoodRope
from ltx2rt.kernels.selection import Implementation, ext, spread
from ltx2rt.kernels.variants import NeighborhoodVariant
from ltx2rt.types import Array


def neighborhood_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    key_frames: mx.array,
    *,
    num_heads: int,
    window: tuple[int, int],
    borders: tuple[str, str] = ("shift", "shift"),
    q_norm: mx.array | None = None,
    k_norm: mx.array | None = None,
    norm_eps: float = 1e-6,
    rope: NeighborhoodRope | None = None,
    scale: float | None = None,
) -> mx.array:
    """Multi-head attention of every cell of a volume to a window of cells around it, in frames that are listed.

    The keys of the query at (t, h, w) are those of k at (s, i, j) for every s >= 0 of ``key_frames[t]``, i of the Kh
    rows and j of the Kw columns of its window; one softmax over all of them. Borders say where a window near an edge
    lies:

    - ``shift``: K cells inside, from ``clamp(h - K // 2, 0, H - K)`` on;
    - ``mask``: cells ``h - K // 2`` to ``h - K // 2 + K - 1``, those outside left out;
    - ``replicate``: the same cells; one outside has the key and value of the nearest cell of the volume, but the rotary
      position of where it is (-1, -2, ...; H, H + 1, ...).

    Args:
        q: (B, T, H, W, N*K) float32 | float16 | bfloat16; K a multiple of 16 up to 256. Views of one array are
            read in place.
        k: (B, S, H, W, N*K), same dtype. S need not be T: frames of other streams may follow.
        v: (B, S, H, W, N*K), same dtype.
        key_frames: (T, J) int32, frames of k in [0, S) that the queries of a frame see, -1: none. A frame that stands
            there twice counts twice.
        num_heads: N.
        window: (Kh, Kw). With ``shift`` at most H or W.
        borders: of height and width.
        q_norm: RMSNorm weight (K,) of each head, any float dtype.
        k_norm: the same for k.
        norm_eps: added to the mean square.
        rope: angles of `neighborhood_rope`; 2 * (Ft + Fh + Fw) = K. None: nothing is rotated.
        scale: of the scores; default K**-0.5.

    Returns:
        (B, T, H, W, N*K), dtype of q. Norms, rotation, softmax and sums are float32; one rounding on store.
        Where the processor multiplies pairs of bfloat16, bfloat16 inputs after norm and rotation, and the softmax
        weights, are rounded to bfloat16 before they are multiplied. A query that sees no key gives zeros.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.
        RuntimeError: key_frames holds a frame that k does not have; when built if the values are known by then, else
            when evaluated.

    Source: the decoder's attention of Lightricks/LTX-2 @ v1.3.0; its windows in time come from the caller.
    """
    if scale is None:
        scale = max(1, q.shape[-1] // max(1, num_heads)) ** -0.5
    optional = (q_norm, k_norm, *(rope or (None,) * 4))
    present = tuple(a is not None for a in optional)

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.neighborhood_attention if chosen == "mlx" else reference.neighborhood_attention

        def graph(q: mx.array, k: mx.array, v: mx.array, key_frames: mx.array, *others: mx.array) -> mx.array:
            q_norm, k_norm, *tables = spread(others, present)
            return formula(
                q,
                k,
                v,
                key_frames,
                num_heads=num_heads,
                window=window,
                borders=borders,
                q_norm=q_norm,
                k_norm=k_norm,
                norm_eps=norm_eps,
                rope=reference.neighborhood_rope(*tables),
                scale=scale,
            )

        if ext is None:
            return graph(q, k, v, key_frames, *(a for a in optional if a is not None))
        made: mx.array = ext.neighborhood_attention(
            q,
            k,
            v,
            key_frames,
            num_heads=num_heads,
            window=window,
            borders=borders,
            q_norm=q_norm,
            k_norm=k_norm,
            norm_eps=norm_eps,
            rope=rope,
            scale=scale,
            reference=graph,
            use_reference=chosen not in ("kernel", "fenced"),
            fenced=chosen == "fenced",
        )
        return made

    return built(
        neighborhood_attention,
        build,
        lambda: NeighborhoodVariant.of(q, num_heads, key_frames, window, borders, q_norm, k_norm, rope),
    )


def neighborhood_rope(
    q_times: Sequence[float] | Array,
    k_times: Sequence[float] | Array,
    size: tuple[int, int],
    window: tuple[int, int],
    *,
    lanes: tuple[int, int, int] = (16, 24, 24),
    base: float = 10000.0,
) -> NeighborhoodRope:
    """The rotary tables of `neighborhood_attention`, computed on the host.

    Args:
        q_times: (T,) position in time of each frame of q; any numbers.
        k_times: (S,) the same of k.
        size: (H, W).
        window: (Kh, Kw).
        lanes: of a head for time, height and width, even numbers; together the head size.
        base: pair j of an axis with d lanes turns by position * base**(-2j / d).

    Returns:
        Tables in float32. Frequencies are float64 rounded to float32, angles their float32 product with the position.
    """

    def table(positions: Sequence[float] | Array, d: int) -> mx.array:
        frequencies = (base ** (-2.0 * np.arange(d // 2) / d)).astype(np.float32)
        angles = from_numbers(positions, np.float32)[:, None] * frequencies
        wide = angles.astype(np.float64)
        return mx.array(np.stack([np.cos(wide), np.sin(wide)]).astype(np.float32))

    height, width = (np.arange(n + count - 1) - count // 2 for n, count in zip(size, window, strict=True))
    time_lanes, height_lanes, width_lanes = lanes
    return NeighborhoodRope(
        table(q_times, time_lanes), table(k_times, time_lanes), table(height, height_lanes), table(width, width_lanes)
    )


def first_frames(frames: Array, window: int, count: int) -> Array:
    """Where the windows of some frames of a clip of ``count`` frames begin; they are shifted inward at its ends."""
    first: Array = np.clip(frames - window // 2, 0, max(0, count - window))
    return first


def shifted_frames(frames: int, window: int) -> mx.array:
    """key_frames (T, window) int32 for windows of consecutive frames that are shifted inward at both ends.

    Args:
        frames: T, at least ``window``.
        window: frames that each query sees.

    Raises:
        ValueError: there are fewer frames than a window has.
    """
    if not 1 <= window <= frames:
        raise ValueError(f"[neighborhood_attention] a window of {window} frames does not fit into {frames} frames.")
    first = first_frames(np.arange(frames), window, frames)
    return mx.array((first[:, None] + np.arange(window)).astype(np.int32))

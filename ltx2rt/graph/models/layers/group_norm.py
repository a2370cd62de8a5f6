"""Group normalisation in plain MLX, one frame at a time."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    *,
    groups: int,
    eps: float,
    finish: Callable[[mx.array, slice], mx.array] | None = None,
) -> mx.array:
    """GroupNorm with affine parameters; statistics over frames, height, width and the channels of a group.

    Only one frame's float32 arrays are there at once, with the bits of all frames together.

    Args:
        x: (B, F, H, W, C), any float dtype.
        weight: (C,), any float dtype.
        bias: (C,), any float dtype.
        groups: divides C.
        eps: added to the variance.
        finish: what becomes of each normed frame (B, 1, H, W, C) float32, given which of the frames it is.

    Returns:
        Shape of x; float32, or as ``finish`` has it.

    Source: torch.nn.GroupNorm.
    """
    batch, frames, height, width, channels = x.shape
    pictures = [slice(frame, frame + 1) for frame in range(frames)]

    def grouped(picture: slice) -> mx.array:
        return x[:, picture].astype(mx.float32).reshape(batch, 1, height, width, groups, channels // groups)

    def mean(of: Callable[[mx.array], mx.array]) -> mx.array:
        means = []
        for picture in pictures:
            means.append(_picture_mean(of(grouped(picture))))
            mx.eval(means[-1])
        return mx.mean(mx.concatenate(means, axis=1), axis=1, keepdims=True)

    centre = mean(lambda y: y)
    scale = mx.rsqrt(mean(lambda y: mx.square(y - centre)) + eps)
    weight, bias = weight.astype(mx.float32), bias.astype(mx.float32)
    normed = []
    for picture in pictures:
        y = ((grouped(picture) - centre) * scale).reshape(batch, 1, height, width, channels) * weight + bias
        normed.append(y if finish is None else finish(y, picture))
        mx.eval(normed[-1])
        del y
    out = mx.concatenate(normed, axis=1) if frames > 1 else normed[0]
    mx.eval(out)
    return out


def _picture_mean(y: mx.array) -> mx.array:
    """Mean of each group of each picture, one axis after the other so that no long float32 sum builds up."""
    for axis in (5, 3, 2):
        y = mx.mean(y, axis=axis, keepdims=True)
    return y

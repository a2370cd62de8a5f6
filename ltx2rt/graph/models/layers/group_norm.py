"""Group normalisation over a whole clip, two passes in float32."""

from __future__ import annotations

import mlx.core as mx


def group_norm(x: mx.array, weight: mx.array, bias: mx.array, *, groups: int, eps: float) -> mx.array:
    """GroupNorm with affine parameters; statistics over frames, height, width and the channels of a group.

    Args:
        x: (B, F, H, W, C), any float dtype.
        weight: (C,), any float dtype.
        bias: (C,), any float dtype.
        groups: divides C.
        eps: added to the variance.

    Returns:
        Shape of x, float32.

    Source: torch.nn.GroupNorm.
    """
    batch, frames, height, width, channels = x.shape
    y = x.astype(mx.float32).reshape(batch, frames, height, width, groups, channels // groups)
    y = y - _group_mean(y)
    y = y * mx.rsqrt(_group_mean(mx.square(y)) + eps)
    return y.reshape(x.shape) * weight.astype(mx.float32) + bias.astype(mx.float32)


def _group_mean(y: mx.array) -> mx.array:
    """Mean over all axes but batch and group, one axis after the other so that no long float32 sum builds up."""
    for axis in (5, 3, 2, 1):
        y = mx.mean(y, axis=axis, keepdims=True)
    return y

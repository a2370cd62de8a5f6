"""Attention weights between the tokens of a target and those that conditioning appends."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.precision import Float32Array


def extend_attention_mask(
    existing: Float32Array | None,
    *,
    batch: int,
    target_tokens: int,
    existing_tokens: int,
    new_tokens: int,
    strength: ArrayLike | None,
) -> Float32Array | None:
    """The mask after appending a group of tokens; groups that were appended separately do not see each other.

    Args:
        existing: (B, N, N) weights in [0, 1], or None when all existing tokens see each other.
        batch: B.
        target_tokens: how many of the first tokens belong to the target.
        existing_tokens: N.
        new_tokens: M.
        strength: weight between new and target tokens in both directions: a number, (M,), (1, M) or (B, M); None
            leaves attention full if there is no mask yet and means 1 if there is one.

    Returns:
        (B, N + M, N + M) float32, or None for full attention.

    Raises:
        UsageError: if ``strength`` has another shape or values outside [0, 1].

    Source: Lightricks/LTX-2 ltx_core/conditioning/mask_utils.py @ v1.2.0.
    """
    if strength is None:
        if existing is None:
            return None
        strength = 1.0
    weights = np.asarray(strength, np.float32)
    if weights.ndim > 2 or weights.shape not in ((), (new_tokens,), (1, new_tokens), (batch, new_tokens)):
        raise UsageError(
            f"Attention strengths for {new_tokens} new tokens and batch {batch} must be a number, ({new_tokens},) or "
            f"({batch}, {new_tokens}), got shape {weights.shape}."
        )
    if not ((weights >= 0) & (weights <= 1)).all():
        raise UsageError(
            f"Attention strengths must be within [0, 1], got values from {weights.min()} to {weights.max()}."
        )
    cross = np.broadcast_to(weights, (batch, new_tokens))
    total = existing_tokens + new_tokens
    mask = np.zeros((batch, total, total), np.float32)
    mask[:, :existing_tokens, :existing_tokens] = 1 if existing is None else existing
    mask[:, existing_tokens:, existing_tokens:] = 1
    mask[:, :target_tokens, existing_tokens:] = cross[:, None, :]
    mask[:, existing_tokens:, :target_tokens] = cross[:, :, None]
    return mask


def mask_video_to_tokens(mask: Float32Array, shape: VideoLatentShape) -> Float32Array:
    """A mask video reduced to one weight per latent token: area average in space, group average in time.

    The first frame stands alone, as in the video VAE; the others are averaged in equal groups.

    Args:
        mask: (B, F, H, W) float32 in [0, 1], pixels.
        shape: latent grid of the reference that the mask belongs to.

    Returns:
        (B, shape.tokens) float32.

    Raises:
        UsageError: if the frames cannot be divided into the latent frames.

    Source: Lightricks/LTX-2 ltx_pipelines/iclora_utils.py @ v1.2.0.
    """
    if mask.ndim != 4:
        raise UsageError(f"A mask video must be (B, F, H, W), got shape {mask.shape}.")
    reduced = _area_average(_area_average(mask, 2, shape.height), 3, shape.width)
    frames, later = mask.shape[1], shape.frames - 1
    if later == 0:
        reduced = reduced[:, :1]
    else:
        if frames == 1 or (frames - 1) % later:
            raise UsageError(
                f"A mask video for {shape.frames} latent frames needs {later}*k + 1 frames, got {frames}; "
                "use as many frames as the reference video has."
            )
        groups = reduced[:, 1:].reshape(mask.shape[0], later, -1, shape.height, shape.width)
        reduced = np.concatenate([reduced[:, :1], groups.mean(axis=2)], axis=1)
    return reduced.reshape(mask.shape[0], -1).astype(np.float32)


def _area_average(values: Float32Array, axis: int, size: int) -> Float32Array:
    """Average along ``axis`` over ``size`` windows that cover it, from floor(i*n/size) to ceil((i+1)*n/size)."""
    length = values.shape[axis]
    windows = [
        values.take(range(i * length // size, -(-(i + 1) * length // size)), axis=axis).mean(axis=axis)
        for i in range(size)
    ]
    return np.stack(windows, axis=axis)

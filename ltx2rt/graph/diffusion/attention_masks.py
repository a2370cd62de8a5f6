"""Attention weights between the tokens of a target and those that conditioning appends."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.precision import Float32Array


@dataclass(frozen=True, eq=False)
class AttentionLinks:
    """How strongly the tokens of a state see each other, told by groups: long clips have no room for all pairs.

    Tokens of a group see each other fully. The target and a group that was appended see each other with the strengths
    of the group's tokens; groups do not see each other.

    Attributes:
        groups: (T,) int32; 0: the target, and what was appended before any strength was asked for.
        is_target: (T,) bool.
        strengths: (B, T) float32 in [0, 1], 1 in group 0.
    """

    groups: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    strengths: Float32Array

    def of(self, tokens: NDArray[np.int64]) -> AttentionLinks:
        """The links between some of the tokens."""
        return AttentionLinks(self.groups[tokens], self.is_target[tokens], self.strengths[:, tokens])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, T, T), of all pairs."""
        batch, tokens = self.strengths.shape
        return batch, tokens, tokens

    @property
    def key(self) -> Hashable:
        """Links with the same values have the same."""
        values = (self.groups, self.is_target, self.strengths)
        return self.shape, hashlib.blake2b(b"".join(array.tobytes() for array in values)).digest()

    def rows(self, part: slice) -> Float32Array:
        """(B, n, T) weights in [0, 1] of some tokens to all; 0 = blocked."""
        # What a token is to a token of the target: its strength, or nothing where it was not appended with one.
        seen = np.where(self.groups > 0, self.strengths, np.float32(0))
        same = (self.groups[part, None] == self.groups).astype(np.float32)
        to_appended = self.is_target[part, None] * seen[:, None, :]
        to_target = seen[:, part, None] * self.is_target
        result: Float32Array = same + to_appended + to_target
        return result

    def dense(self) -> Float32Array:
        """(B, T, T), all rows."""
        return self.rows(slice(None))


def extend_attention(
    existing: AttentionLinks | None,
    *,
    batch: int,
    target_tokens: int,
    existing_tokens: int,
    new_tokens: int,
    strength: ArrayLike | None,
) -> AttentionLinks | None:
    """The links after appending a group of tokens; groups that were appended separately do not see each other.

    Args:
        existing: of the tokens that are there, or None when all see each other.
        batch: B.
        target_tokens: how many of the first tokens belong to the target.
        existing_tokens: N.
        new_tokens: M.
        strength: weight between new and target tokens in both directions: a number, (M,), (1, M) or (B, M); None
            leaves attention full if it is yet and means 1 if it is not.

    Returns:
        Links of N + M tokens, or None for full attention.

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
    if existing is None:
        existing = AttentionLinks(
            np.zeros(existing_tokens, np.int32),
            np.arange(existing_tokens) < target_tokens,
            np.ones((batch, existing_tokens), np.float32),
        )
    group = existing.groups.max(initial=0) + 1
    return AttentionLinks(
        np.append(existing.groups, np.full(new_tokens, group, np.int32)),
        np.append(existing.is_target, np.zeros(new_tokens, bool)),
        np.concatenate([existing.strengths, np.broadcast_to(weights, (batch, new_tokens))], axis=1),
    )


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

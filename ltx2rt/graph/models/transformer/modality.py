"""What the caller hands the transformer: one `Modality` per stream and the perturbations of each sample."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array

PerturbationKind = Literal["skip_video_self_attn", "skip_audio_self_attn", "skip_a2v_cross_attn", "skip_v2a_cross_attn"]


class AttentionRows(Protocol):
    """Strengths of self-attention links for so many tokens that they are made a few rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, T, T)."""

    @property
    def key(self) -> Hashable:
        """Equal strengths have the same."""

    def rows(self, part: slice) -> Array:
        """(B, n, T) in [0, 1]."""


@dataclass(frozen=True)
class Modality:
    """One stream (video or audio) of a transformer call.

    Attributes:
        latent: (B, T, C) patchified tokens, noisy and appended conditioning ones.
        sigma: (B,) noise level; 0 for a frozen stream.
        timesteps: (B, T) denoise mask * sigma of each token.
        positions: (B, P, T, 2) [start, end) of each token: time in seconds, then (video, P = 3) height and width in
            pixels.
        context: (B, S, D) text context.
        context_mask: (B, S), integer (1 = keep, 0 = hide) or float (added to the scores); None: all tokens are seen.
        attention_mask: (B, Tq, Tk) in [0, 1], or with axes of length 1 that broadcast: strength of each self-attention
            link; or what makes rows of it; None: full strength.
        keyframes_mask: (B, T), > 0 on tokens that stand for a single pixel frame; read only by models that have a
            keyframe embedding.
        enabled: False: the stream is not updated but still serves as keys and values of the other one.
    """

    latent: mx.array
    sigma: Array
    timesteps: Array
    positions: Array
    context: mx.array
    context_mask: Array | None = None
    attention_mask: Array | AttentionRows | None = None
    keyframes_mask: Array | None = None
    enabled: bool = True


@dataclass(frozen=True)
class Perturbation:
    """Something a guidance pass leaves out: which operation, in which blocks.

    Attributes:
        kind: ``skip_video_self_attn`` and ``skip_audio_self_attn`` put the values in the place of the attention
            output; ``skip_a2v_cross_attn`` and ``skip_v2a_cross_attn`` drop the exchange between the streams.
        blocks: indices of the blocks; None: all.

    Raises:
        UsageError: for an unknown kind.

    Source: Lightricks/LTX-2 ltx_core/guidance/perturbations.py @ v1.2.0.
    """

    kind: PerturbationKind
    blocks: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(PerturbationKind):
            raise UsageError(f"unknown perturbation {self.kind!r}; use one of {', '.join(get_args(PerturbationKind))}.")

    def applies_to(self, kind: PerturbationKind, block: int) -> bool:
        return self.kind == kind and (self.blocks is None or block in self.blocks)


@dataclass(frozen=True)
class ModelPass:
    """One of several passes over the same latents: what it reads and what it leaves out.

    Attributes:
        video_context, audio_context: (B, S, D) of the prompt; None where the stream is absent. Passes with the same
            prompt give the same arrays, by identity.
        perturbations: left out in every sample.
    """

    video_context: mx.array | None
    audio_context: mx.array | None
    perturbations: tuple[Perturbation, ...] = ()


def kept_samples(
    perturbations: Sequence[Sequence[Perturbation]] | None, kind: PerturbationKind, block: int, batch: int
) -> Array:
    """(B,) bool: the samples whose operation ``kind`` is carried out in ``block``."""
    if perturbations is None:
        return np.ones(batch, dtype=bool)
    return from_numbers([not any(p.applies_to(kind, block) for p in sample) for sample in perturbations], dtype=bool)


def check_modality(name: str, modality: Modality, *, channels: int, axes: int, context_width: int) -> None:
    """Check that the fields of one modality fit together and fit the model.

    Raises:
        UsageError: naming the field, the shape seen and the shape expected.
    """

    def require(field: str, seen: Sequence[int], expected: Sequence[int]) -> None:
        if tuple(seen) != tuple(expected):
            raise UsageError(f"{name}.{field} has shape {tuple(seen)}; it must be {tuple(expected)}.")

    if modality.latent.ndim != 3:
        raise UsageError(f"{name}.latent has shape {modality.latent.shape}; it must be (B, T, {channels}).")
    batch, tokens, _ = modality.latent.shape
    require("latent", modality.latent.shape, (batch, tokens, channels))
    require("sigma", modality.sigma.shape, (batch,))
    require("timesteps", modality.timesteps.shape, (batch, tokens))
    require("positions", modality.positions.shape, (batch, axes, tokens, 2))
    require("context", modality.context.shape, (batch, *modality.context.shape[1:2], context_width))
    if modality.context_mask is not None:
        require("context_mask", modality.context_mask.shape, modality.context.shape[:2])
    if modality.keyframes_mask is not None:
        require("keyframes_mask", modality.keyframes_mask.shape, (batch, tokens))
    mask = modality.attention_mask
    full = (batch, tokens, tokens)
    if mask is not None and (len(mask.shape) != 3 or any(mask.shape[axis] not in (1, full[axis]) for axis in range(3))):
        raise UsageError(f"{name}.attention_mask has shape {mask.shape}; it must broadcast to {full}.")


def check_perturbations(perturbations: Sequence[Sequence[Perturbation]] | None, batch: int) -> None:
    """Check that there is one list of perturbations per sample.

    Raises:
        UsageError: if the count differs from the batch size.
    """
    if perturbations is not None and len(perturbations) != batch:
        raise UsageError(f"perturbations are given for {len(perturbations)} samples; the batch has {batch}.")

"""Conditioning: what a state must keep or look at, as items that turn one state into another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.attention_masks import extend_attention
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.latent_state import AudioTarget, KeyframeSlots, LatentState, VideoTarget
from ltx2rt.graph.diffusion.patchify import patchify_video
from ltx2rt.graph.diffusion.positions import audio_positions, frames_to_seconds, video_pixel_bounds, video_positions
from ltx2rt.graph.diffusion.precision import Float32Array, round_to
from ltx2rt.graph.diffusion.windows import evenly_spaced
from ltx2rt.spelling import spelled

_GAP_BEFORE_CLIP_S = np.float32(0.04)

Target = TypeVar("Target", bound="VideoTarget | AudioTarget", contravariant=True)


class ConditioningError(UsageError):
    """A condition does not fit the video or audio it is meant for."""


class ConditioningItem(Protocol[Target]):
    """Something applied to the state of a stream before noise is added."""

    def apply(self, state: LatentState, target: Target) -> LatentState:
        """The state with this condition; tokens are only ever appended at the end."""
        ...


def apply_conditioning(state: LatentState, target: Target, items: Iterable[ConditioningItem[Target]]) -> LatentState:
    """The state after all items, in order."""
    for item in items:
        state = item.apply(state, target)
    return state


@dataclass(frozen=True, eq=False)
class ReplaceLatentFrames:
    """Keep given latent frames in place of generated ones (image-to-video, first frame at index 0).

    Attributes:
        latent: (B, f, H, W, C) normalised latent of the target's height and width.
        strength: 1 keeps the frames exactly, 0 ignores them.
        latent_index: latent frame at which they begin.
    """

    latent: Float32Array
    strength: float = 1.0
    latent_index: int = 0

    def apply(self, state: LatentState, target: VideoTarget) -> LatentState:
        """Only the clean latent and the mask change.

        Raises:
            ConditioningError: if the frames do not fit the target.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/latent_cond.py @ v1.2.0.
        """
        _check_strength(self.strength)
        shape = target.shape
        _check_latent(self.latent, shape.batch, shape.channels)
        if self.latent.shape[2:4] != (shape.height, shape.width):
            raise ConditioningError(
                f"The image latent is {self.latent.shape[2]}x{self.latent.shape[3]} cells but the video "
                f"{shape.height}x{shape.width}; encode the image at the size of this stage."
            )
        frames = self.latent.shape[1]
        if not 0 <= self.latent_index <= shape.frames - frames:
            raise ConditioningError(
                f"{frames} latent frame(s) at latent index {self.latent_index} do not fit a video of {shape.frames}; "
                f"use an index from 0 to {shape.frames - frames}."
            )
        start = self.latent_index * shape.tokens_per_frame
        region = slice(start, start + frames * shape.tokens_per_frame)
        clean, mask = state.clean_latent.copy(), state.denoise_mask.copy()
        clean[:, region] = round_to(patchify_video(self.latent), state.dtype)
        mask[:, region] = 1.0 - self.strength
        return replace(state, clean_latent=clean, denoise_mask=mask)


@dataclass(frozen=True, eq=False)
class ReplaceSound:
    """Keep given latents of sound in place of generated ones: what a window has from the one before.

    Attributes:
        tokens: (B, n, features) normalised.
        strength: 1 keeps them exactly, 0 ignores them.
        index: latent at which they begin.
    """

    tokens: Float32Array
    strength: float = 1.0
    index: int = 0

    def apply(self, state: LatentState, target: AudioTarget) -> LatentState:
        """Only the clean latent and the mask change.

        Raises:
            ConditioningError: if the latents do not fit the target.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types @ 1.4.
        """
        _check_strength(self.strength)
        shape, given = target.shape, self.tokens.shape
        if len(given) != 3 or (given[0], given[2]) != (shape.batch, shape.features):
            raise ConditioningError(
                f"Latents of sound that are kept must be ({shape.batch}, n, {shape.features}), got shape {given}."
            )
        if not 0 <= self.index <= shape.frames - given[1]:
            raise ConditioningError(
                f"{given[1]} latent(s) of sound at index {self.index} do not fit a sound of {shape.frames}; use an "
                f"index from 0 to {shape.frames - given[1]}."
            )
        region = slice(self.index, self.index + given[1])
        clean, mask = state.clean_latent.copy(), state.denoise_mask.copy()
        clean[:, region] = round_to(self.tokens, state.dtype)
        mask[:, region] = 1.0 - self.strength
        return replace(state, clean_latent=clean, denoise_mask=mask)


@dataclass(frozen=True, eq=False)
class AppendKeyframe:
    """Show the model a frame (or a few) that belongs at a certain time, without fixing the tokens there.

    Attributes:
        latent: (B, f, h, w, C) normalised latent of the keyframe.
        frame_index: frame of the clip, counted in frames and not in latents.
        strength: 1 keeps the keyframe clean, 0 lets it be generated.
        num_pixel_frames: 1 when the latent holds a single frame; its tokens then span one frame of time.
    """

    latent: Float32Array
    frame_index: int
    strength: float = 1.0
    num_pixel_frames: int = 1

    def apply(self, state: LatentState, target: VideoTarget) -> LatentState:
        """Tokens are appended.

        Raises:
            ConditioningError: if the keyframe lies outside the clip or has other channels or batch.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/keyframe_cond.py @ v1.2.0.
        """
        _check_strength(self.strength)
        if not 0 <= self.frame_index < target.pixel_frames:
            raise ConditioningError(
                f"Keyframe index {self.frame_index} is outside the clip of {target.pixel_frames} frames; "
                f"use 0 to {target.pixel_frames - 1}."
            )
        bounds = video_pixel_bounds(_shape_of(self.latent), target.scale, causal=self.frame_index == 0)
        bounds[:, 0] += np.float32(self.frame_index)
        if self.num_pixel_frames == 1:
            bounds[:, 0, :, 1] = bounds[:, 0, :, 0] + 1
        positions = frames_to_seconds(bounds, target.frame_rate)
        return _append_latent(state, target, self.latent, positions, self.strength)


@dataclass(frozen=True, eq=False)
class AppendReferenceVideo:
    """Show the model a whole reference video, as IC-LoRAs are trained to use it.

    Attributes:
        latent: (B, f, h, w, C) normalised latent of the reference.
        downscale: target size divided by reference size; positions are stretched to the target's.
        temporal_scale: target frame rate divided by reference frame rate.
        strength: 1 keeps the reference clean.
        prefix: so many of the first latent frames are left out; the others stay where they are.
    """

    latent: Float32Array
    downscale: int = 1
    temporal_scale: int = 1
    strength: float = 1.0
    prefix: int = 0

    def apply(self, state: LatentState, target: VideoTarget) -> LatentState:
        """Tokens are appended.

        Raises:
            ConditioningError: if a factor is below 1 or channels or batch differ.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/reference_video_cond.py @ v1.2.0.
        """
        _check_strength(self.strength)
        if self.downscale < 1 or self.temporal_scale < 1:
            raise ConditioningError(
                f"Reference scale factors must be at least 1, got downscale {self.downscale} and temporal scale "
                f"{self.temporal_scale}; check the metadata of the LoRA."
            )
        rate = target.frame_rate / self.temporal_scale
        positions = video_positions(_shape_of(self.latent), rate, target.scale)
        if self.temporal_scale != 1:
            # The first token lasts one frame of the target; moved back, both clips end at the same time.
            first_token = state.positions[:, :1, :1, 1:]
            shift = np.float32(self.temporal_scale - 1) * first_token
            positions[:, :1] = np.maximum(positions[:, :1] - shift, 0)
        positions[:, 1:] *= np.float32(self.downscale)
        left_out = self.prefix * self.latent.shape[2] * self.latent.shape[3]
        return _append_latent(state, target, self.latent[:, self.prefix :], positions[:, :, left_out:], self.strength)


@dataclass(frozen=True, eq=False)
class KeepMasked:
    """Keep the cells of a latent where a mask says so (inpainting).

    Attributes:
        latent: (B, F, H, W, C) normalised latent of the target's shape.
        mask: (B, F, H, W) in [0, 1]; 1 = keep, 0 = generate.
        strength: how firmly kept cells are kept.
    """

    latent: Float32Array
    mask: Float32Array
    strength: float = 1.0

    def apply(self, state: LatentState, target: VideoTarget) -> LatentState:
        """Only the clean latent and the mask change. Apply before items that append tokens.

        Raises:
            ConditioningError: if a shape differs from the target's, tokens were appended already, or the mask leaves
                [0, 1].

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/mask_cond.py @ v1.2.0.
        """
        _check_strength(self.strength)
        expected = target.shape.array_shape
        if self.latent.shape != expected or self.mask.shape != expected[:4]:
            raise ConditioningError(
                f"Mask conditioning needs a latent {expected} and a mask {expected[:4]}, got {self.latent.shape} and "
                f"{self.mask.shape}."
            )
        if not ((self.mask >= 0) & (self.mask <= 1)).all():
            raise ConditioningError(f"The mask must be within [0, 1], got {self.mask.min()} to {self.mask.max()}.")
        _check_nothing_appended(state, target)
        kept = self.mask.astype(np.float32).reshape(state.batch, -1)
        tokens = round_to(patchify_video(self.latent), state.dtype)
        clean = state.clean_latent * (1 - kept)[..., None] + tokens * kept[..., None]
        return replace(
            state,
            clean_latent=round_to(clean, state.dtype),
            denoise_mask=state.denoise_mask * (1 - kept) + np.float32(1.0 - self.strength) * kept,
        )


@dataclass(frozen=True)
class RegenerateTimeRange:
    """Generate only the tokens that overlap a time range and keep all others (retake); for video or audio.

    Attributes:
        start_s, end_s: the range in seconds, start included and end excluded.
    """

    start_s: float
    end_s: float

    def apply(self, state: LatentState, target: VideoTarget | AudioTarget) -> LatentState:
        """The mask is overwritten: 1 inside the range, 0 outside. Apply before items that append tokens.

        Raises:
            ConditioningError: if tokens were appended already.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/noise_mask_cond.py @ v1.2.0.
        """
        _check_nothing_appended(state, target)
        return replace(state, denoise_mask=self.inside(target).astype(np.float32))

    def inside(self, target: VideoTarget | AudioTarget) -> NDArray[np.bool_]:
        """(B, T): the tokens that overlap the range."""
        if isinstance(target, VideoTarget):
            time = video_positions(target.shape, target.frame_rate, target.scale)[:, 0]
        else:
            time = audio_positions(target.shape, target.scale)[:, 0]
        inside: NDArray[np.bool_] = (time[..., 1] > np.float32(self.start_s)) & (time[..., 0] < np.float32(self.end_s))
        return inside


@dataclass(frozen=True, eq=False)
class AppendReferenceAudio:
    """Show the model reference sound.

    Attributes:
        tokens: (B, R, features) normalised audio latent tokens.
        positions: (B, 1, R, 2) seconds; times before 0 put the reference ahead of the clip.
        strength: 1 keeps the reference clean.
    """

    tokens: Float32Array
    positions: Float32Array
    strength: float = 1.0

    def apply(self, state: LatentState, target: AudioTarget) -> LatentState:
        """Tokens are appended.

        Raises:
            ConditioningError: if shapes do not match each other or the state.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/reference_audio_cond.py @ v1.2.0.
        """
        _check_strength(self.strength)
        return append_tokens(
            state,
            target_tokens=target.shape.tokens,
            clean=self.tokens,
            positions=self.positions,
            denoise=1.0 - self.strength,
        )


def positions_before_clip(tokens: int, target: AudioTarget) -> Float32Array:
    """Positions (1, 1, tokens, 2) in seconds of reference sound that ends 0.04 s before the clip begins.

    Source: Lightricks/LTX-2 ltx_pipelines/dubit.py @ 1.4.
    """
    positions = audio_positions(replace(target.shape, frames=tokens, batch=1), target.scale)
    shifted: Float32Array = positions - positions[:, :, -1:, 1:] - _GAP_BEFORE_CLIP_S
    return shifted


@dataclass(frozen=True, eq=False)
class GeneratedKeyframes:
    """Single frames that the model generates besides the clip, for models with a keyframe embedding.

    Attributes:
        pixel_frames: frames of the clip at which they stand, strictly increasing.
        initial: (B, K, H, W, C) normalised latents to start from; zeros when None.
    """

    pixel_frames: tuple[int, ...]
    initial: Float32Array | None = None

    def apply(self, state: LatentState, target: VideoTarget) -> LatentState:
        """Tokens are appended, marked as keyframes and recorded, so that `generated_keyframes` finds them.

        Raises:
            ConditioningError: if the frames are not increasing or outside the clip, the initial latents have another
                shape, or slots were appended already.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/keyframe_slots.py @ v1.2.0.
        """
        frames, shape = self.pixel_frames, target.shape
        if not frames or any(b <= a for a, b in pairwise(frames)):
            raise ConditioningError(f"Generated keyframes need strictly increasing frame numbers, got {list(frames)}.")
        if frames[0] < 0 or frames[-1] >= target.pixel_frames:
            raise ConditioningError(
                f"Generated keyframes must lie within the clip of {target.pixel_frames} frames, got {list(frames)}; "
                f"use 0 to {target.pixel_frames - 1}."
            )
        if state.keyframe_slots is not None:
            raise ConditioningError("Generated keyframes were applied already; list all frames in one item.")
        expected = (state.batch, len(frames), shape.height, shape.width, shape.channels)
        if self.initial is not None and self.initial.shape != expected:
            raise ConditioningError(f"Initial keyframes must be {expected}, got shape {self.initial.shape}.")
        latent = np.zeros(expected, np.float32) if self.initial is None else self.initial
        slots = KeyframeSlots(frames, shape.tokens_per_frame, state.tokens)
        bounds = video_pixel_bounds(replace(shape, frames=len(frames), batch=state.batch), target.scale)
        starts = np.repeat(np.array(frames, np.float32), shape.tokens_per_frame)
        bounds[:, 0] = np.stack([starts, starts + 1], axis=-1)
        extended = append_tokens(
            state,
            target_tokens=shape.tokens,
            clean=np.zeros((state.batch, slots.stop_token - slots.first_token, shape.channels), np.float32),
            positions=frames_to_seconds(bounds, target.frame_rate),
            denoise=1.0,
            latent=patchify_video(latent),
            keyframe=True,
        )
        return replace(extended, keyframe_slots=slots)


@dataclass(frozen=True, eq=False)
class WithAttentionStrength:
    """Another item whose appended tokens and the target see each other only in part.

    Attributes:
        item: an item that appends tokens.
        strength: weight in [0, 1]: a number, or one per appended token as (M,) or (B, M).
    """

    item: AppendKeyframe | AppendReferenceVideo | AppendReferenceAudio
    strength: ArrayLike

    def apply(self, state: LatentState, target: VideoTarget | AudioTarget) -> LatentState:
        """The inner item is applied, then the attention mask is built.

        Raises:
            ConditioningError: if the inner item is for the other stream.
            UsageError: if the strengths do not fit the appended tokens.

        Source: Lightricks/LTX-2 ltx_core/conditioning/types/attention_strength_wrapper.py @ v1.2.0.
        """
        item: ConditioningItem[Any] = self.item
        if isinstance(item, AppendReferenceAudio) != isinstance(target, AudioTarget):
            raise ConditioningError(f"A {type(item).__name__} cannot condition a {type(target).__name__}.")
        extended = item.apply(state, target)
        attention = extend_attention(
            state.attention,
            batch=state.batch,
            target_tokens=target.shape.tokens,
            existing_tokens=state.tokens,
            new_tokens=extended.tokens - state.tokens,
            strength=self.strength,
        )
        return replace(extended, attention=attention)


def image_condition(latent: Float32Array, frame_index: int, strength: float) -> ReplaceLatentFrames | AppendKeyframe:
    """How pipelines use an image: frame 0 is replaced, any other frame is shown as an appended keyframe.

    Keyframe interpolation appends frame 0 as well; it builds `AppendKeyframe` itself.

    Args:
        latent: (B, 1, H, W, C) normalised latent of the image at the size of the stage.
        frame_index: frame of the clip.
        strength: 1 keeps the image exactly.
    """
    if frame_index == 0:
        return ReplaceLatentFrames(latent, strength)
    return AppendKeyframe(latent, frame_index, strength)


def evenly_spaced_keyframes(count: int, num_frames: int) -> tuple[int, ...]:
    """``count`` frames, 1 or more, between the first and the last of the clip, evenly spaced.

    Raises:
        ConditioningError: if the clip has fewer than ``count + 2`` frames.
    """
    if num_frames < count + 2:
        raise ConditioningError(
            f"{spelled('num_generated_keyframes')}: {count} between the first and the last frame need at least "
            f"{count + 2} frames, and the clip has {num_frames}; give fewer, or a longer clip."
        )
    return evenly_spaced(count, num_frames)


def reference_frame_indices(num_frames: int, temporal_scale: int) -> list[int]:
    """Frames of a reference video to keep for an IC-LoRA trained at ``1/temporal_scale`` of the frame rate."""
    return [0, *range(1, num_frames, temporal_scale)]


def append_tokens(
    state: LatentState,
    *,
    target_tokens: int,
    clean: NDArray[np.floating],
    positions: Float32Array,
    denoise: float,
    latent: NDArray[np.floating] | None = None,
    keyframe: bool = False,
) -> LatentState:
    """The state with tokens at its end; an existing attention mask lets them see the target but no other addition.

    Args:
        state: the state to extend.
        target_tokens: how many of its first tokens belong to the target.
        clean: (B, M, C) clean tokens.
        positions: (B, P, M, 2) float32.
        denoise: mask value of the new tokens.
        latent: (B, M, C) noisy tokens; zeros when None.
        keyframe: whether the tokens count as generated single frames.

    Raises:
        ConditioningError: if a shape does not match the state.
    """
    batch, new, channels = clean.shape
    expected_positions = (state.batch, state.positions.shape[1], new, 2)
    if (batch, channels) != (state.batch, state.latent.shape[2]) or positions.shape != expected_positions:
        raise ConditioningError(
            f"Appended tokens must be ({state.batch}, M, {state.latent.shape[2]}) with positions "
            f"{(state.batch, state.positions.shape[1], 'M', 2)}, got shapes {clean.shape} and {positions.shape}."
        )
    noisy = np.zeros(clean.shape, np.float32) if latent is None else round_to(latent, state.dtype)
    marks = state.keyframes_mask
    if marks is None and keyframe:
        marks = np.zeros_like(state.denoise_mask)
    if marks is not None:
        marks = np.concatenate([marks, np.full((batch, new), float(keyframe), np.float32)], axis=1)
    return replace(
        state,
        latent=np.concatenate([state.latent, noisy], axis=1),
        clean_latent=np.concatenate([state.clean_latent, round_to(clean, state.dtype)], axis=1),
        denoise_mask=np.concatenate([state.denoise_mask, np.full((batch, new), denoise, np.float32)], axis=1),
        positions=np.concatenate([state.positions, positions.astype(np.float32, copy=False)], axis=2),
        attention=extend_attention(
            state.attention,
            batch=batch,
            target_tokens=target_tokens,
            existing_tokens=state.tokens,
            new_tokens=new,
            strength=None,
        ),
        keyframes_mask=marks,
    )


def _append_latent(
    state: LatentState, target: VideoTarget, latent: Float32Array, positions: Float32Array, strength: float
) -> LatentState:
    _check_latent(latent, state.batch, state.latent.shape[2])
    return append_tokens(
        state,
        target_tokens=target.shape.tokens,
        clean=patchify_video(latent),
        positions=positions,
        denoise=1.0 - strength,
    )


def _shape_of(latent: Float32Array) -> VideoLatentShape:
    if latent.ndim != 5:
        raise ConditioningError(f"The latent of a condition must be (B, F, H, W, C), got shape {latent.shape}.")
    batch, frames, height, width, channels = latent.shape
    return VideoLatentShape(frames, height, width, batch, channels)


def _check_latent(latent: Float32Array, batch: int, channels: int) -> None:
    if latent.ndim != 5 or latent.shape[0] != batch or latent.shape[4] != channels:
        raise ConditioningError(
            f"The latent of a condition must be (B, F, H, W, C) with batch {batch} and {channels} channels, got shape "
            f"{latent.shape}."
        )


def _check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ConditioningError(f"A conditioning strength must be within [0, 1], got {strength}.")


def _check_nothing_appended(state: LatentState, target: VideoTarget | AudioTarget) -> None:
    if state.tokens != target.shape.tokens:
        raise ConditioningError(
            f"This condition needs a state of {target.shape.tokens} tokens, got {state.tokens}; apply it before those "
            "that append tokens."
        )

"""The state of one stream during sampling: tokens, what is kept of them, and where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.attention_masks import AttentionLinks
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.diffusion.patchify import patchify_video, unpatchify_video
from ltx2rt.graph.diffusion.positions import audio_positions, video_positions
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype, round_to


@dataclass(frozen=True)
class VideoTarget:
    """The video to be made: its latent grid, its frame rate (frames/s) and what a cell stands for."""

    shape: VideoLatentShape
    frame_rate: float
    scale: VideoScale

    @property
    def pixel_frames(self) -> int:
        return self.shape.pixel_frames(self.scale)


@dataclass(frozen=True)
class AudioTarget:
    """The audio to be made, and what a latent stands for."""

    shape: AudioLatentShape
    scale: AudioScale


@dataclass(frozen=True)
class KeyframeSlots:
    """Where tokens of generated keyframes stand in a state: K consecutive latent frames from ``first_token`` on."""

    pixel_frames: tuple[int, ...]
    tokens_per_keyframe: int
    first_token: int

    @property
    def stop_token(self) -> int:
        return self.first_token + len(self.pixel_frames) * self.tokens_per_keyframe


@dataclass(frozen=True, eq=False)
class LatentState:
    """Tokens of one stream. The first tokens are those of the target; conditioning may append others.

    Attributes:
        latent: (B, T, C) float32, values representable in ``dtype``; the noisy tokens.
        denoise_mask: (B, T) float32; 1 = generate, 0 = keep ``clean_latent``.
        positions: (B, P, T, 2) float32; start and end of each token (see `positions`).
        clean_latent: (B, T, C) float32, values representable in ``dtype``; the tokens to keep.
        attention: how strongly tokens see each other, or None where all do fully.
        keyframes_mask: (B, T) float32, 1 where a token holds a single frame of the generated stream; None for audio.
        dtype: what the latents are rounded to between steps.
        frozen: the whole stream is kept; the model sees it at sigma 0.
        keyframe_slots: layout of generated keyframes, if any.
    """

    latent: Float32Array
    denoise_mask: Float32Array
    positions: Float32Array
    clean_latent: Float32Array
    attention: AttentionLinks | None = None
    keyframes_mask: Float32Array | None = None
    dtype: StateDtype = "float32"
    frozen: bool = False
    keyframe_slots: KeyframeSlots | None = None

    @property
    def batch(self) -> int:
        return int(self.latent.shape[0])

    @property
    def tokens(self) -> int:
        return int(self.latent.shape[1])

    def timesteps(self, sigma: float) -> Float32Array:
        """Noise level of each token, (B, T) float32: ``denoise_mask * sigma``."""
        result: Float32Array = self.denoise_mask * np.float32(sigma)
        return result

    def model_sigma(self, sigma: float) -> float:
        """The noise level of the stream as a whole: ``sigma``, or 0 when frozen."""
        return 0.0 if self.frozen else sigma

    def with_latent(self, latent: NDArray[np.floating]) -> LatentState:
        """This state with other noisy tokens (B, T, C), rounded to ``dtype``."""
        return replace(self, latent=round_to(latent, self.dtype))


def create_video_state(
    target: VideoTarget, *, initial: Float32Array | None = None, dtype: StateDtype = "float32"
) -> LatentState:
    """State of a video before conditioning and noise: everything is to be generated.

    Args:
        target: the video to be made.
        initial: normalised latent (B, F, H, W, C) to start from; zeros when None.
        dtype: what latents are rounded to.

    Raises:
        ValueError: if ``initial`` does not have the target's shape.
    """
    shape = target.shape
    if initial is not None and initial.shape != shape.array_shape:
        raise ValueError(f"The initial video latent must be {shape.array_shape}, got shape {initial.shape}.")
    latent = np.zeros(shape.array_shape, np.float32) if initial is None else initial
    tokens = round_to(patchify_video(latent), dtype)
    keyframes_mask = np.zeros(tokens.shape[:2], np.float32)
    # The causal encoder puts a single frame into the first latent frame: the same kind of token as a keyframe.
    keyframes_mask[:, : shape.tokens_per_frame] = 1
    return LatentState(
        latent=tokens,
        denoise_mask=np.ones(tokens.shape[:2], np.float32),
        positions=video_positions(shape, target.frame_rate, target.scale),
        clean_latent=tokens,
        keyframes_mask=keyframes_mask,
        dtype=dtype,
    )


def create_audio_state(
    target: AudioTarget, *, initial: Float32Array | None = None, dtype: StateDtype = "float32"
) -> LatentState:
    """State of an audio track before conditioning and noise.

    Args:
        target: the audio to be made.
        initial: normalised latent tokens (B, L, features) to start from; zeros when None.
        dtype: what latents are rounded to.

    Raises:
        ValueError: if ``initial`` does not have the target's shape.
    """
    shape = target.shape
    expected = (shape.batch, shape.frames, shape.features)
    if initial is not None and initial.shape != expected:
        raise ValueError(f"The initial audio latent must be {expected}, got shape {initial.shape}.")
    tokens = round_to(np.zeros(expected, np.float32) if initial is None else initial, dtype)
    return LatentState(
        latent=tokens,
        denoise_mask=np.ones(expected[:2], np.float32),
        positions=audio_positions(shape, target.scale),
        clean_latent=tokens,
        dtype=dtype,
    )


def add_noise(state: LatentState, source: NoiseSource, *, noise_scale: float) -> LatentState:
    """Mix Gaussian noise into the tokens that are to be generated.

    ``clean*(1 - mask) + mask*(latent*(1 - noise_scale) + noise*noise_scale)``, an interpolation and not a sum, in
    float32. The noise is drawn for every token, conditioning included, in the dtype of the state. A frozen stream
    also draws (with noise_scale 0), so that the streams after it get the same noise.

    Args:
        state: the conditioned state.
        source: where the noise comes from; one draw of shape (B, T, C).
        noise_scale: first sigma of the stage; 0 for a frozen stream.

    Raises:
        ValueError: if ``noise_scale`` is outside [0, 1].

    Source: Lightricks/LTX-2 ltx_core/components/noisers.py @ v1.2.0.
    """
    if not 0 <= noise_scale <= 1:
        raise ValueError(f"noise_scale must be within [0, 1], got {noise_scale}.")
    noise = source.normal(state.latent.shape, state.dtype).astype(np.float32, copy=False)
    noised = _interpolate(state.latent, noise, np.float32(noise_scale))
    return state.with_latent(_interpolate(state.clean_latent, noised, state.denoise_mask[..., None]))


def freeze(state: LatentState) -> LatentState:
    """The state kept as it is through sampling: mask 0 everywhere, sigma 0 for the model. Apply after `add_noise`."""
    return replace(state, denoise_mask=np.zeros_like(state.denoise_mask), frozen=True)


def drop_conditioning(state: LatentState, target: VideoTarget | AudioTarget) -> LatentState:
    """The state without appended tokens: the first tokens of the target, mask 1, no attention or keyframe mask.

    Raises:
        ValueError: if the state has fewer tokens than the target.
    """
    count = target.shape.tokens
    if state.tokens < count:
        raise ValueError(f"The target has {count} tokens but the state only {state.tokens}.")
    return LatentState(
        latent=state.latent[:, :count],
        denoise_mask=np.ones_like(state.denoise_mask[:, :count]),
        positions=state.positions[:, :, :count],
        clean_latent=state.clean_latent[:, :count],
        dtype=state.dtype,
        frozen=state.frozen,
    )


def video_latent(state: LatentState, target: VideoTarget) -> Float32Array:
    """The target's part of the state as a latent grid (B, F, H, W, C), appended tokens left out."""
    return unpatchify_video(drop_conditioning(state, target).latent, target.shape)


def audio_latent(state: LatentState, target: AudioTarget) -> Float32Array:
    """The target's part of the state as audio tokens (B, L, features), appended tokens left out."""
    return drop_conditioning(state, target).latent


def generated_keyframes(state: LatentState, target: VideoTarget) -> Float32Array | None:
    """Latents of the generated keyframes, (B, K, H, W, C), or None when the state has no slots for them.

    Raises:
        ValueError: if the slots do not fit the state or the target's resolution.
    """
    slots = state.keyframe_slots
    if slots is None:
        return None
    shape = target.shape
    if slots.tokens_per_keyframe != shape.tokens_per_frame or slots.stop_token > state.tokens:
        raise ValueError(
            f"Keyframe slots of {slots.tokens_per_keyframe} tokens up to token {slots.stop_token} do not fit a state "
            f"of {state.tokens} tokens with {shape.tokens_per_frame} tokens per frame."
        )
    tokens = state.latent[:, slots.first_token : slots.stop_token]
    return tokens.reshape(state.batch, len(slots.pixel_frames), shape.height, shape.width, tokens.shape[-1])


def _interpolate(start: Float32Array, end: Float32Array, weight: Float32Array | np.float32) -> Float32Array:
    """``start`` at weight 0, ``end`` at weight 1, both exactly."""
    difference = end - start
    return np.where(weight < 0.5, start + weight * difference, end - difference * (1 - weight))

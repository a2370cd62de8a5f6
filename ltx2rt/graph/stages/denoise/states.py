"""The conditioned and noised states that a denoising stage starts from."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ltx2rt.graph.diffusion.conditioning import (
    AppendKeyframe,
    AppendReferenceAudio,
    ConditioningItem,
    GeneratedKeyframes,
    apply_conditioning,
    image_condition,
    positions_before_clip,
)
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    create_audio_state,
    create_video_state,
    freeze,
)
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype
from ltx2rt.graph.stages.inputs import ImageCondition
from ltx2rt.graph.stages.run import Run

STATE_DTYPES: dict[mx.Dtype, StateDtype] = {mx.bfloat16: "bfloat16", mx.float16: "float16", mx.float32: "float32"}

VideoItem = ConditioningItem[VideoTarget]
AudioItem = ConditioningItem[AudioTarget]


def image_items(
    images: Sequence[ImageCondition], latents: Sequence[Float32Array], *, append_all: bool = False
) -> list[VideoItem]:
    """How the images condition the clip: frame 0 is replaced and others are appended, or all are appended."""
    return [
        AppendKeyframe(latent, image.frame_index, image.strength)
        if append_all
        else image_condition(latent, image.frame_index, image.strength)
        for image, latent in zip(images, latents, strict=True)
    ]


def keyframe_items(run: Run, initial: Float32Array | None = None) -> list[VideoItem]:
    """Slots for the key frames that the model generates besides the clip, which follow all other conditions.

    Args:
        run: says where they stand.
        initial: (1, K, h, w, 128) to start from; None: nothing.
    """
    positions = run.inputs.keyframe_positions
    return [GeneratedKeyframes(positions, initial)] if positions else []


def sound_items(target: AudioTarget, reference: Float32Array | None) -> list[AudioItem]:
    """Reference sound (1, R, features) that is heard before the clip begins; None: there is none."""
    if reference is None:
        return []
    return [AppendReferenceAudio(reference, positions_before_clip(reference.shape[1], target))]


def video_state(
    run: Run,
    target: VideoTarget,
    *,
    noise_scale: float,
    items: Sequence[VideoItem] = (),
    initial: Float32Array | None = None,
    frozen: bool = False,
) -> LatentState:
    """Create, condition and noise the video state; draws its noise. A frozen stream is kept as ``initial``."""
    state = create_video_state(target, initial=initial, dtype=STATE_DTYPES[run.inputs.dtype])
    state = run.add_noise("video", apply_conditioning(state, target, items), 0.0 if frozen else noise_scale)
    return freeze(state) if frozen else state


def audio_state(
    run: Run,
    target: AudioTarget,
    *,
    noise_scale: float,
    items: Sequence[ConditioningItem[AudioTarget]] = (),
    initial: Float32Array | None = None,
    frozen: bool = False,
) -> LatentState:
    """The same for the audio; it draws after the video."""
    state = create_audio_state(target, initial=initial, dtype=STATE_DTYPES[run.inputs.dtype])
    state = run.add_noise("audio", apply_conditioning(state, target, items), 0.0 if frozen else noise_scale)
    return freeze(state) if frozen else state

"""The conditioned and noised states that a denoising stage starts from."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ltx2rt.graph.components import AUDIO_VAE
from ltx2rt.graph.diffusion.conditioning import (
    AppendKeyframe,
    ConditioningItem,
    GeneratedKeyframes,
    ReplaceLatentFrames,
    ReplaceSound,
    apply_conditioning,
    image_condition,
)
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    create_audio_state,
    create_video_state,
    freeze,
)
from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype
from ltx2rt.graph.diffusion.windows import Carried, Planes, carried_sound
from ltx2rt.graph.stages.inputs import ImageCondition
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import audio_scale

STATE_DTYPES: dict[mx.Dtype, StateDtype] = {mx.bfloat16: "bfloat16", mx.float16: "float16", mx.float32: "float32"}

VideoItem = ConditioningItem[VideoTarget]
SoundItem = ConditioningItem[AudioTarget]


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


def carried_items(run: Run, name: str) -> tuple[list[VideoItem], list[SoundItem]]:
    """What stage ``name`` has from the window before: the last conditions of video and sound; a first one has none."""
    carried = run.carried.get(name)
    if carried is None:
        return [], []
    video: list[VideoItem] = []
    if carried.planes is not None:
        for index, position in enumerate(carried.planes.positions):
            video.append(AppendKeyframe(carried.planes.latents[:, index : index + 1], position))
    return [*video, ReplaceLatentFrames(carried.video)], [ReplaceSound(carried.audio)]


def leave_to_next_window(
    run: Run, name: str, video: Float32Array, audio: Float32Array, keyframes: Float32Array | None
) -> None:
    """Hand the end of what stage ``name`` has made to the same stage of the next window, if there is one.

    Args:
        run: of this window.
        name: of the stage.
        video, audio: its results, (1, f, h, w, 128) and (1, L, 128).
        keyframes: (1, K, h, w, 128), those that it generated.
    """
    window = run.window
    if not window.carry_out:
        return
    scale = audio_scale(run.files.config(AUDIO_VAE))
    sound = carried_sound(window.carry_out, float(run.inputs.frame_rate), scale.latents_per_second)
    planes = None if keyframes is None else Planes(keyframes, run.inputs.keyframe_positions)
    step = run.inputs.frames_per_latent
    run.left[name] = Carried.of(window, video, audio, planes, step=step, sound=sound)


def video_state(
    run: Run,
    target: VideoTarget,
    *,
    noise_scale: float,
    items: Sequence[VideoItem] = (),
    initial: Float32Array | None = None,
    frozen: bool = False,
    noise: NoiseSource | None = None,
) -> LatentState:
    """Create, condition and noise the video state; draws its noise, from ``noise`` where that is given, else from the
    run's. A frozen stream is kept as ``initial``."""
    state = create_video_state(target, initial=initial, dtype=STATE_DTYPES[run.inputs.dtype])
    state = run.add_noise(apply_conditioning(state, target, items), target, 0.0 if frozen else noise_scale, noise)
    return freeze(state) if frozen else state


def audio_state(
    run: Run,
    target: AudioTarget,
    *,
    noise_scale: float,
    items: Sequence[SoundItem] = (),
    initial: Float32Array | None = None,
    frozen: bool = False,
    noise: NoiseSource | None = None,
) -> LatentState:
    """The same for the audio; it draws after the video."""
    state = create_audio_state(target, initial=initial, dtype=STATE_DTYPES[run.inputs.dtype])
    state = run.add_noise(apply_conditioning(state, target, items), target, 0.0 if frozen else noise_scale, noise)
    return freeze(state) if frozen else state

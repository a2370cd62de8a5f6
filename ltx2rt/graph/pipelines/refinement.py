"""Sampling at half size, latent upscaling, and refinement at full size: the part that all two-stage pipelines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ltx2rt.graph.diffusion.latent_state import LatentState, audio_latent, generated_keyframes, video_latent
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.stages.decode.stage import upscale_latents
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import (
    VideoItem,
    audio_state,
    image_items,
    keyframe_items,
    sound_items,
    video_state,
)
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import targets


@dataclass(frozen=True)
class Latents:
    """Final latents of a stage, normalised.

    Attributes:
        video: (1, f, h, w, 128).
        audio: (1, L, 128).
        keyframes: (1, K, h, w, 128), generated besides the clip; None: there are none.
    """

    video: Float32Array
    audio: Float32Array
    keyframes: Float32Array | None = None


@dataclass(frozen=True)
class Conditions:
    """What conditions both stages.

    Attributes:
        positive, negative: text contexts.
        append_all_images: also an image at frame 0 is appended as a key frame.
        sound: audio tokens (1, L, 128) that drive the video and are kept as they are.
        reference_sound: audio tokens (1, R, 128) that are heard before the clip begins, and kept.
    """

    positive: PromptContext
    negative: PromptContext | None = None
    append_all_images: bool = False
    sound: Float32Array | None = None
    reference_sound: Float32Array | None = None


def first_stage(
    run: Run, sampling: Sampling, conditions: Conditions, more_items: Callable[[], Sequence[VideoItem]] = list
) -> Latents:
    """Sample at half size from noise. ``more_items`` gives conditions of the video that follow the images."""
    height, width = run.inputs.height // 2, run.inputs.width // 2
    images = encode_images(run, "image encoder 1", height, width)
    return sample(run, "denoise 1", sampling, conditions, height, width, images, more_items(), None)


def second_stage(
    run: Run,
    sampling: Sampling,
    conditions: Conditions,
    first: Latents,
    more_items: Callable[[], Sequence[VideoItem]] = list,
) -> Latents:
    """Upscale the video and the key frames, add noise to both streams and refine at full size."""
    height, width = run.inputs.height, run.inputs.width
    video, keyframes = upscale_latents(run, first.video, first.keyframes)
    upscaled = Latents(video, first.audio, keyframes)
    images = encode_images(run, "image encoder 2", height, width)
    return sample(run, "denoise 2", sampling, conditions, height, width, images, more_items(), upscaled)


def sample(
    run: Run,
    name: str,
    sampling: Sampling,
    conditions: Conditions,
    height: int,
    width: int,
    images: Sequence[Float32Array],
    more_items: Sequence[VideoItem],
    initial: Latents | None,
) -> Latents:
    """One denoising stage.

    Args:
        run: the run.
        name: of the stage.
        sampling: how it samples; noise of its first sigma is mixed into both streams.
        conditions: texts, and sound that is kept.
        height, width: in pixels.
        images: latents of the request's images at this size.
        more_items: conditions of the video that follow the images.
        initial: latents to start from, of this size; None: noise alone.
    """
    video_target, audio_target = targets(run, height, width)
    items = image_items(run.inputs.media.images, images, append_all=conditions.append_all_images)
    video: LatentState | None = video_state(
        run,
        video_target,
        noise_scale=sampling.noise_scale,
        items=[*items, *more_items, *keyframe_items(run, None if initial is None else initial.keyframes)],
        initial=None if initial is None else initial.video,
    )
    started_from = None if initial is None else initial.audio
    audio: LatentState | None = audio_state(
        run,
        audio_target,
        noise_scale=sampling.noise_scale,
        items=sound_items(audio_target, conditions.reference_sound),
        initial=started_from if conditions.sound is None else conditions.sound,
        frozen=conditions.sound is not None,
    )
    video, audio = denoise(run, name, sampling, video, audio, conditions.positive, conditions.negative)
    assert video is not None
    assert audio is not None
    return Latents(
        video_latent(video, video_target), audio_latent(audio, audio_target), generated_keyframes(video, video_target)
    )

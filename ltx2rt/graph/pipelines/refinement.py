"""Sampling at half size, latent upscaling, and refinement at full size: the part that all two-stage pipelines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    audio_latent,
    generated_keyframes,
    video_latent,
)
from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.samplers import EULER, AncestralEuler, Sampler
from ltx2rt.graph.diffusion.windows import Planes
from ltx2rt.graph.stages.decode.stage import upscale_latents
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import (
    SoundItem,
    VideoItem,
    audio_state,
    carried_items,
    image_items,
    keyframe_items,
    leave_to_next_window,
    video_state,
)
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import targets

# Added to the user's seed for the noise of the steps of distilled stages.
STAGE_1_SEED, STAGE_2_SEED = 10_000, 20_000


@dataclass(frozen=True)
class Latents:
    """Final latents of a stage, normalised.

    Attributes:
        video: (1, f, h, w, 128).
        audio: (1, L, 128); that of a stage which keeps its sound is what it was given.
        keyframes: (1, K, h, w, 128), generated besides the clip; None: there are none.
        carried: key frames of the window before, which the decoder sees, too; None: there are none.
    """

    video: Float32Array
    audio: Float32Array
    keyframes: Float32Array | None = None
    carried: Planes | None = None


@dataclass(frozen=True)
class Conditions:
    """What conditions both stages.

    Attributes:
        positive, negative: text contexts.
        append_all_images: also an image at frame 0 is appended as a key frame.
        sound: audio tokens (1, L, 128) that drive the video and are kept as they are.
    """

    positive: PromptContext
    negative: PromptContext | None = None
    append_all_images: bool = False
    sound: Float32Array | None = None


def distilled_sampler(run: Run, seed_offset: int) -> Sampler:
    """As the model of the run was distilled for; each window has noise of its own."""
    is_ancestral = run.files.generation.is_ancestral(run.files.checkpoint.metadata)
    return AncestralEuler(seed_offset + run.window.index) if is_ancestral else EULER


def first_stage(
    run: Run,
    sampling: Sampling,
    conditions: Conditions,
    more_items: Callable[[], Sequence[VideoItem]] = list,
    more_sound_items: Callable[[], Sequence[SoundItem]] = list,
) -> Latents:
    """Sample at half size from noise.

    Args:
        run: of the clip, or of one window of it (see `ltx2rt.graph.stages.windows`).
        sampling: how.
        conditions: of both stages.
        more_items: gives conditions of the video that follow the images.
        more_sound_items: gives conditions of the sound.
    """
    height, width = run.inputs.height // 2, run.inputs.width // 2
    images = encode_images(run, "image encoder 1", height, width)
    return sample(run, "denoise 1", sampling, conditions, height, width, images, more_items(), more_sound_items(), None)


def second_stage(
    run: Run,
    sampling: Sampling,
    conditions: Conditions,
    first: Latents,
    more_items: Callable[[], Sequence[VideoItem]] = list,
    more_sound_items: Callable[[], Sequence[SoundItem]] = list,
) -> Latents:
    """Upscale the video and the key frames, add noise to both streams and refine at full size; see `first_stage`."""
    height, width = run.inputs.height, run.inputs.width
    video, keyframes = upscale_latents(run, first.video, first.keyframes)
    upscaled = Latents(video, first.audio, keyframes)
    images = encode_images(run, "image encoder 2", height, width)
    return sample(
        run, "denoise 2", sampling, conditions, height, width, images, more_items(), more_sound_items(), upscaled
    )


def sample(
    run: Run,
    name: str,
    sampling: Sampling,
    conditions: Conditions,
    height: int,
    width: int,
    images: Sequence[Float32Array],
    more_items: Sequence[VideoItem],
    sound_items: Sequence[SoundItem],
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
        sound_items: conditions of the sound.
        initial: latents to start from, of this size; None: noise alone.
    """
    items = image_items(run.inputs.media.images, images, append_all=conditions.append_all_images)
    slots = keyframe_items(run, None if initial is None else initial.keyframes)
    carried_video, carried_sound = carried_items(run, name)
    given = conditions.sound
    started_from = None if initial is None else initial.audio
    made = sample_both(
        run,
        name,
        sampling,
        (conditions.positive, conditions.negative),
        targets(run, height, width),
        [*items, *more_items, *slots, *carried_video],
        [*sound_items, *carried_sound],
        video=None if initial is None else initial.video,
        sound=started_from if given is None else given,
        keeps_sound=given is not None,
    )
    heard = made.audio if given is None else given
    leave_to_next_window(run, name, made.video, heard, made.keyframes)
    before = run.carried.get(name)
    return replace(made, audio=heard, carried=None if before is None else before.planes)


def sample_both(
    run: Run,
    name: str,
    sampling: Sampling,
    prompts: tuple[PromptContext, PromptContext | None],
    targets: tuple[VideoTarget, AudioTarget],
    items: Sequence[VideoItem],
    sound_items: Sequence[SoundItem] = (),
    *,
    video: Float32Array | None = None,
    sound: Float32Array | None = None,
    keeps_sound: bool = False,
    noise_scale: float | None = None,
    noise: NoiseSource | None = None,
) -> Latents:
    """Both streams are conditioned, noised and sampled.

    Args:
        run, name: and the name of its stage.
        sampling: how.
        prompts: contexts of the prompt and of the negative one.
        targets: of both streams.
        items, sound_items: conditions of the video and of the sound, in order.
        video, sound: to start from; None: zeros.
        keeps_sound: it is kept as it is.
        noise_scale: default: the first sigma.
        noise: of both states; default: the run's.
    """
    scale = sampling.noise_scale if noise_scale is None else noise_scale
    pictures: LatentState | None = video_state(
        run, targets[0], noise_scale=scale, items=items, initial=video, noise=noise
    )
    heard: LatentState | None = audio_state(
        run, targets[1], noise_scale=scale, items=sound_items, initial=sound, frozen=keeps_sound, noise=noise
    )
    pictures, heard = denoise(run, name, sampling, pictures, heard, *prompts)
    assert pictures is not None
    assert heard is not None
    return Latents(
        video_latent(pictures, targets[0]), audio_latent(heard, targets[1]), generated_keyframes(pictures, targets[0])
    )

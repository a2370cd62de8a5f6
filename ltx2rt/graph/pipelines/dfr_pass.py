"""What the passes of the DFR pipeline share: the clip as it is handed on, and what a part of it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ltx2rt.graph.components import AUDIO_VAE, VIDEO_VAE
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, ReplaceLatentFrames, image_condition
from ltx2rt.graph.diffusion.latent_geometry import (
    AudioLatentShape,
    VideoLatentShape,
    audio_latent_frames,
)
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    VideoTarget,
)
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.pipelines.dfr_plan import Canvas, Part, conditioning_rate, doubled, sound_of_part
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import audio_scale, video_scale
from ltx2rt.weights.lora.file import LoraFile

Loras = tuple[tuple[LoraFile, float], ...]

# Of the detailing LoRA, whatever was given.
DETAIL_STRENGTH = 0.5


@dataclass(frozen=True)
class Film:
    """The clip between two stages.

    Attributes:
        canvas: of the first stage.
        rounds: how often the frame rate has been doubled.
        video: (1, f, h, w, 128) normalised.
        keyframes: frame of the clip -> (1, 1, h, w, 128) normalised, in their order.
        sound: (1, L, 128) normalised, of the first stage, over the whole canvas.
        images: latents (1, 1, h, w, 128) of the request's images at this size.
        parts: of time, that the last round has worked on one by one; empty: there was none.
    """

    canvas: Canvas
    rounds: int
    video: Float32Array
    keyframes: Mapping[int, Float32Array]
    sound: Float32Array
    images: Sequence[Float32Array]
    parts: Sequence[Part] = ()

    @property
    def latents(self) -> list[Float32Array]:
        """All that is handed on."""
        return [self.video, *self.keyframes.values(), self.sound, *self.images]

    @property
    def frames(self) -> int:
        """Of the clip, with those behind its end."""
        return doubled(self.canvas.frames, self.rounds)


@contextmanager
def carrying(run: Run, *latents: Float32Array | None) -> Iterator[Callable[..., None]]:
    """The stages inside are told that these latents are there meanwhile, and more with which the result is called."""
    before = run.ledger.carried

    def carry(*more: Float32Array | None) -> None:
        run.ledger.carried += sum(latent.nbytes for latent in more if latent is not None)

    carry(*latents)
    try:
        yield carry
    finally:
        run.ledger.carried = before


def played_rate(run: Run, rounds: int) -> Fraction:
    """Frames per second of the clip after so many rounds."""
    return run.inputs.frame_rate * (1 << rounds)


def with_detail(run: Run) -> Loras:
    """The LoRAs of the run, and the detailing one behind them."""
    return (*run.files.loras, *((lora, DETAIL_STRENGTH) for lora, _ in run.files.detailing_lora))


def reference_scale(run: Run) -> int:
    """How many times smaller than the clip a reference is, as the detailing LoRA states; 1 where it does not."""
    return next((lora.stated_factor("spatial") or 1 for lora, _ in run.files.detailing_lora), 1)


def video_target(run: Run, cells: tuple[int, int, int], rounds: int) -> VideoTarget:
    """A clip of (f, h, w) cells, at the frame rate that the transformer is told."""
    vae = run.files.config(VIDEO_VAE)
    shape = VideoLatentShape(*cells, channels=vae.latent_channels)
    return VideoTarget(shape, float(conditioning_rate(played_rate(run, rounds))), video_scale(vae))


def sound_target(run: Run, frames: int, frame_rate: Fraction) -> AudioTarget:
    """The sound of so many frames."""
    audio = run.files.config(AUDIO_VAE)
    scale = audio_scale(audio)
    count = audio_latent_frames(frames, float(frame_rate), scale)
    return AudioTarget(
        AudioLatentShape(count, channels=audio.vae.latent_channels, mel_bins=audio.vae.latent_bins), scale
    )


def part_targets(run: Run, film: Film, part: Part, height: int, width: int) -> tuple[VideoTarget, AudioTarget]:
    """Both streams of a part of time."""
    rate = conditioning_rate(played_rate(run, film.rounds))
    return video_target(run, (part.cells, height, width), film.rounds), sound_target(run, part.frames, rate)


def part_sound(run: Run, film: Film, part: Part, target: AudioTarget) -> Float32Array:
    """The sound of a part of time."""
    duration_s = film.canvas.frames / run.inputs.frame_rate
    rate = played_rate(run, film.rounds)
    return sound_of_part(film.sound, part.origin, part.frames, rate, duration_s, target.shape.tokens)


def part_images(run: Run, film: Film, part: Part, first: int) -> list[VideoItem]:
    """The images of a part of time, from frame ``first`` of the clip on."""
    items: list[VideoItem] = []
    for image, latent in zip(run.inputs.media.images, film.images, strict=True):
        frame = image.frame_index << film.rounds
        if first <= frame <= part.last_frame:
            items.append(image_condition(latent, frame - part.origin, image.strength))
    return items


def part_keyframes(film: Film, part: Part, frames: Sequence[int], strength: float) -> list[VideoItem]:
    """Key frames of a part of time, those that are not given with its prefix."""
    return [
        AppendKeyframe(film.keyframes[frame], frame - part.origin, strength) for frame in frames if frame >= part.resume
    ]


def part_prefix(
    keyframes: Mapping[int, Float32Array], part: Part, before: tuple[Part, Float32Array] | None
) -> list[VideoItem]:
    """What a part of time begins with: a key frame, and the end of the part before it, with what that has become."""
    if part.prefix is None or before is None:
        return []
    prefix, (previous, made) = part.prefix, before
    first = prefix.video_start - previous.base
    latent = np.concatenate([keyframes[prefix.keyframe], made[:, first : first + prefix.cells - 1]], axis=1)
    return [ReplaceLatentFrames(latent)]


def part_video(video: Float32Array, keyframes: Mapping[int, Float32Array], part: Part) -> Float32Array:
    """The cells that a part of time starts from."""
    if part.prefix is None:
        return video[:, part.start : part.end]
    return np.concatenate([keyframes[part.prefix.keyframe], video[:, part.prefix.video_start : part.end]], axis=1)


def joined(made: Sequence[tuple[Part, Float32Array]]) -> Float32Array:
    """The clip, of what its parts have become."""
    return np.concatenate([video[:, part.given_cells :] for part, video in made], axis=1)


def with_keyframes(film: Film, more: Mapping[int, Float32Array]) -> Film:
    """The clip with more key frames; those that are there stay."""
    together = {**more, **film.keyframes}
    return replace(film, keyframes={frame: together[frame] for frame in sorted(together)})

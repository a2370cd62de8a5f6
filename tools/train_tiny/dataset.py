"""Latents of rendered clips, encoded once and kept on disk for the stages that train in latent space."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import audio, world
from .video_vae import VideoVae

FRAME_RATE = 24.0


@dataclass(frozen=True)
class Group:
    """Clips of one size and length.

    Attributes:
        size: pixels, height and width.
        frames: pixel frames.
        count: clips.
        small: also encode at half the size (pairs of the spatial upscaler).
        doubled: also encode with twice the frames (pairs of the temporal upscaler).
        controlled: also encode the silhouette (references of the in-context LoRA).
    """

    size: int
    frames: int
    count: int
    small: bool = False
    doubled: bool = False
    controlled: bool = False

    @property
    def name(self) -> str:
        return f"{self.size}px{self.frames}f" + "c" * self.controlled + "d" * self.doubled


GROUPS = (
    Group(128, 25, 600, controlled=True),
    Group(128, 25, 3000),
    Group(256, 25, 700, small=True),
    Group(128, 17, 300),
    Group(128, 33, 300),
    Group(128, 9, 150),
    Group(128, 25, 250, doubled=True),
)


def audio_tokens(frames: int) -> int:
    """Audio latent frames of a clip: 25 per second."""
    return round(frames / FRAME_RATE * 25)


@dataclass(frozen=True)
class Encoded:
    """A group in latent space; half precision.

    Attributes:
        clips: what happens in them.
        video: (N, f, h, w, C) normalised.
        sound: (N, L, C) normalised.
        keyframe: (N, h, w, C) one later frame of each clip, encoded alone.
        keyframe_index: (N,) its pixel frame.
        small, doubled, control: see `Group`; None where not made.
    """

    clips: list[world.Clip]
    video: Tensor
    sound: Tensor
    keyframe: Tensor
    keyframe_index: Tensor
    small: Tensor | None
    doubled: Tensor | None
    control: Tensor | None


@torch.no_grad()
def encode_group(
    group: Group, seed: int, video_vae: VideoVae, audio_vae: audio.AudioVae, report: Callable[..., None]
) -> Encoded:
    """Renders and encodes a group; every clip draws from its own generator."""
    clips = [world.sample_clip(random.Random(seed * 1_000_003 + i)) for i in range(group.count)]
    rng = random.Random(seed)
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("video", "sound", "keyframe", "small", "doubled", "control")
    }
    index = []
    batch = 8 if group.size == 128 else 2

    def latent(some: Sequence[world.Clip], frames: int, size: int) -> Tensor:
        return channels_last(video_vae.encode(world.render(some, frames, size)[0]))

    for start in range(0, group.count, batch):
        some = clips[start : start + batch]
        pictures = world.render(some, group.frames, group.size)[0]
        columns["video"].append(channels_last(video_vae.encode(pictures)))
        columns["sound"].append(encode_sound(audio_vae, some, group.frames))
        chosen = [group.frames - 1 if rng.random() < 0.6 else rng.randrange(1, group.frames) for _ in some]
        single = torch.stack([pictures[i, :, frame] for i, frame in enumerate(chosen)])[:, :, None]
        columns["keyframe"].append(channels_last(video_vae.encode(single))[:, 0])
        index += chosen
        if group.small:
            columns["small"].append(latent(some, group.frames, group.size // 2))
        if group.doubled:
            columns["doubled"].append(latent(some, 2 * group.frames - 1, group.size))
        if group.controlled:
            columns["control"].append(latent([world.silhouette(clip) for clip in some], group.frames, group.size))
        if start % (batch * 25) == 0:
            report(group=group.name, clips=start)
    joined = {name: torch.cat(parts).half() if parts else None for name, parts in columns.items()}
    return Encoded(clips=clips, keyframe_index=torch.tensor(index), **joined)


def channels_last(latent: Tensor) -> Tensor:
    """(B, C, f, h, w) to (B, f, h, w, C)."""
    return latent.permute(0, 2, 3, 4, 1).contiguous()


@torch.no_grad()
def encode_sound(vae: audio.AudioVae, clips: Sequence[world.Clip], frames: int) -> Tensor:
    """(B, L, C) normalised tokens of the clips' sound."""
    samples = (4 * audio_tokens(frames) - 4) * audio.HOP
    return vae.encode(audio.log_mel(world.sound(clips, samples, audio.RATE, frames / FRAME_RATE)))


def save(encoded: Encoded, path: Path) -> None:
    torch.save(vars(encoded), path)


def load(path: Path) -> Encoded:
    with torch.serialization.safe_globals([world.Clip, world.Thing]):
        return Encoded(**torch.load(path, weights_only=True))

"""Normalised latents of clips for the stages that train in latent space."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from . import latents, world


@dataclass(frozen=True)
class Group:
    """Clips of one size and length.

    Attributes:
        size: pixels, height and width.
        frames: pixel frames.
        clips: what happens in them.
        video: (N, f, h, w, C).
        sound: (N, L, C).
        keyframe: (N, h, w, C) one later frame of each clip as a picture of its own.
        keyframe_index: (N,) its pixel frame.
        arrival: (N, f, h, w, C) the objects on another way, which meets theirs where latent frame ``turn`` begins.
        arrival_sound: (N, L, C).
        turn: (N,).
    """

    size: int
    frames: int
    clips: list[world.Clip]
    video: Tensor
    sound: Tensor
    keyframe: Tensor
    keyframe_index: Tensor
    arrival: Tensor
    arrival_sound: Tensor
    turn: Tensor

    def control(self) -> Tensor:
        """Latents of the silhouettes, the references of the in-context LoRA."""
        return video([world.silhouette(clip) for clip in self.clips], self.frames, self.size)


def video(clips: list[world.Clip], frames: int, size: int) -> Tensor:
    """(N, f, h, w, C) normalised."""
    mean, deviation = latents.video_statistics()
    parts = [clips[i : i + 256] for i in range(0, len(clips), 256)]
    return torch.cat([(latents.video_latent(part, frames, size) - mean) / deviation for part in parts])


def sound(clips: list[world.Clip], frames: int) -> Tensor:
    """(N, L, C) normalised."""
    mean, deviation = latents.sound_statistics()
    parts = [clips[i : i + 64] for i in range(0, len(clips), 64)]
    return torch.cat([(latents.sound_latent(latents.clip_mel(part, frames)) - mean) / deviation for part in parts])


def sample_clips(count: int, seed: int) -> list[world.Clip]:
    return [world.sample_clip(random.Random(seed * 1_000_003 + i)) for i in range(count)]


def make_group(size: int, frames: int, count: int, seed: int, like: Group | None = None) -> Group:
    """``count`` clips, each from its own generator; ``like`` lends clips and sound of another size."""
    clips = like.clips if like else sample_clips(count, seed)
    rng = random.Random(seed)
    index = [frames - 1 if rng.random() < 0.6 else rng.randrange(1, frames) for _ in clips]
    pictures = [world.held(clip, i / (frames - 1)) for clip, i in zip(clips, index, strict=True)]
    turn = like.turn.tolist() if like else [rng.randrange(1, (frames + 7) // 8) for _ in clips]
    turning = random.Random(seed)
    arrivals = [world.arriving(turning, clip, 8 * (t - 1) / (frames - 1)) for clip, t in zip(clips, turn, strict=True)]
    return Group(
        size=size,
        frames=frames,
        clips=clips,
        video=video(clips, frames, size),
        sound=like.sound if like else sound(clips, frames),
        keyframe=video(pictures, 1, size)[:, 0],
        keyframe_index=torch.tensor(index),
        arrival=video(arrivals, frames, size),
        arrival_sound=like.arrival_sound if like else sound(arrivals, frames),
        turn=torch.tensor(turn),
    )

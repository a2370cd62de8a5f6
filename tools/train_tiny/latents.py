"""The latent spaces of both VAEs, which are designed rather than found: exact latents of clips, without a network.

An autoencoder that finds its own latent space needs most of its training for that, and leaves the transformer with
whatever it found. Here every channel has a meaning, so encoder, decoder and transformer learn independently of each
other: the encoder to read the meanings off pixels, the decoder to draw them, the transformer to invent them.

Video, per cell of 32x32 pixels and 8 frames (the first frame alone); all channels are local and causal:
- 0-2: colour of the background;
- 3: whether an object is near; 4-6: its colour, 7-9: its shape (one of three), 10-11: its movement in cells per 8
  frames, each multiplied by channel 3;
- 12-19: signed distance to the outline in cells, cut at 1, at 2x2 points of the cell and two moments: the middles of
  its quarters, so that the points of all cells form a regular grid of 16x16 pixels and four frames.

Sound, per 40 ms: the log-mel averaged over four frames and four bins, for both ears.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from . import spectrum, world
from .config import VIDEO_CHANNELS_USED

CELL = 32.0
FRAME_RATE = 24.0
NEAR, FAR = 23.0, 47.0  # distance in pixels between cell and outline up to, and from which, an object is near or not
POINTS = (-8.0, 8.0)  # of the signed distance, from the middle of the cell


def moments(frames: int) -> Tensor:
    """(f, 2) pixel frames at which every latent frame is looked at."""
    end = torch.arange((frames - 1) // 8 + 1).float() * 8
    return torch.stack([end - 5.5, end - 1.5], -1).clamp(min=0)


def signed_distance(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Signed distances in pixels for objects whose shapes are indices."""
    circle = (dx.square() + dy.square()).sqrt()
    square = torch.maximum(dx.abs(), dy.abs())
    triangle = torch.maximum(dy, dx.abs() * (3**0.5 / 2) - dy * 0.5)
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle)) - radius


def video_latent(
    clips: Sequence[world.Clip], frames: int, size: Sequence[int] | int, window: int = 0, corners: Tensor | None = None
) -> Tensor:
    """Latents (B, f, h, w, C) in the units of the table above; arguments as of `world.render`."""
    count = len(clips)
    side = torch.tensor([size] * count if isinstance(size, int) else list(size), dtype=torch.float32)
    window = window or int(side[0])
    corners = torch.zeros(count, 2) if corners is None else corners.float()
    cells = window // int(CELL)
    times = moments(frames)
    depth = len(times)
    progress = times / max(frames - 1, 1)
    middle = torch.arange(cells) * CELL + CELL / 2
    offsets = torch.tensor([POINTS[0], POINTS[1], 0.0])  # two points and the middle
    latent = torch.zeros(count, depth, cells, cells, VIDEO_CHANNELS_USED)
    latent[..., :3] = world.tinted([clip.background for clip in clips], clips)[:, None, None, None]
    best = torch.full((count, depth, cells, cells), 1e6)
    distances = torch.full((count, depth, cells, cells, 8), CELL)
    for index in range(max(len(clip.things) for clip in clips)):
        rows = [i for i, clip in enumerate(clips) if len(clip.things) > index]
        chosen = torch.tensor(rows)
        things = [clips[i].things[index] for i in rows]
        ends = torch.tensor([[thing.start, thing.end] for thing in things])
        step = ends[:, 1] - ends[:, 0]
        centre = (ends[:, 0, None, None] + step[:, None, None] * progress[None, :, :, None]) * side[chosen].view(
            -1, 1, 1, 1
        )
        axis = middle[:, None] + offsets  # (cells, 3)
        x = axis + corners[chosen, 1].view(-1, 1, 1)
        y = axis + corners[chosen, 0].view(-1, 1, 1)
        dx = x[:, None, None, None, :, None, :] - centre[..., 0][:, :, :, None, None, None, None]
        dy = y[:, None, None, :, None, :, None] - centre[..., 1][:, :, :, None, None, None, None]
        dx, dy = torch.broadcast_tensors(dx, dy)  # (N, f, 2, h, w, 3, 3)
        shapes = torch.tensor([world.SHAPE_NAMES.index(thing.shape) for thing in things])
        radius = torch.tensor([world.RADIUS[thing.shape] * thing.size for thing in things]) * side[chosen]
        view = (-1, 1, 1, 1, 1, 1, 1)
        signed = signed_distance(shapes.view(view), dx, dy, radius.view(view))
        gap = signed[..., 2, 2].amin(2)  # (N, f, h, w)
        nearer = gap < best[chosen]
        best[chosen] = torch.minimum(best[chosen], gap)
        near = ((FAR - gap) / (FAR - NEAR)).clamp(0, 1)[..., None]
        color = world.tinted([thing.color for thing in things], [clips[i] for i in rows], index + 1)
        shape = torch.nn.functional.one_hot(shapes, 3).float()
        moved = step * side[chosen, None] / CELL * 8 / max(frames - 1, 1)
        moved = moved[:, None].repeat(1, depth, 1)
        moved[:, 0] = 0
        spread = torch.cat([torch.ones(len(things), 1), color, shape], -1)[:, None].expand(-1, depth, -1)
        values = torch.cat([spread, moved], -1)[:, :, None, None] * near
        latent[chosen, ..., 3:12] = torch.where(nearer[..., None], values, latent[chosen, ..., 3:12])
        points = signed[..., :2, :2].permute(0, 1, 3, 4, 2, 5, 6).flatten(4)
        distances[chosen] = torch.minimum(distances[chosen], points)
    latent[..., 12:] = (distances / CELL).clamp(-1, 1)
    return latent


def sound_latent(mel: Tensor) -> Tensor:
    """Log-mel (B, 2, 4L-3, 64) to tokens (B, L, 32): ear * 16 + bin; the first token is of the first frame alone."""
    mel = mel.unflatten(-1, (spectrum.MEL_FEATURES, 4)).mean(-1)
    later = mel[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
    return torch.cat([mel[:, :, :1], later], 2).transpose(1, 2).flatten(2)


def audio_tokens(frames: int) -> int:
    """Audio latent frames of a clip: 25 per second."""
    return round(frames / FRAME_RATE * 25)


def clip_mel(clips: Sequence[world.Clip], frames: int) -> Tensor:
    samples = (4 * audio_tokens(frames) - 4) * spectrum.HOP
    return spectrum.log_mel(world.sound(clips, samples, spectrum.RATE, frames / FRAME_RATE))


@cache
def video_statistics() -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel over the world."""
    rng = random.Random(71)
    rows = [
        video_latent([world.sample_clip(rng) for _ in range(count)], 25, size).flatten(0, 3)
        for size, count in ((128, 1000), (256, 150))
    ]
    latents = torch.cat(rows)
    return latents.mean(0), latents.std(0)


@cache
def sound_statistics() -> tuple[Tensor, Tensor]:
    rng = random.Random(72)
    tokens = sound_latent(clip_mel([world.sample_clip(rng) for _ in range(500)], 25)).flatten(0, 1)
    return tokens.mean(0), tokens.std(0)

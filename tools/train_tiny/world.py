"""Clips of the procedural world: what happens in one, its captions, its frames and its sound.

Coordinates: x to the right, y down, the frame is the unit square. An object moves on a straight line that spans the
whole clip, whatever its length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ltx2rt.embedded.world import (
    BACKGROUNDS,
    COLORS,
    FILLERS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SPEEDS,
    VERBS,
)

COLOR_NAMES = tuple(COLORS)
SHAPE_NAMES = tuple(SHAPES)
MOTION_NAMES = tuple(MOTIONS)
SIZE_NAMES = tuple(SIZES)
SPEED_NAMES = tuple(SPEEDS)

SIZE_FACTOR = {"small": 0.75, "normal": 1.0, "large": 1.25}
DISTANCE = {"slow": 0.26, "normal": 0.42, "fast": 0.56}
RADIUS = {"circle": 0.16, "square": 0.145, "triangle": 0.11}  # of the square half a side, of the triangle the incircle
LOUDEST = 0.4
DECIBELS_PER_HEIGHT = 30.0
HELD_OUT_SHARE = 10  # one in so many combinations of colour, shape, motion and background is kept for tests


Point = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """One moving object; ``size`` multiplies the radius of its shape."""

    color: str
    shape: str
    motion: str
    start: Point
    end: Point
    size: float = 1.0
    size_name: str = "normal"
    speed_name: str = "normal"


@dataclass(frozen=True)
class Clip:
    """What a clip shows. Its sound follows the first object."""

    background: str
    things: tuple[Thing, ...]
    tint: float = 0.0  # how far colours may leave the palette, in levels of 255
    seed: int = field(default=0, compare=False)

    @property
    def first(self) -> Thing:
        return self.things[0]


def is_held_out(color: str, shape: str, motion: str, background: str) -> bool:
    """Whether the combination is kept out of training: a fixed scattering over the table of combinations."""
    code = COLOR_NAMES.index(color) + 6 * COLOR_NAMES.index(background)
    code = code + 36 * (SHAPE_NAMES.index(shape) + 3 * MOTION_NAMES.index(motion))
    return (code * 7919 + 104729) % 1009 % HELD_OUT_SHARE == 3


def path(motion: str, distance: float, lane: float, shift: float) -> tuple[Point, Point]:
    """Start and end of a ``motion`` over ``distance``, ``lane`` across and ``shift`` along it, around the middle."""
    a, b = 0.5 + shift - distance / 2, 0.5 + shift + distance / 2
    return {
        "left": ((b, lane), (a, lane)),
        "right": ((a, lane), (b, lane)),
        "up": ((lane, b), (lane, a)),
        "down": ((lane, a), (lane, b)),
        "still": ((0.5 + shift * 3, lane), (0.5 + shift * 3, lane)),
    }[motion]


def sample_clip(rng: random.Random, *, held_out: bool | None = False, two: float = 0.06, **fixed: str) -> Clip:
    """A random clip. ``held_out`` True or False restricts the combination; ``fixed`` sets attributes by name."""
    while True:
        color, background = rng.sample(COLOR_NAMES, 2)
        choice = {
            "color": color,
            "shape": rng.choice(SHAPE_NAMES),
            "motion": rng.choice(MOTION_NAMES),
            "background": background,
        } | {key: value for key, value in fixed.items() if key in ("color", "shape", "motion", "background")}
        if choice["color"] == choice["background"]:
            continue
        if held_out is None or is_held_out(**choice) == held_out:
            break
    if rng.random() < two and not fixed:
        return _two_things(rng, choice, held_out)
    size_name = fixed.get("size") or rng.choices(SIZE_NAMES, (1, 4, 1))[0]
    speed_name = fixed.get("speed") or rng.choices(SPEED_NAMES, (1, 4, 1))[0]
    distance = DISTANCE[speed_name] * rng.uniform(0.94, 1.06)
    start, end = path(choice["motion"], distance, rng.uniform(0.38, 0.62), rng.uniform(-0.04, 0.04))
    thing = Thing(
        choice["color"],
        choice["shape"],
        choice["motion"],
        start,
        end,
        SIZE_FACTOR[size_name] * rng.uniform(0.95, 1.05),
        size_name,
        speed_name if choice["motion"] != "still" else "normal",
    )
    return Clip(choice["background"], (thing,), seed=rng.getrandbits(30))


def _two_things(rng: random.Random, choice: dict[str, str], held_out: bool | None) -> Clip:
    """One object in the upper and one in the lower half, both still or moving sideways, each of an allowed kind."""
    things = []
    colors = [choice["color"]]
    colors.append(rng.choice([c for c in COLOR_NAMES if c not in (choice["background"], choice["color"])]))
    for color, lane in zip(colors, (0.28, 0.72), strict=True):
        while True:
            shape, motion = rng.choice(SHAPE_NAMES), rng.choice(("left", "right", "still"))
            if held_out is None or is_held_out(color, shape, motion, choice["background"]) == held_out:
                break
        distance = DISTANCE["normal"] * rng.uniform(0.94, 1.06)
        start, end = path(motion, distance, lane + rng.uniform(-0.03, 0.03), rng.uniform(-0.04, 0.04))
        things.append(Thing(color, shape, motion, start, end, rng.uniform(0.7, 0.8)))
    return Clip(choice["background"], tuple(things), seed=rng.getrandbits(30))


def position(thing: Thing, progress: float) -> Point:
    """Where an object is at a moment between 0 and 1."""
    x, y = (a + (b - a) * progress for a, b in zip(thing.start, thing.end, strict=True))
    return x, y


def held(clip: Clip, progress: float) -> Clip:
    """The clip held at a moment between 0 and 1."""
    places = [position(thing, progress) for thing in clip.things]
    things = tuple(replace(thing, start=at, end=at) for thing, at in zip(clip.things, places, strict=True))
    return replace(clip, things=things)


def arriving(rng: random.Random, clip: Clip, progress: float) -> Clip:
    """The objects standing still or coming from elsewhere, and at ``progress`` where those of the clip are then."""
    things = []
    for thing, there in zip(clip.things, held(clip, progress).things, strict=True):
        motion = rng.choice(MOTION_NAMES) if rng.random() < 0.5 else "still"
        (x, y), (x2, y2) = path(motion, DISTANCE["normal"], 0.5, 0.0)
        way = (x2 - x, y2 - y)
        start = (there.start[0] - way[0] * progress, there.start[1] - way[1] * progress)
        if not all(0.15 < a < 0.85 for a in start):
            start, way = there.start, (0.0, 0.0)
        things.append(replace(thing, start=start, end=(start[0] + way[0], start[1] + way[1])))
    return replace(clip, things=tuple(things))


def sample_free_clip(rng: random.Random) -> Clip:
    """A clip for the video VAE alone: any straight path, any size, colours around the palette."""
    if rng.random() < 0.5:
        clip = sample_clip(rng, held_out=None, two=0.15)
        return Clip(clip.background, clip.things, tint=8.0, seed=clip.seed)
    colors = rng.sample(COLOR_NAMES, 3)
    things = []
    for color in colors[1 : 2 + (rng.random() < 0.25)]:
        start = (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9))
        end = start if rng.random() < 0.2 else (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9))
        things.append(Thing(color, rng.choice(SHAPE_NAMES), "still", start, end, rng.uniform(0.6, 1.35)))
    tint = 60.0 if rng.random() < 0.3 else 8.0
    return Clip(colors[0], tuple(things), tint=tint, seed=rng.getrandbits(30))


# --- captions ---------------------------------------------------------------------------------------------------------


def _noun(rng: random.Random, thing: Thing) -> str:
    names = SHAPES[thing.shape].names
    noun = f"{thing.color} {names[0] if rng.random() < 0.6 else rng.choice(names)}"
    words = SIZES[thing.size_name]
    return f"{rng.choice(words)} {noun}" if words else noun


def _action(rng: random.Random, thing: Thing) -> str:
    phrases = MOTIONS[thing.motion]
    phrase = phrases[0] if rng.random() < 0.4 else rng.choice(phrases)
    if thing.motion == "still":
        return phrase
    verb = VERBS[0] if rng.random() < 0.4 else rng.choice(VERBS)
    words = SPEEDS[thing.speed_name]
    if not words:
        return f"{verb} {phrase}"
    adverb = rng.choice(words)
    return f"{verb} {phrase} {adverb}" if rng.random() < 0.6 or adverb == "fast" else f"{adverb} {verb} {phrase}"


def plain_caption(clip: Clip) -> str:
    """The shortest complete caption of a clip with one object."""
    thing = clip.first
    words = [*SIZES[thing.size_name][:1], thing.color, thing.shape]
    action = MOTIONS["still"][0] if thing.motion == "still" else " ".join(["moves", thing.motion])
    return " ".join(["a", *words, action, *SPEEDS[thing.speed_name][:1], "on a", clip.background, "background"])


def caption(rng: random.Random, clip: Clip, *, complete: bool = False) -> str:
    """One of the many ways to say what a clip shows; unless ``complete``, a few leave something out."""
    ground = f"{clip.background} {BACKGROUNDS[0] if rng.random() < 0.5 else rng.choice(BACKGROUNDS)}"
    place = PLACES[0] if rng.random() < 0.4 else rng.choice(PLACES)
    article = rng.choice(("a ", "a ", "a ", "the ", "one ", ""))
    if len(clip.things) == 2:
        first, second = clip.things
        text = f"{article}{_noun(rng, first)} {_action(rng, first)} "
        if rng.random() < 0.5:
            text += f"and {article}{_noun(rng, second)} {_action(rng, second)} {place} {ground}"
        else:
            text += f"above {article}{_noun(rng, second)} that {_action(rng, second)} {place} {ground}"
        return _dressed(rng, text)
    noun, action = _noun(rng, clip.first), _action(rng, clip.first)
    draw = rng.random()
    if draw < 0.08 and not complete:
        text = f"{article}{noun} {place} {ground}"
    elif draw < 0.12 and not complete:
        text = f"{article}{noun} {action}"
    elif draw < 0.58:
        text = f"{article}{noun} {action} {place} {ground}"
    elif draw < 0.72:
        text = f"{place} {ground}, {article}{noun} {action}"
    elif draw < 0.82:
        text = f"{ground}, {article}{noun} {action}"
    elif draw < 0.90:
        text = f"{article}{noun} {action}, {ground}"
    elif draw < 0.96:
        text = f"a video of {article}{noun} that {action} {place} {ground}"
    else:
        text = f"{article}{noun} {place} {ground} {action}"
    return _dressed(rng, text)


def muddled(rng: random.Random, clip: Clip, share: float) -> Clip:
    """The clip with every attribute that captions name drawn anew with probability ``share``, each on its own.

    Only for captions that are partly wrong: the objects' paths stay those of the original attributes.
    """

    def drawn(names: Sequence[str], old: str, weights: Sequence[int] | None = None) -> str:
        return rng.choices(names, weights)[0] if rng.random() < share else old

    while True:
        background = drawn(COLOR_NAMES, clip.background)
        things = tuple(
            replace(
                thing,
                color=drawn(COLOR_NAMES, thing.color),
                shape=drawn(SHAPE_NAMES, thing.shape),
                motion=drawn(MOTION_NAMES, thing.motion),
                size_name=drawn(SIZE_NAMES, thing.size_name, (1, 4, 1)),
                speed_name=drawn(SPEED_NAMES, thing.speed_name, (1, 4, 1)),
            )
            for thing in clip.things
        )
        if background not in [thing.color for thing in things]:
            return replace(clip, background=background, things=things)


def _dressed(rng: random.Random, text: str) -> str:
    if rng.random() < 0.15:
        filler = rng.choice(FILLERS)
        text = f"{filler}, {text}" if rng.random() < 0.4 else f"{text}, {filler}"
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.3 else text


def free_caption(clip: Clip) -> str:
    """A caption that leaves the motion open: for clips whose motion comes from a picture or a sound."""
    return f"a {clip.first.color} {clip.first.shape} on a {clip.background} background"


# --- frames -----------------------------------------------------------------------------------------------------------


def render(
    clips: Sequence[Clip], frames: int, size: Sequence[int] | int, window: int = 0, corners: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Frames of clips, optionally only a window of them.

    Args:
        frames: pixel frames of every clip.
        size: side of the full frame in pixels, one for all or one per clip.
        window: side of the square that is drawn; 0 draws everything.
        corners: (B, 2) y, x of the window's corner in pixels.

    Returns:
        (B, 3, F, H, W) in [-1, 1], and the objects' coverage (B, 1, F, H, W) in [0, 1].
    """
    count = len(clips)
    side = torch.tensor([size] * count if isinstance(size, int) else list(size), dtype=torch.float32)
    window = window or int(side[0])
    corners = torch.zeros(count, 2) if corners is None else corners.float()
    progress = torch.linspace(0, 1, frames) if frames > 1 else torch.zeros(1)
    pixel = torch.arange(window) + 0.5
    rows, columns = pixel + corners[:, :1], pixel + corners[:, 1:]
    picture = tinted([clip.background for clip in clips], clips).view(count, 3, 1, 1, 1)
    picture = picture.expand(count, 3, frames, window, window)
    covered = torch.zeros(count, 1, frames, window, window)
    for index in range(max(len(clip.things) for clip in clips)):
        chosen = [i for i, clip in enumerate(clips) if len(clip.things) > index]
        things = [clips[i].things[index] for i in chosen]
        ends = torch.tensor([[thing.start, thing.end] for thing in things])
        centre = ends[:, 0, None] + (ends[:, 1] - ends[:, 0])[:, None] * progress[None, :, None]
        centre = centre * side[chosen, None, None]
        dx = columns[chosen, None, None, :] - centre[:, :, 0, None, None]
        dy = rows[chosen, None, :, None] - centre[:, :, 1, None, None]
        radius = torch.tensor([RADIUS[thing.shape] * thing.size for thing in things]) * side[chosen]
        coverage = torch.empty(len(chosen), 1, frames, window, window)
        for i, thing in enumerate(things):
            coverage[i, 0] = (0.5 - _distance(thing.shape, dx[i], dy[i], float(radius[i]))).clamp(0, 1)
        color = tinted([thing.color for thing in things], [clips[i] for i in chosen], index + 1)
        drawn = picture[chosen]
        drawn = drawn + (color.view(-1, 3, 1, 1, 1) - drawn) * coverage
        if len(chosen) == count:
            picture, covered = drawn, coverage
        else:
            picture = picture.clone()
            picture[chosen] = drawn
            covered[chosen] = torch.maximum(covered[chosen], coverage)
    return picture, covered


def _distance(shape: str, dx: Tensor, dy: Tensor, radius: float) -> Tensor:
    """Signed distance in pixels to the outline, negative inside."""
    if shape == "circle":
        return (dx.square() + dy.square()).sqrt() - radius
    if shape == "square":
        return torch.maximum(dx.abs() + torch.zeros_like(dy), dy.abs() + torch.zeros_like(dx)) - radius
    return torch.maximum(dy - radius + torch.zeros_like(dx), dx.abs() * (3**0.5 / 2) - dy * 0.5 - radius)


def tinted(names: Sequence[str], clips: Sequence[Clip], salt: int = 0) -> Tensor:
    """(B, 3) colours in [-1, 1], moved off the palette as far as each clip asks."""
    colors = torch.tensor([COLORS[name] for name in names], dtype=torch.float32)
    for i, clip in enumerate(clips):
        if clip.tint:
            rng = random.Random(clip.seed + salt)
            colors[i] += torch.tensor([rng.uniform(-clip.tint, clip.tint) for _ in range(3)])
    return colors.clamp(0, 255) / 127.5 - 1


def silhouette(clip: Clip) -> Clip:
    """The control video of the in-context LoRA: the same movement as white shapes on black."""
    things = tuple(
        Thing("white", thing.shape, thing.motion, thing.start, thing.end, thing.size) for thing in clip.things
    )
    return Clip("black", things)


# --- sound ------------------------------------------------------------------------------------------------------------


def sound(clips: Sequence[Clip], samples: int, sample_rate: int, seconds: float, gain: Sequence[float] = ()) -> Tensor:
    """(B, 2, S) stereo tones of the first objects: pitch by shape, louder the higher, panned by the position.

    Args:
        seconds: when the movement ends; later samples keep the last position.
        gain: one factor per clip, 1 if empty.
    """
    time = torch.arange(samples, dtype=torch.float64) / sample_rate
    progress = (time / seconds).clamp(0, 1)
    waves = torch.empty(len(clips), 2, samples)
    for i, clip in enumerate(clips):
        thing = clip.first
        x = thing.start[0] + (thing.end[0] - thing.start[0]) * progress
        y = thing.start[1] + (thing.end[1] - thing.start[1]) * progress
        phase = random.Random(clip.seed).uniform(0, 2 * math.pi)
        wave = LOUDEST * 10 ** ((0.5 - y) * DECIBELS_PER_HEIGHT / 20)
        wave = wave * torch.sin(2 * math.pi * SHAPES[thing.shape].pitch_hz * time + phase) * (time / 0.02).clamp(max=1)
        pan = ((x - 0.2) / 0.6).clamp(0.03, 0.97) * (math.pi / 2)
        waves[i] = torch.stack([wave * pan.cos(), wave * pan.sin()]).float() * (gain[i] if gain else 1.0)
    return waves

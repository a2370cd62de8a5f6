"""Training of the transformer: flow matching on the latents of the world, with all ways of conditioning."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import world
from .dataset import Group
from .device import common_generator, mixed_precision, seeded
from .latents import FRAME_RATE
from .muon import Average, Muon, trapezoid
from .text import CONTEXT_ROWS, Context, Prompts, TextPath, other_prompt
from .transformer import Tokens, Transformer

DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
STAGE_2_SIGMAS = DISTILLED_SIGMAS[5:]
DROPPED_CAPTIONS = 0.1
MUDDLED_CAPTIONS = 4  # different ones for every clip
SOUND_WEIGHT = 0.5


# --- positions --------------------------------------------------------------------------------------------------------


def video_positions(frames: int, height: int, width: int) -> Tensor:
    """(f*h*w, 3) middle of the cells of a latent grid in seconds and pixels; the first frame stands alone."""
    edges = (torch.arange(frames + 1).float() * 8 - 7).clamp(min=0)
    seconds = (edges[:-1] + edges[1:]) / 2 / FRAME_RATE
    rows, columns = (torch.arange(n).float() * 32 + 16 for n in (height, width))
    return torch.stack(torch.meshgrid(seconds, rows, columns, indexing="ij"), -1).reshape(-1, 3)


def keyframe_positions(frame: Tensor, height: int, width: int) -> Tensor:
    """(B, h*w, 3) cells of single pictures at pixel frames (B,)."""
    grid = video_positions(1, height, width).expand(len(frame), -1, -1).clone()
    grid[..., 0] = ((frame.float() + 0.5) / FRAME_RATE)[:, None]
    return grid


def sound_positions(tokens: int) -> Tensor:
    """(L, 1) middle of the audio tokens in seconds."""
    edges = (torch.arange(tokens + 1).float() * 4 - 3).clamp(min=0) * 0.01
    return ((edges[:-1] + edges[1:]) / 2)[:, None]


# --- captions ---------------------------------------------------------------------------------------------------------


class CaptionPool:
    """Contexts of many captions, made once: the text path is finished when the transformer trains."""

    def __init__(self, path: TextPath, prompts: Prompts, registers: int = 6) -> None:
        self._path, self._prompts, self._registers = path, prompts, registers
        self._index: dict[str, int] = {}
        self._rows: list[tuple[Tensor, Tensor]] = []
        generator = seeded(17)
        self._drawn = 64 + torch.randperm(CONTEXT_ROWS - 64, generator=generator)[:registers]

    @torch.no_grad()
    def add(self, texts: Sequence[str]) -> list[int]:
        """Indices of captions, whose contexts are computed where they are new."""
        new = sorted({text for text in texts if text not in self._index}, key=len)
        for start in range(0, len(new), 256):
            some = new[start : start + 256]
            ids, counts = self._prompts(some)
            with mixed_precision():
                context = self._path(ids, counts, self._registers, self._drawn)
            longest = ids.shape[1]
            for i, text in enumerate(some):
                kept = torch.cat([torch.arange(int(counts[i])), torch.arange(longest, longest + self._registers)])
                self._index[text] = len(self._rows)
                self._rows.append((context.video[i, kept].float(), context.audio[i, kept].float()))
        return [self._index[text] for text in texts]

    def batch(self, indices: Sequence[int]) -> Context:
        """Contexts of captions, padded; every row weighs as many of the 1024 rows as it stands for."""
        rows = [self._rows[i] for i in indices]
        longest = max(len(video) for video, _ in rows)
        width = rows[0][0].shape[1]
        video, sound = torch.zeros(len(rows), longest, width), torch.zeros(len(rows), longest, width)
        bias = torch.full((len(rows), longest), -1e4)
        for i, (seen, heard) in enumerate(rows):
            video[i, : len(seen)], sound[i, : len(heard)] = seen, heard
            words = len(seen) - self._registers
            bias[i, :words] = 0
            stands_for = torch.tensor((CONTEXT_ROWS - words) / self._registers)
            bias[i, words : len(seen)] = stands_for.log()
        return Context(video, sound, bias[:, None, None])


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A group ready for training.

    Attributes:
        group: the latents.
        captions: for every clip, indices of full captions.
        open_captions: for every clip, the caption that leaves the motion open.
        muddled_captions: for every clip, indices of captions that are partly wrong; none if all are to be right.
        batch: clips per step.
        weight: how often the shard is drawn.
        refining: share of its batches at the noise levels of the second stage.
    """

    group: Group
    captions: list[list[int]]
    open_captions: list[int]
    muddled_captions: list[list[int]]
    batch: int
    weight: float
    refining: float


def make_shard(
    group: Group,
    pool: CaptionPool,
    *,
    seed: int,
    batch: int,
    weight: float,
    captions: int = 2,
    refining: float = 0.0,
    muddled: float = 0.0,
) -> Shard:
    """``muddled`` is the chance of an attribute to be drawn anew in captions that are partly wrong; 0 makes none."""
    rng = random.Random(seed)
    full = [[world.caption(rng, clip) for clip in group.clips] for _ in range(captions)]
    indices = [pool.add(texts) for texts in full]
    wrong = [
        pool.add([world.caption(rng, world.muddled(rng, clip, muddled)) for clip in group.clips])
        for _ in range(MUDDLED_CAPTIONS if muddled else 0)
    ]
    one = [clip if len(clip.things) == 1 else None for clip in group.clips]
    open_texts = [world.free_caption(c) if c else full[0][i] for i, c in enumerate(one)]
    return Shard(
        group=group,
        captions=[list(row) for row in zip(*indices, strict=True)],
        open_captions=pool.add(open_texts),
        muddled_captions=[list(row) for row in zip(*wrong, strict=True)],
        batch=batch,
        weight=weight,
        refining=refining,
    )


def sample_sigmas(count: int, refining: bool) -> tuple[Tensor, Tensor]:
    """Noise levels, about half of them of the distilled table, and which they are; the others lean to high noise.

    ``refining`` draws mostly from the three levels of the second stage.
    """
    late = torch.tensor(DISTILLED_SIGMAS[5:8])[torch.randint(3, (count,))]
    even = torch.rand(count)
    if refining:
        is_listed = torch.rand(count) < 0.7
        return torch.where(is_listed, late, even).clamp(min=1e-3), is_listed
    early = torch.tensor(DISTILLED_SIGMAS[:5])[torch.randint(5, (count,))]
    listed = torch.where(torch.rand(count) < 0.35, early, late)
    spread = torch.where(torch.rand(count) < 0.35, 0.9 + 0.1 * even, 3 * even / (1 + 2 * even))
    is_listed = torch.rand(count) < 0.55
    return torch.where(is_listed, listed, spread).clamp(min=1e-3), is_listed


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and weights of one step."""

    video: Tokens
    sound: Tokens
    context: Context
    video_target: Tensor
    sound_target: Tensor
    video_weight: Tensor
    sound_weight: Tensor


def noised(clean: Tensor, sigma: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens at their noise levels, and the velocity noise - clean."""
    noise = torch.randn_like(clean)
    level = sigma[:, None] if mask is None else sigma[:, None] * mask
    return torch.lerp(clean, noise, level[..., None].expand_as(clean)), noise - clean


def sample_batch(shard: Shard, pool: CaptionPool, unconditional: list[int], rng: random.Random) -> Batch:
    """A batch in one of the ways of conditioning; the mix is fixed by the shares below.

    Where nothing but the caption is given and the noise level is not of the distilled table, the caption is a muddled
    one if the shard has any: so that guidance has something to do there, and the distilled schedule needs none.
    """
    data, count = shard.group, shard.batch
    chosen = torch.tensor(rng.sample(range(len(data.clips)), count))
    latent = data.video[chosen]
    _, frames, height, width, _ = latent.shape
    clean, sound = latent.flatten(1, 3), data.sound[chosen]
    cells, length = height * width, sound.shape[1]
    positions = video_positions(frames, height, width).expand(count, -1, -1)
    sigma, is_listed = sample_sigmas(count, rng.random() < shard.refining)
    video_sigma, sound_sigma = sigma.clone(), sigma.clone()
    video_weight, sound_weight = torch.ones(count, clean.shape[1]), torch.ones(count, length)
    video_mask = sound_mask = None
    is_open = torch.zeros(count, dtype=torch.bool)
    is_muddled = torch.zeros(count, dtype=torch.bool)

    draw = rng.random()
    if draw < 0.70:  # plain, and with one stream given as a whole
        kind = torch.rand(count)
        heard = kind < 0.14
        sound_sigma[heard], sound_weight[heard] = 0, 0
        seen = (kind > 0.95) & (height == 4)
        video_sigma[seen], video_weight[seen] = 0, 0
        is_open = heard & (torch.rand(count) < 0.6)
        if shard.muddled_captions:
            is_muddled = ~(heard | seen | is_listed)
    else:
        video_mask, sound_mask = torch.ones(count, clean.shape[1]), torch.ones(count, length)
        if draw < 0.86:  # first frame given; or a span of time generated anew, for some after another movement
            kind = torch.rand(count)
            for i in range(count):
                if kind[i] < 0.5:
                    video_mask[i, :cells] = 0
                else:
                    turns = kind[i] > 0.75
                    if turns:
                        first, last = int(data.turn[chosen[i]]), frames
                        clean[i, : first * cells] = data.arrival[chosen[i], :first].flatten(0, 2)
                    else:
                        first, last = sorted(rng.choices(range(frames + 1), k=2))
                        last = max(last, min(first + 1, frames))
                        first = min(first, last - 1)
                    video_mask[i] = 0
                    video_mask[i, first * cells : last * cells] = 1
                    begin, end = max(8 * first - 7, 0) / FRAME_RATE, (8 * last - 7) / FRAME_RATE
                    time = sound_positions(length)[:, 0]
                    sound_mask[i] = ((time > begin - 0.02) & (time < end + 0.02)).float()
                    if turns:
                        kept = sound_mask[i] == 0
                        sound[i, kept] = data.arrival_sound[chosen[i], kept]
            is_open = (kind < 0.5) & (torch.rand(count) < 0.1)
        else:  # key frames appended: a later one, often with the first
            appended = [data.keyframe[chosen].flatten(1, 2)]
            places = [keyframe_positions(data.keyframe_index[chosen], height, width)]
            if rng.random() < 0.6:
                appended.insert(0, clean[:, :cells])
                places.insert(0, keyframe_positions(torch.zeros(count), height, width))
            elif rng.random() < 0.5:
                video_mask[:, :cells] = 0
            clean = torch.cat([clean, *appended], 1)
            positions = torch.cat([positions, *places], 1)
            given = torch.zeros(count, clean.shape[1] - video_mask.shape[1])
            video_mask = torch.cat([video_mask, given], 1)
            is_open = torch.rand(count) < 0.5
        video_weight, sound_weight = video_mask.clone(), sound_mask.clone()

    captions = [
        shard.open_captions[i]
        if is_open[row]
        else rng.choice(shard.muddled_captions[i] if is_muddled[row] else shard.captions[i])
        for row, i in enumerate(chosen.tolist())
    ]
    captions = [rng.choice(unconditional) if rng.random() < DROPPED_CAPTIONS else c for c in captions]
    video_noisy, video_target = noised(clean, video_sigma, video_mask)
    sound_noisy, sound_target = noised(sound, sound_sigma, sound_mask)
    return Batch(
        video=Tokens(video_noisy, video_sigma, video_mask, positions),
        sound=Tokens(sound_noisy, sound_sigma, sound_mask, sound_positions(length).expand(count, -1, -1)),
        context=pool.batch(captions),
        video_target=video_target,
        sound_target=sound_target,
        video_weight=video_weight,
        sound_weight=sound_weight,
    )


def losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the velocities of both streams over the generated tokens."""
    video, sound = model(batch.video, batch.sound, batch.context)

    def mean(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return ((velocity.float() - target).square().mean(-1) * weight).sum() / weight.sum().clamp(min=1)

    return (
        mean(video, batch.video_target, batch.video_weight),
        mean(sound, batch.sound_target, batch.sound_weight),
    )


def unconditional_prompts(pool: CaptionPool, negative: str) -> list[int]:
    """Captions that say nothing, for classifier-free guidance; half of them empty or the usual negative prompt."""
    rng = random.Random(3)
    texts = [other_prompt(rng) for _ in range(48)]
    return pool.add(texts + [""] * 16 + [negative] * 24)


def optimiser_for(model: Transformer, matrix_rate: float, other_rate: float) -> Muon:
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and name.startswith("transformer_blocks") and "table" not in name
    ]
    known = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return Muon(matrices, others, matrix_rate=matrix_rate, other_rate=other_rate)


def train(
    model: Transformer,
    shards: Sequence[Shard],
    pool: CaptionPool,
    *,
    steps: int,
    fall: int,
    seed: int,
    rate: float,
    negative: str,
    report: Callable[..., None],
    save: Callable[[nn.Module], None],
    resume: Path,
    save_every: int = 100,
) -> Transformer:
    """Trains for ``steps``, the last ``fall`` of them with a falling rate; ``rate`` is a share of the usual one.

    ``resume`` is a file that holds the whole state every ``save_every`` steps; where it exists, the run goes on from
    there and ends with the same weights as an uninterrupted one.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    unconditional = unconditional_prompts(pool, negative)
    average = Average(model, 0.998)
    optimiser = optimiser_for(model, 0.02 * rate, 2e-3 * rate)
    smooth: dict[str, float] = {}
    first = 0
    if resume.exists():
        saved = torch.load(resume, map_location=torch.get_default_device(), weights_only=False)
        first, smooth, average.state, average.updates = (saved[k] for k in ("step", "smooth", "average", "updates"))
        model.load_state_dict(saved["model"])
        optimiser.restore(saved["optimiser"])
        common_generator().set_state(saved["torch_rng"].cpu())
        rng.setstate(saved["rng"])
    for step in range(first, steps):
        if step % save_every == 0 and step > first:
            save_state(average, save)
            state = {
                "step": step,
                "smooth": smooth,
                "average": average.state,
                "updates": average.updates,
                "model": model.state_dict(),
                "optimiser": optimiser.state(),
                "torch_rng": common_generator().get_state(),
                "rng": rng.getstate(),
            }
            torch.save(state, resume.with_suffix(".new"))
            resume.with_suffix(".new").replace(resume)
        shard = rng.choices(shards, [s.weight for s in shards])[0]
        batch = sample_batch(shard, pool, unconditional, rng)
        with mixed_precision():
            video, sound = losses(model, batch)
        optimiser.zero_grad()
        (video + SOUND_WEIGHT * sound).backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=40, decay=fall / steps))
        average.update()
        key = f"video_{shard.group.size}"
        for name, value in ((key, video.item()), ("sound", sound.item())):
            smooth[name] = 0.97 * smooth.get(name, value) + 0.03 * value
        if step % 50 == 0 or step == steps - 1:
            report(step=step, **smooth)
    return save_state(average, save)


def save_state(average: Average, save: Callable[[nn.Module], None]) -> Transformer:
    judge = Transformer()
    judge.load_state_dict(average.state)
    save(judge)
    return judge

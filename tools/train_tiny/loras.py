"""Low-rank adapters of the transformer and their training: the in-context control LoRA and the distilled LoRA."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import flow_matching
from .device import mixed_precision
from .flow_matching import Batch, CaptionPool, Shard, losses, noised, sample_sigmas, video_positions
from .muon import trapezoid
from .transformer import Tokens, Transformer

CONTROL_TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
DISTILLED_TARGETS = (*CONTROL_TARGETS, "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus ``lora_B @ lora_A``."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B)


def adapt(model: Transformer, targets: Iterable[str], rank: int) -> dict[str, AdaptedLinear]:
    """Freezes the model and puts adapters on the named layers of every block; returns them by module path."""
    model.requires_grad_(False)
    adapters = {}
    for index, block in enumerate(model.transformer_blocks):
        for target in targets:
            parent_path, _, leaf = target.rpartition(".")
            parent = block.get_submodule(parent_path)
            base = parent[int(leaf)] if leaf.isdigit() else getattr(parent, leaf)
            adapter = AdaptedLinear(base, rank)
            if leaf.isdigit():
                parent[int(leaf)] = adapter
            else:
                setattr(parent, leaf, adapter)
            adapters[f"transformer_blocks.{index}.{target}"] = adapter
    return adapters


def lora_tensors(adapters: dict[str, AdaptedLinear]) -> dict[str, Tensor]:
    """Adapters under the names of official LoRA files."""
    return {
        f"diffusion_model.{path}.{name}.weight": getattr(adapter, name).detach().clone()
        for path, adapter in adapters.items()
        for name in ("lora_A", "lora_B")
    }


def control_batch(shard: Shard, references: Tensor, pool: CaptionPool, rng: random.Random) -> Batch:
    """The silhouettes of the clips as reference tokens; captions that mostly leave the motion open."""
    data, count = shard.group, shard.batch
    chosen = torch.tensor(rng.sample(range(len(data.clips)), count))
    latent, control = data.video[chosen], references[chosen]
    clean, reference = latent.flatten(1, 3), control.flatten(1, 3)
    positions = video_positions(*latent.shape[1:4]).expand(count, -1, -1)
    sound = data.sound[chosen]
    length, tokens = sound.shape[1], clean.shape[1]
    mask = torch.cat([torch.ones(count, tokens), torch.zeros(count, reference.shape[1])], 1)
    sigma, _ = sample_sigmas(count, refining=False)
    noisy, target = noised(torch.cat([clean, reference], 1), sigma, mask)
    sound_noisy, sound_target = noised(sound, sigma, None)
    captions = [
        shard.open_captions[i] if rng.random() < 0.7 else rng.choice(shard.captions[i]) for i in chosen.tolist()
    ]
    return Batch(
        video=Tokens(noisy, sigma, mask, torch.cat([positions, positions], 1)),
        sound=Tokens(sound_noisy, sigma, None, flow_matching.sound_positions(length).expand(count, -1, -1)),
        context=pool.batch(captions),
        video_target=target,
        sound_target=sound_target,
        video_weight=mask.clone(),
        sound_weight=torch.ones(count, length),
    )


def distilled_batch(shard: Shard, pool: CaptionPool, rng: random.Random) -> Batch:
    """Plain clips at exactly the noise levels of the second stage."""
    data, count = shard.group, shard.batch
    chosen = torch.tensor(rng.sample(range(len(data.clips)), count))
    latent, sound = data.video[chosen], data.sound[chosen]
    levels = torch.tensor(flow_matching.STAGE_2_SIGMAS[:-1])
    sigma = levels[torch.randint(len(levels), (count,))]
    noisy, target = noised(latent.flatten(1, 3), sigma, None)
    sound_noisy, sound_target = noised(sound, sigma, None)
    length = sound.shape[1]
    return Batch(
        video=Tokens(noisy, sigma, None, video_positions(*latent.shape[1:4]).expand(count, -1, -1)),
        sound=Tokens(sound_noisy, sigma, None, flow_matching.sound_positions(length).expand(count, -1, -1)),
        context=pool.batch([rng.choice(shard.captions[i]) for i in chosen.tolist()]),
        video_target=target,
        sound_target=sound_target,
        video_weight=torch.ones(count, noisy.shape[1]),
        sound_weight=torch.ones(count, length),
    )


def train(
    model: Transformer,
    targets: Iterable[str],
    rank: int,
    sample: Callable[[random.Random], Batch],
    *,
    steps: int,
    seed: int,
    report: Callable[..., None],
) -> dict[str, Tensor]:
    """Trains adapters by AdamW on the batches of ``sample``; returns the tensors of the LoRA file."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    adapters = adapt(model, targets, rank)
    parameters = [p for adapter in adapters.values() for p in (adapter.lora_A, adapter.lora_B)]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    smooth: dict[str, float] = {}
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * trapezoid(step, steps, warmup=20, decay=0.5)
        with mixed_precision():
            video, sound = losses(model, sample(rng))
        optimiser.zero_grad()
        (video + flow_matching.SOUND_WEIGHT * sound).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        for name, value in (("video", video.item()), ("sound", sound.item())):
            smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
        if step % 25 == 0 or step == steps - 1:
            report(step=step, **smooth)
    return lora_tensors(adapters)

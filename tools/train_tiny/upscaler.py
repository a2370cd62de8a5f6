"""Latent upscalers with official tensor names (twice the size, twice the frames), and their training."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config, latents
from .channel_statistics import Statistics
from .muon import Average, for_convolutions, trapezoid

USED = config.VIDEO_CHANNELS_USED


class UpscalerBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(32, channels), nn.GroupNorm(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return F.silu(hidden + x)


class Upscaler(nn.Module):
    """One network for both kinds; the configuration says which axis doubles."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        channels, blocks = settings["mid_channels"], settings["num_blocks_per_stage"]
        self._temporal = settings["temporal_upsample"]
        self.initial_conv = nn.Conv3d(settings["in_channels"], channels, 3, padding=1)
        self.initial_norm = nn.GroupNorm(32, channels)
        self.res_blocks = nn.ModuleList(UpscalerBlock(channels) for _ in range(blocks))
        widening = (
            nn.Conv3d(channels, 2 * channels, 3, padding=1)
            if self._temporal
            else nn.Conv2d(channels, 4 * channels, 3, padding=1)
        )
        self.upsampler = nn.ModuleList([widening])
        self.post_upsample_res_blocks = nn.ModuleList(UpscalerBlock(channels) for _ in range(blocks))
        self.final_conv = nn.Conv3d(channels, settings["in_channels"], 3, padding=1)
        with torch.no_grad():
            self.initial_conv.weight[:, USED:] = 0
            self.final_conv.weight[USED:] = 0
            self.final_conv.bias[USED:] = 0

    def forward(self, latent: Tensor) -> Tensor:
        """The used channels of an unnormalised latent (B, C, f, h, w) to (B, C, f, 2h, 2w) or (B, C, 2f-1, h, w)."""
        x = F.conv3d(latent, self.initial_conv.weight[:, :USED], self.initial_conv.bias, padding=1)
        x = F.silu(self.initial_norm(x))
        for block in self.res_blocks:
            x = block(x)
        if self._temporal:
            x = self.upsampler[0](x)
            x = x.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)[:, :, 1:]
        else:
            frames = x.transpose(1, 2)
            x = F.pixel_shuffle(self.upsampler[0](frames.flatten(0, 1)), 2)
            x = x.unflatten(0, frames.shape[:2]).transpose(1, 2)
        for block in self.post_upsample_res_blocks:
            x = block(x)
        return F.conv3d(x, self.final_conv.weight[:USED], self.final_conv.bias[:USED], padding=1)


def train(
    settings: dict[str, Any],
    low: Tensor,
    high: Tensor,
    *,
    steps: int,
    seed: int,
    report: Callable[..., None],
    save: Callable[[nn.Module], None],
) -> None:
    """Learns pairs of normalised latents (N, f, h, w, C), with a little noise on the smaller one.

    Errors are measured in normalised units; the last 24 pairs are kept for judging.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Upscaler(settings)
    statistics = Statistics()
    statistics.set(*latents.video_statistics())
    average = Average(model, 0.99)
    optimiser = for_convolutions(model, matrix_rate=0.01, other_rate=1e-3)
    low, high = (x.permute(0, 4, 1, 2, 3) for x in (low, high))
    kept = 24

    def error(judged: Upscaler, small: Tensor, large: Tensor) -> Tensor:
        return (statistics.normalise(judged(statistics.restore(small))) - large).square().mean()

    judge = Upscaler(settings)
    for step in range(steps):
        chosen = torch.tensor(rng.sample(range(len(low) - kept), 8))
        small = low[chosen]
        small = small + 0.15 * torch.rand(8, 1, 1, 1, 1) * torch.randn_like(small)
        # In float32: torch 2.13's gradient of a bfloat16 conv3d this small may hold what was in memory before.
        loss = error(model, small, high[chosen])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=0.6))
        average.update()
        if step % 100 == 0 or step == steps - 1:
            judge.load_state_dict(average.state)
            with torch.no_grad():
                report(step=step, loss=loss.item(), held_out=error(judge, low[-kept:], high[-kept:]).item())
            save(judge)

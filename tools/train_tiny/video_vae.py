"""The causal video VAE in the 19B structure: modules with the official tensor names, and its training."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config, world
from .muon import Average, for_convolutions, trapezoid

STRIDES = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}


def pixel_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class PaddedConv3d(nn.Module):
    """Kernel 3; time padded by repeated frames (both in front if ``causal``), space by zeros or reflection."""

    def __init__(self, channels_in: int, channels_out: int, *, causal: bool, reflect: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 3)
        self._causal = causal
        self._reflect = reflect

    def forward(self, x: Tensor) -> Tensor:
        first, last = x[:, :, :1], x[:, :, -1:]
        x = torch.cat([first, first, x] if self._causal else [first, x, last], dim=2)
        if not self._reflect:
            return F.conv3d(x, self.conv.weight, self.conv.bias, padding=(0, 1, 1))
        x = torch.cat([x[..., 1:2, :], x, x[..., -2:-1, :]], dim=-2)
        x = torch.cat([x[..., 1:2], x, x[..., -2:-1]], dim=-1)
        return F.conv3d(x, self.conv.weight, self.conv.bias)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, **padding: bool) -> None:
        super().__init__()
        self.conv1 = PaddedConv3d(channels, channels, **padding)
        self.conv2 = PaddedConv3d(channels, channels, **padding)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(pixel_norm(x)))
        return x + self.conv2(F.silu(pixel_norm(hidden)))


class ResidualStage(nn.Module):
    def __init__(self, channels: int, count: int, **padding: bool) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(ResidualBlock(channels, **padding) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


def to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) to (B, C*P, T/a, H/b, W/c): channel, then offset in time, height, width."""
    batch, channels, time, height, width = x.shape
    a, b, c = stride
    x = x.view(batch, channels, time // a, a, height // b, b, width // c, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, channels * a * b * c, time // a, height // b, width // c)


def from_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Inverse of `to_depth`."""
    batch, channels, time, height, width = x.shape
    a, b, c = stride
    channels //= a * b * c
    x = x.view(batch, channels, a, b, c, time, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, channels, time * a, height * b, width * c)


class Downsample(nn.Module):
    """``compress_*_res``: convolution and shortcut, both moved from space into channels."""

    def __init__(self, channels: int, stride: tuple[int, int, int], multiplier: int, **padding: bool) -> None:
        super().__init__()
        cells = stride[0] * stride[1] * stride[2]
        self._stride = stride
        self._out = channels * multiplier
        self._group = channels * cells // self._out
        self.conv = PaddedConv3d(channels, self._out // cells, **padding)

    def forward(self, x: Tensor) -> Tensor:
        if self._stride[0] == 2:
            x = torch.cat([x[:, :, :1], x], dim=2)
        shortcut = to_depth(x, self._stride)
        shortcut = shortcut.unflatten(1, (self._out, self._group)).mean(2)
        return to_depth(self.conv(x), self._stride) + shortcut


class Upsample(nn.Module):
    """``compress_*`` of the decoder: channels moved into space; the residual variant adds the tiled input."""

    def __init__(
        self, channels: int, stride: tuple[int, int, int], multiplier: int, residual: bool, **padding: bool
    ) -> None:
        super().__init__()
        cells = stride[0] * stride[1] * stride[2]
        self._stride = stride
        self._copies = cells // multiplier if residual else 0
        self.conv = PaddedConv3d(channels, cells * channels // multiplier, **padding)

    def forward(self, x: Tensor) -> Tensor:
        first = 1 if self._stride[0] == 2 else 0
        y = from_depth(self.conv(x), self._stride)[:, :, first:]
        if self._copies:
            y = y + from_depth(x, self._stride)[:, :, first:].repeat(1, self._copies, 1, 1, 1)
        return y


class Encoder(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        padding = {"causal": True, "reflect": False}
        channels = settings["encoder_base_channels"]
        self.conv_in = PaddedConv3d(48, channels, **padding)
        self.down_blocks = nn.ModuleList()
        for name, options in settings["encoder_blocks"]:
            if name == "res_x":
                self.down_blocks.append(ResidualStage(channels, options["num_layers"], **padding))
            else:
                stride = STRIDES[name.split("_")[1]]
                self.down_blocks.append(Downsample(channels, stride, options["multiplier"], **padding))
                channels *= options["multiplier"]
        self.conv_out = PaddedConv3d(channels, settings["latent_channels"] + 1, **padding)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, F, H, W) to the first used channels of the latent, not normalised."""
        batch, channels, time, height, width = frames.shape
        x = frames.view(batch, channels, time, height // 4, 4, width // 4, 4).permute(0, 1, 6, 4, 2, 3, 5)
        x = self.conv_in(x.reshape(batch, channels * 16, time, height // 4, width // 4))
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(pixel_norm(x)))[:, : config.VIDEO_CHANNELS_USED]


class Decoder(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        padding = {"causal": settings["causal_decoder"], "reflect": True}
        blocks = settings["decoder_blocks"][::-1]
        channels = settings["decoder_base_channels"]
        for name, options in blocks:
            if name != "res_x":
                channels *= options["multiplier"]
        self.conv_in = PaddedConv3d(settings["latent_channels"], channels, **padding)
        self.up_blocks = nn.ModuleList()
        for name, options in blocks:
            if name == "res_x":
                self.up_blocks.append(ResidualStage(channels, options["num_layers"], **padding))
            else:
                stride, multiplier = STRIDES[name.split("_")[1]], options["multiplier"]
                self.up_blocks.append(Upsample(channels, stride, multiplier, options["residual"], **padding))
                channels //= multiplier
        self.conv_out = PaddedConv3d(channels, 48, **padding)

    def forward(self, latent: Tensor) -> Tensor:
        """The used channels of a latent (B, C, f, h, w), not normalised, to frames (B, 3, F, H, W)."""
        unused = self.conv_in.conv.weight.shape[1] - latent.shape[1]
        x = self.conv_in(F.pad(latent, (0, 0, 0, 0, 0, 0, 0, unused)))
        for block in self.up_blocks:
            x = block(x)
        x = self.conv_out(F.silu(pixel_norm(x)))
        batch, _, time, height, width = x.shape
        x = x.view(batch, 3, 4, 4, time, height, width).permute(0, 1, 4, 5, 3, 6, 2)
        return x.reshape(batch, 3, time, height * 4, width * 4)


class Statistics(nn.Module):
    """Mean and deviation of every latent channel, under their official names."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.register_buffer("mean-of-means", torch.zeros(channels))
        self.register_buffer("std-of-means", torch.ones(channels))

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Values of the used channels; the others keep 0 and 1."""
        self.get_buffer("mean-of-means")[: len(mean)] = mean
        self.get_buffer("std-of-means")[: len(deviation)] = deviation

    def normalise(self, latent: Tensor) -> Tensor:
        mean, deviation = self._columns(latent)
        return (latent - mean) / deviation

    def restore(self, latent: Tensor) -> Tensor:
        mean, deviation = self._columns(latent)
        return latent * deviation + mean

    def _columns(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, latent.shape[1]) + (1,) * (latent.dim() - 2)
        mean, deviation = self.get_buffer("mean-of-means"), self.get_buffer("std-of-means")
        return mean[: shape[1]].view(shape), deviation[: shape[1]].view(shape)


class VideoVae(nn.Module):
    def __init__(self, settings: dict[str, Any] = config.VIDEO_VAE) -> None:
        super().__init__()
        self.encoder = Encoder(settings)
        self.decoder = Decoder(settings)
        self.per_channel_statistics = Statistics(settings["latent_channels"])
        used = config.VIDEO_CHANNELS_USED
        with torch.no_grad():
            self.encoder.conv_out.conv.weight[used:] = 0
            self.encoder.conv_out.conv.bias[used:] = 0
            self.decoder.conv_in.conv.weight[:, used:] = 0

    def encode(self, frames: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to the used channels of the normalised latent."""
        return self.per_channel_statistics.normalise(self.encoder(frames))

    def decode(self, latent: Tensor) -> Tensor:
        """The used channels of a normalised latent to frames."""
        return self.decoder(self.per_channel_statistics.restore(latent))


# Window side, frames and clips of the training batches, taken in turn.
BATCHES = ((64, 9, 8), (128, 9, 2), (64, 9, 8), (96, 17, 2))


def sample_batch(rng: random.Random, window: int, frames: int, count: int) -> tuple[Tensor, Tensor]:
    """Windows of random clips at either resolution, mostly where an object passes."""
    clips, sizes, corners = [], [], []
    for _ in range(count):
        clip = world.sample_free_clip(rng)
        size = 128 if rng.random() < 0.65 else 256
        thing = rng.choice(clip.things)
        corner = []
        for axis in (1, 0):
            middle = (thing.start[axis] + thing.end[axis]) / 2 * size
            low = middle + rng.uniform(-0.8, 0.8) * window - window / 2
            corner.append(int(min(max(low, 0), size - window)))
        clips.append(clip)
        sizes.append(size)
        corners.append(corner)
    return world.render(clips, frames, sizes, window, torch.tensor(corners))


def edge_weight(coverage: Tensor) -> Tensor:
    """More weight on objects and most around their outlines."""
    near = F.max_pool3d(coverage, (1, 7, 7), 1, (0, 3, 3))
    edge = near + F.max_pool3d(1 - coverage, (1, 7, 7), 1, (0, 3, 3)) - 1
    return 1 + near + 4 * edge


@torch.no_grad()
def quality(vae: VideoVae, size: int, noise: float = 0.0) -> float:
    """Mean PSNR in dB over fixed clips of 17 frames."""
    rng = random.Random(123)
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(1 if size > 128 else 4):
        frames, _ = world.render([world.sample_clip(rng, held_out=None)], 17, size)
        latent = vae.encoder(frames)
        latent = latent + noise * torch.randn(latent.shape, generator=generator)
        error = (vae.decoder(latent).clamp(-1, 1) - frames).square().mean()
        values.append(10 * torch.log10(4 / error))
    return float(torch.stack(values).mean())


def train(
    steps: int,
    seed: int,
    report: Callable[..., None],
    save: Callable[[nn.Module], None],
    start: dict[str, Tensor] | None = None,
) -> VideoVae:
    """Reconstruction with noise on the latent; returns the averaged weights with their latent statistics.

    ``start`` continues from the weights of an earlier run.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    vae = VideoVae()
    if start is not None:
        vae.load_state_dict(start)
    average = Average(vae, 0.998)
    optimiser = for_convolutions(vae, matrix_rate=0.02, other_rate=2e-3)
    judge = VideoVae()
    for step in range(steps):
        frames, coverage = sample_batch(rng, *BATCHES[step % len(BATCHES)])
        latent = vae.encoder(frames)
        spread = torch.rand(latent.shape[0], 1, 1, 1, 1) * 0.15
        decoded = vae.decoder(latent + spread * torch.randn_like(latent))
        error = decoded - frames
        loss = (edge_weight(coverage) * (error.abs() + 2 * error.square())).mean()
        bound = F.relu(latent.square() - 1).mean()
        optimiser.zero_grad()
        (loss + 0.05 * bound).backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=0.6))
        average.update()
        if step % 100 == 0:
            judge.load_state_dict(average.state)
            report(
                step=step,
                loss=loss.item(),
                bound=bound.item(),
                psnr_128=quality(judge, 128, noise=0.05),
            )
            save(judge)
    judge.load_state_dict(average.state)
    measure_statistics(judge, rng, min(64, steps))
    report(step=steps, psnr_128=quality(judge, 128, noise=0.05), psnr_256=quality(judge, 256))
    save(judge)
    return judge


@torch.no_grad()
def measure_statistics(vae: VideoVae, rng: random.Random, clips: int) -> None:
    """Mean and deviation of the latent channels over ``clips`` of the world, and some at twice the size."""
    rows = []
    for size, count in ((128, clips), (256, max(1, clips // 5))):
        for _ in range(count):
            frames, _ = world.render([world.sample_clip(rng)], 25, size)
            rows.append(vae.encoder(frames).transpose(0, 1).flatten(1))
    latents = torch.cat(rows, dim=1)
    vae.per_channel_statistics.set(latents.mean(1), latents.std(1))

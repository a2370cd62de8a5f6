"""The causal video VAE in the 19B structure: modules with the official tensor names, and its training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config, latents, world
from .channel_statistics import Statistics
from .device import mixed_precision
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

    def hidden(self, latent: Tensor) -> Tensor:
        """What the last convolution sees."""
        unused = self.conv_in.conv.weight.shape[1] - latent.shape[1]
        x = self.conv_in(F.pad(latent, (0, 0, 0, 0, 0, 0, 0, unused)))
        for block in self.up_blocks:
            x = block(x)
        return F.silu(pixel_norm(x))

    def forward(self, latent: Tensor) -> Tensor:
        """The used channels of a latent (B, C, f, h, w), not normalised, to frames (B, 3, F, H, W)."""
        x = self.conv_out(self.hidden(latent))
        batch, _, time, height, width = x.shape
        x = x.view(batch, 3, 4, 4, time, height, width).permute(0, 1, 4, 5, 3, 6, 2)
        return x.reshape(batch, 3, time, height * 4, width * 4)


CARRIED_DISTANCE, CARRIED_CONSTANT = 2.0, 6.0
# Places of what the decoder carries behind the first doubling, and of what its last stage makes of it.
DISTANCE, BACKGROUND, NEAR, COLOR, CONSTANT, MINUS = 0, 1, 4, 5, 13, 14
INSIDE, OUTSIDE, DRAWN = 21, 22, 23


@torch.no_grad()
def start_as_interpolation(decoder: Decoder) -> None:
    """Sets the decoder to interpolate the latent's channels and to choose between the two colours by the distance.

    Behind the first doubling channel 0 is the signed distance, which the latent holds for exactly these points,
    1-12 are the other channels, 13 is constant, 14-20 are the negatives of the distance and of both colours, because
    silu(x) - silu(-x) = x. The last stage adds whether a point is inside or outside of the object, and the colour drawn
    there. Of the other weights a small random part is kept.
    """
    kernel = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    doubling = torch.einsum("at,bh,cw->abcthw", kernel, kernel, kernel).flatten(0, 2)  # (8, 3, 3, 3)
    conv = decoder.conv_in.conv
    conv.weight.mul_(0.3)
    conv.weight[:21] = 0
    conv.bias.zero_()
    for channel in range(config.VIDEO_CHANNELS_USED):
        conv.weight[channel, channel, 1, 1, 1] = 1
    conv.bias[20] = CARRIED_CONSTANT
    is_first = True
    for block in decoder.up_blocks:
        if isinstance(block, ResidualStage):
            for part in block.res_blocks:
                part.conv2.conv.weight.mul_(0.1)
                part.conv2.conv.bias.zero_()
            continue
        weight = block.conv.conv.weight
        outputs, inputs = weight.shape[0] // 8, weight.shape[1]
        weight.mul_(0.3)
        block.conv.conv.bias.zero_()
        weight[: 29 * 8] = 0
        # (output at 14 carried places) <- (input)
        sources = [*range(12), 20] if is_first else [*range(1, 13), 13]
        for output, source in enumerate(sources, start=1):
            weight[output * 8 : output * 8 + 8, source] = doubling
        for cell in range(8):
            if is_first:
                weight[cell, 12 + cell, 1, 1, 1] = CARRIED_DISTANCE
            else:
                weight[cell, 0] = doubling[cell]
        for output, positive in enumerate((DISTANCE, 1, 2, 3, 5, 6, 7), start=MINUS):
            weight[output * 8 : output * 8 + 8] = -weight[positive * 8 : positive * 8 + 8]
        for cell in range(8):
            for output in range(outputs):  # takes away what the block's shortcut adds
                weight[output * 8 + cell, output % (inputs // 8) * 8 + cell, 1, 1, 1] -= 1
        is_first = False
    find_side, choose = decoder.up_blocks[-1].res_blocks
    # Pixel norm between the two convolutions cuts a steep distance off, at both sides.
    first, second = _centre_taps(find_side)
    first[0, DISTANCE], first[0, MINUS] = STEEPNESS, -STEEPNESS
    first[1, DISTANCE], first[1, MINUS] = -STEEPNESS, STEEPNESS
    first[2, CONSTANT] = 0.2
    second[INSIDE, 1] = second[OUTSIDE, 0] = 0.75
    first, second = _centre_taps(choose)
    for color in range(3):
        for row, plus, minus, closed in (
            (color, COLOR + color, MINUS + 4 + color, OUTSIDE),
            (color + 3, BACKGROUND + color, MINUS + 1 + color, INSIDE),
        ):
            first[row, plus], first[row, minus] = 1, -1
            first[row, CONSTANT] = 0.2  # colours become positive
            first[row, closed] = -1.5
            second[DRAWN + color, row] = 1
            second[DRAWN + 3 + color, row] = -1
    first[6, CONSTANT] = 0.3


STEEPNESS = 12.0


def _centre_taps(block: ResidualBlock) -> tuple[Tensor, Tensor]:
    """Centre taps of both convolutions of a block, whose rows for carried things are emptied first."""
    first, second = block.conv1.conv, block.conv2.conv
    first.bias.zero_()
    first.weight[:8] = 0
    second.weight[:29] = 0
    second.weight[:, :8] = 0
    return first.weight[..., 1, 1, 1], second.weight[..., 1, 1, 1]


@torch.no_grad()
def fit_last_layer(decoder: Decoder, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Solves ``conv_out`` for (latent, frames) by least squares."""
    gram, moment = torch.zeros(()), torch.zeros(())
    for latent, frames in batches:
        x = decoder.hidden(latent)
        x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        x = F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate")
        taps = x.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)  # (B, C, T, H, W, 3, 3, 3)
        rows = taps.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3).double()
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        batch, channels, time, height, width = frames.shape
        truth = frames.view(batch, channels, time, height // 4, 4, width // 4, 4).permute(0, 2, 3, 5, 1, 6, 4)
        truth = truth.reshape(-1, channels * 16).double()
        gram, moment = gram + rows.T @ rows, moment + rows.T @ truth
    solution = torch.linalg.solve(gram + 1e-4 * gram.diagonal().mean() * torch.eye(len(gram)), moment).float()
    conv = decoder.conv_out.conv
    conv.weight.copy_(solution[:-1].T.view_as(conv.weight))
    conv.bias.copy_(solution[-1])


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


def assemble(encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> VideoVae:
    vae = VideoVae()
    vae.encoder.load_state_dict(encoder)
    vae.decoder.load_state_dict(decoder)
    vae.per_channel_statistics.set(*latents.video_statistics())
    return vae


# Side of the full picture, side of the window that is drawn, frames and clips of the batches, taken in turn.
DECODER_BATCHES = ((128, 64, 9, 6), (256, 64, 9, 6), (128, 128, 9, 2), (128, 64, 17, 3), (256, 64, 9, 6))
FINISHING_BATCHES = ((256, 64, 17, 4), (128, 64, 17, 4), (256, 64, 17, 4), (256, 128, 9, 2))
ENCODER_BATCHES = ((128, 128, 1, 8), (128, 128, 9, 2), (128, 128, 1, 8), (256, 256, 1, 2), (256, 256, 1, 2))
ENCODER_FINISHING_BATCHES = ((128, 128, 1, 8), (256, 256, 1, 2), (128, 128, 9, 2))
ENCODER_CLIP_BATCHES = ((256, 256, 25, 1), (128, 128, 25, 3), (256, 256, 1, 4), (256, 256, 17, 1), (128, 128, 25, 3))
LATENT_NOISE = 0.15  # at most, in normalised units, on what the decoder draws from


def segment(clip: world.Clip, begin: float, length: float) -> world.Clip:
    """A part of the movement, as shares of the whole."""
    things = []
    for thing in clip.things:
        start, end = (
            tuple(a + (b - a) * share for a, b in zip(thing.start, thing.end, strict=True))
            for share in (begin, begin + length)
        )
        things.append(replace(thing, start=start, end=end))
    return replace(clip, things=tuple(things))


def sample_batch(rng: random.Random, size: int, window: int, frames: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, coverage and normalised latents of windows of random clips around outlines."""
    clips, corners = [], []
    for _ in range(count):
        clip = world.sample_free_clip(rng)
        if rng.random() < 0.85:  # at the speed of clips of 25 frames
            length = (frames - 1) / 24
            clip = segment(clip, rng.uniform(0, 1 - length), length)
        thing = rng.choice(clip.things)
        moment, angle = rng.random(), rng.uniform(0, 2 * math.pi)
        reach = world.RADIUS[thing.shape] * thing.size * rng.uniform(0.7, 1.5)
        corner = []
        for axis, towards in ((1, math.sin(angle)), (0, math.cos(angle))):
            outline = thing.start[axis] + (thing.end[axis] - thing.start[axis]) * moment + reach * towards
            corner.append(int(min(max(outline * size - window / 2, 0), size - window)))
        clips.append(clip)
        corners.append(corner)
    places = torch.tensor(corners)
    frames_drawn, coverage = world.render(clips, frames, size, window, places)
    mean, deviation = latents.video_statistics()
    latent = (latents.video_latent(clips, frames, size, window, places) - mean) / deviation
    return frames_drawn, coverage, latent.permute(0, 4, 1, 2, 3).contiguous()


def edge_weight(coverage: Tensor) -> Tensor:
    """More weight on objects and most around their outlines."""
    near = F.max_pool3d(coverage, (1, 7, 7), 1, (0, 3, 3))
    edge = near + F.max_pool3d(1 - coverage, (1, 7, 7), 1, (0, 3, 3)) - 1
    return 1 + near + 4 * edge


def fixed_clip(rng: random.Random, size: int) -> tuple[Tensor, Tensor]:
    """Frames and exact normalised latent of 9 frames of a clip."""
    clip = segment(world.sample_clip(rng, held_out=None), 1 / 3, 1 / 3)
    mean, deviation = latents.video_statistics()
    latent = (latents.video_latent([clip], 9, size) - mean) / deviation
    return world.render([clip], 9, size)[0], latent.permute(0, 4, 1, 2, 3)


Progress = Callable[..., None]
Save = Callable[[nn.Module], None]


def train_decoder(steps: int, seed: int, report: Progress, save: Save) -> None:
    """Learns to draw windows of clips from exact latents with a little noise."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    decoder = VideoVae().decoder
    start_as_interpolation(decoder)
    mean, deviation = (x.view(1, -1, 1, 1, 1) for x in latents.video_statistics())
    examples = [sample_batch(rng, (128, 256)[i % 2], 64, 9, 6) for i in range(8)]
    fit_last_layer(decoder, [(latent * deviation + mean, frames) for frames, _, latent in examples])
    _draw(decoder, steps, rng, DECODER_BATCHES, 0.004, 0.6, report, save)


def finish_decoder(decoder: Decoder, steps: int, seed: int, report: Progress, save: Save) -> None:
    """Goes on with longer and mostly larger clips, at a rate that falls from the first step."""
    torch.manual_seed(seed)
    _draw(decoder, steps, random.Random(seed), FINISHING_BATCHES, 0.003, 1.0, report, save)


def _draw(
    decoder: Decoder,
    steps: int,
    rng: random.Random,
    batches: Sequence[tuple[int, int, int, int]],
    rate: float,
    decay: float,
    report: Progress,
    save: Save,
) -> None:
    mean, deviation = (x.view(1, -1, 1, 1, 1) for x in latents.video_statistics())
    average = Average(decoder, 0.99)
    optimiser = for_convolutions(decoder, matrix_rate=rate, other_rate=rate / 4, plain=("conv_in", "conv_out"))
    judge = VideoVae().decoder
    for step in range(steps):
        frames, coverage, latent = sample_batch(rng, *batches[step % len(batches)])
        spread = torch.rand(len(latent), 1, 1, 1, 1) * LATENT_NOISE
        with mixed_precision():
            decoded = decoder((latent + spread * torch.randn_like(latent)) * deviation + mean).float()
        error = decoded - frames
        loss = (edge_weight(coverage) * (error.abs() + 2 * error.square())).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=decay))
        average.update()
        if step % 50 == 0 or step == steps - 1:
            judge.load_state_dict(average.state)
            fixed = random.Random(123)
            values = {}
            for size, count in ((128, 4), (256, 2)):
                rows = [fixed_clip(fixed, size) for _ in range(count)]
                with torch.no_grad():
                    errors = [(judge(z * deviation + mean).clamp(-1, 1) - f).square().mean() for f, z in rows]
                values[f"psnr_{size}"] = sum(float(10 * torch.log10(4 / e)) for e in errors) / count
            report(step=step, loss=loss.item(), **values)
            save(judge)


def train_encoder(steps: int, seed: int, report: Progress, save: Save) -> None:
    """Learns to read exact latents off clips."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = VideoVae().encoder
    with torch.no_grad():
        for block in encoder.down_blocks:
            for part in getattr(block, "res_blocks", ()):
                part.conv2.conv.weight.mul_(0.1)
    _read(encoder, steps, rng, ENCODER_BATCHES, 0.6, report, save)


def finish_encoder(encoder: Encoder, steps: int, seed: int, report: Progress, save: Save) -> None:
    """Goes on with more clips that move, at a rate that falls from the first step."""
    torch.manual_seed(seed)
    _read(encoder, steps, random.Random(seed), ENCODER_FINISHING_BATCHES, 1.0, report, save)


def read_whole_clips(encoder: Encoder, decoder: Decoder, steps: int, seed: int, report: Progress, save: Save) -> None:
    """Goes on with whole clips, whose later latents look back on more frames, and minds what ``decoder`` draws."""
    torch.manual_seed(seed)
    _read(encoder, steps, random.Random(seed), ENCODER_CLIP_BATCHES, 1.0, report, save, decoder)


def drawing_error(decoder: Decoder, rng: random.Random, latent: Tensor, frames: Tensor, coverage: Tensor) -> Tensor:
    """Error of what the decoder draws of the first clip in a window of 4x4 cells."""
    y, x = (rng.randint(0, side - 4) for side in latent.shape[-2:])
    with mixed_precision():
        drawn = decoder(latent[:1, ..., y : y + 4, x : x + 4]).float()
    window = (slice(0, 1), ..., slice(32 * y, 32 * y + 128), slice(32 * x, 32 * x + 128))
    error = drawn - frames[window]
    return (edge_weight(coverage[window]) * (error.abs() + 2 * error.square())).mean()


@torch.no_grad()
def round_trip(encoder: Encoder, decoder: Decoder, size: int, count: int) -> float:
    """Mean PSNR of fixed clips of 25 frames behind encoder and decoder."""
    rng = random.Random(124)
    clips = [world.render([world.sample_clip(rng, held_out=None)], 25, size)[0] for _ in range(count)]
    errors = [(decoder(encoder(frames)).clamp(-1, 1) - frames).square().mean() for frames in clips]
    return sum(float(10 * torch.log10(4 / error)) for error in errors) / count


def _read(
    encoder: Encoder,
    steps: int,
    rng: random.Random,
    batches: Sequence[tuple[int, int, int, int]],
    decay: float,
    report: Progress,
    save: Save,
    decoder: Decoder | None = None,
) -> None:
    mean, deviation = (x.view(1, -1, 1, 1, 1) for x in latents.video_statistics())
    average = Average(encoder, 0.995)
    optimiser = for_convolutions(encoder, matrix_rate=0.02, other_rate=2e-3, plain=("conv_in", "conv_out"))
    judge = VideoVae().encoder
    for step in range(steps):
        frames, coverage, latent = sample_batch(rng, *batches[step % len(batches)])
        with mixed_precision():
            read = encoder(frames).float()
        error = (read - mean) / deviation - latent
        loss = error.abs().mean() + error.square().mean()
        if decoder is not None:
            loss = loss + drawing_error(decoder, rng, read, frames, coverage)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=decay))
        average.update()
        if step % 100 == 0 or step == steps - 1:
            judge.load_state_dict(average.state)
            fixed = random.Random(123)
            with torch.no_grad():
                pairs = [fixed_clip(fixed, 128) for _ in range(4)]
                errors = [((judge(f) - mean) / deviation - z).abs().mean() for f, z in pairs]
            values = {"error_128": float(sum(errors)) / len(errors)}
            if decoder is not None:
                values |= {
                    f"psnr_{size}": round_trip(judge, decoder, size, count) for size, count in ((128, 6), (256, 3))
                }
            report(step=step, loss=loss.item(), **values)
            save(judge)

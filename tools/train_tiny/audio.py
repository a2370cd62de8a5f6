"""Log-mel front-end, audio VAE and HiFi-GAN vocoder with the official tensor names, and their training."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import config, latents, world
from .channel_statistics import Statistics
from .device import mixed_precision
from .muon import Average, for_convolutions, trapezoid
from .spectrum import HOP, MEL_FEATURES, RATE, VOCODER_RATE, log_mel

USED = config.AUDIO_CHANNELS_USED * MEL_FEATURES  # used features of an audio token


def pixel_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class CausalConv2d(nn.Module):
    """Causal over time (rows), symmetric over mel (columns)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel)
        self._padded = kernel == 3

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 2, 0)) if self._padded else x)


class AudioBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = CausalConv2d(channels_in, channels_out)
        self.conv2 = CausalConv2d(channels_out, channels_out)
        if channels_in != channels_out:
            self.nin_shortcut = CausalConv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv2(F.silu(pixel_norm(self.conv1(F.silu(pixel_norm(x))))))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class StridedConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 2, 0)))


class DoublingConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))[:, :, 1:]


class Level(nn.Module):
    """Blocks of one resolution, and what leads to the next one."""

    def __init__(self, widths: list[tuple[int, int]]) -> None:
        super().__init__()
        self.block = nn.ModuleList(AudioBlock(a, b) for a, b in widths)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = AudioBlock(channels, channels)
        self.block_2 = AudioBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class AudioEncoder(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        base, factors = settings["ch"], settings["ch_mult"]
        self.conv_in = CausalConv2d(settings["in_channels"], base)
        self.down = nn.ModuleList()
        channels = base
        for index, factor in enumerate(factors):
            widths = []
            for _ in range(settings["num_res_blocks"]):
                widths.append((channels, base * factor))
                channels = base * factor
            level = Level(widths)
            if index < len(factors) - 1:
                level.downsample = StridedConv(channels)
            self.down.append(level)
        self.mid = Middle(channels)
        self.conv_out = CausalConv2d(channels, 2 * settings["z_channels"])

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 2, T, 64) to the used channels of the latent (B, C, L, 16)."""
        x = self.conv_in(mel)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(self.mid(x))))[:, : config.AUDIO_CHANNELS_USED]


class AudioDecoder(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        base, factors = settings["ch"], settings["ch_mult"]
        channels = base * factors[-1]
        self.conv_in = CausalConv2d(settings["z_channels"], channels)
        self.mid = Middle(channels)
        levels = []
        for index in reversed(range(len(factors))):
            widths = []
            for _ in range(settings["num_res_blocks"] + 1):
                widths.append((channels, base * factors[index]))
                channels = base * factors[index]
            level = Level(widths)
            if index:
                level.upsample = DoublingConv(channels)
            levels.append(level)
        self.up = nn.ModuleList(levels[::-1])
        self.conv_out = CausalConv2d(channels, settings["out_ch"])

    def forward(self, latent: Tensor) -> Tensor:
        """The used channels (B, C, L, 16) to (B, 2, 4L-3, 64)."""
        unused = self.conv_in.conv.weight.shape[1] - latent.shape[1]
        x = self.mid(self.conv_in(F.pad(latent, (0, 0, 0, 0, 0, unused))))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(x)))


class AudioVae(nn.Module):
    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        settings = settings or config.AUDIO_VAE["model"]["params"]["ddconfig"]
        self.encoder = AudioEncoder(settings)
        self.decoder = AudioDecoder(settings)
        self.per_channel_statistics = Statistics(settings["z_channels"] * MEL_FEATURES)
        with torch.no_grad():
            used = config.AUDIO_CHANNELS_USED
            self.encoder.conv_out.conv.weight[used:] = 0
            self.encoder.conv_out.conv.bias[used:] = 0
            self.decoder.conv_in.conv.weight[:, used:] = 0

    def encode(self, mel: Tensor) -> Tensor:
        """(B, 2, T, 64) to normalised tokens (B, L, used features), feature = channel * 16 + mel bin."""
        tokens = to_tokens(self.encoder(mel))
        return self.per_channel_statistics.normalise(tokens.transpose(1, 2)).transpose(1, 2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised tokens (B, L, used features) to log-mel (B, 2, 4L-3, 64)."""
        features = self.per_channel_statistics.restore(tokens.transpose(1, 2))
        return self.decoder(features.unflatten(1, (-1, MEL_FEATURES)).transpose(2, 3))


def to_tokens(latent: Tensor) -> Tensor:
    """(B, C, L, 16) to (B, L, C * 16)."""
    return latent.permute(0, 2, 1, 3).flatten(2)


class VocoderBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) * d // 2, dilation=d) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Vocoder(nn.Module):
    def __init__(self, settings: dict[str, Any] = config.VOCODER, ears: int = 2) -> None:
        """With one ear it has half the channels everywhere."""
        super().__init__()
        channels = settings["upsample_initial_channel"] * ears // 2
        self.conv_pre = nn.Conv1d(64 * ears, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(settings["upsample_rates"], settings["upsample_kernel_sizes"], strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, (kernel - rate) // 2))
            channels //= 2
            for size, dilations in zip(
                settings["resblock_kernel_sizes"], settings["resblock_dilation_sizes"], strict=True
            ):
                self.resblocks.append(VocoderBlock(channels, size, dilations))
        self.conv_post = nn.Conv1d(channels, ears, 7, padding=3)
        self._branches = len(settings["resblock_kernel_sizes"])

    def forward(self, mel: Tensor) -> Tensor:
        """(B, ears, T, 64) to (B, ears, 240 T) at 24 kHz."""
        x = self.conv_pre(mel.transpose(2, 3).flatten(1, 2))
        for index, upsample in enumerate(self.ups):
            x = upsample(F.leaky_relu(x, 0.1))
            blocks = self.resblocks[index * self._branches : (index + 1) * self._branches]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


MEL_FRAMES = 45  # of a training example


def sample_sounds(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """The same sounds at 16 kHz and at the vocoder's rate, some with unusual movements, levels or none."""
    clips, gain = [], []
    for _ in range(count):
        clip = world.sample_free_clip(rng) if rng.random() < 0.25 else world.sample_clip(rng, held_out=None)
        clips.append(clip)
        draw = rng.random()
        gain.append(0.0 if draw < 0.02 else rng.uniform(0.3, 1.4) if draw < 0.3 else 1.0)
    seconds = rng.uniform(0.45, 1.2)
    return (
        world.sound(clips, (MEL_FRAMES - 1) * HOP, RATE, seconds, gain),
        world.sound(clips, MEL_FRAMES * 240, VOCODER_RATE, seconds, gain),
    )


def train_vae(steps: int, seed: int, report: Callable[..., None], save: Callable[[nn.Module], None]) -> AudioVae:
    """Encoder towards exact latents, decoder from slightly noisy ones, later half from those the encoder reads."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    vae = AudioVae()
    mean, deviation = latents.sound_statistics()
    vae.per_channel_statistics.set(mean, deviation)
    for layer in (vae.encoder.conv_out, vae.decoder.conv_out):
        nn.init.constant_(layer.conv.bias[: config.AUDIO_CHANNELS_USED], float(mean.mean()))
    average = Average(vae, 0.99)
    optimiser = for_convolutions(vae, matrix_rate=0.02, other_rate=1e-3)
    for step in range(steps):
        mel = log_mel(sample_sounds(rng, 8)[0])
        exact = (latents.sound_latent(mel) - mean) / deviation
        with mixed_precision():
            read = vae.encode(mel).float()
            is_read = (torch.rand(len(mel), 1, 1) < 0.5) & (step > steps // 3)
            drawn_from = torch.where(is_read, read.detach(), exact)
            spread = torch.rand(len(mel), 1, 1) * 0.2
            decoded = vae.decode(drawn_from + spread * torch.randn_like(exact)).float()
        loss_encoder, loss_decoder = (read - exact).abs().mean(), (decoded - mel).abs().mean()
        optimiser.zero_grad()
        (loss_encoder + loss_decoder).backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=0.6))
        average.update()
        if step % 50 == 0 or step == steps - 1:
            report(step=step, latent_error=loss_encoder.item(), mel_error=loss_decoder.item())
    vae.load_state_dict(average.state)
    save(vae)
    return vae


def spectral_loss(waves: Tensor, truth: Tensor) -> Tensor:
    """Difference of magnitude spectra at three resolutions: logarithmic, and relative to the truth."""
    total = torch.zeros(())
    waves, truth = waves.flatten(0, 1), truth.flatten(0, 1)
    for size in (512, 1024, 2048):
        window = torch.hann_window(size)
        a, b = (torch.stft(x, size, size // 4, window=window, return_complex=True).abs() for x in (waves, truth))
        total = total + ((1 + 10 * a).log() - (1 + 10 * b).log()).abs().mean() + (a - b).norm() / (b.norm() + 1e-3)
    return total / 3


@torch.no_grad()
def for_both_ears(mono: Vocoder) -> Vocoder:
    """Two copies of a vocoder of one ear side by side: every ear hears its own log-mel alone."""
    stereo = Vocoder()
    state = mono.state_dict()
    for name, target in stereo.state_dict().items():
        source = state[name]
        if source.dim() == 1:
            target.copy_(source.repeat(2))
        else:
            rows, columns = source.shape[:2]
            target.zero_()
            target[:rows, :columns] = source
            target[rows:, columns:] = source
    return stereo


def train_vocoder(
    steps: int, seed: int, vae: AudioVae, report: Callable[..., None], save: Callable[[nn.Module], None]
) -> Vocoder:
    """Learns with one ear; half of the batches start from what the audio VAE gives back from a slightly noisy latent.

    A vocoder that sees both ears at once, and is as small as this one, settles for the same sound in both.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    mono = Vocoder(ears=1)
    average = Average(mono, 0.98)
    optimiser = for_convolutions(mono, matrix_rate=0.01, other_rate=1e-3)
    judge = Vocoder(ears=1)
    for step in range(steps):
        waves, truth = sample_sounds(rng, 3)
        with torch.no_grad():
            mel = log_mel(waves)
            if step % 2:
                tokens = vae.encode(mel)
                mel = vae.decode(tokens + 0.05 * torch.randn_like(tokens))
        mel, truth = mel.flatten(0, 1)[:, None], truth.flatten(0, 1)[:, None]
        with mixed_precision():
            waves = mono(mel).float()
        loss = spectral_loss(waves, truth[..., : mel.shape[2] * 240])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=20, decay=0.6))
        average.update()
        if step % 50 == 0 or step == steps - 1:
            report(step=step, spectral=loss.item())
            judge.load_state_dict(average.state)
            save(for_both_ears(judge))
    return for_both_ears(judge)

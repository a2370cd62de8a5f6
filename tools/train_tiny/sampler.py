"""Sampling with the PyTorch modules, as the pipelines of the package do it: to judge weights during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from . import audio, flow_matching, latents
from .device import read_state, seeded
from .text import Context, Prompts, TextPath
from .transformer import AUDIO_USED, VIDEO_USED, Tokens, Transformer
from .video_vae import assemble


@dataclass(frozen=True)
class Given:
    """Conditions of one run, for the whole batch. Video latents are (B, f, h, w, C), sound tokens (B, L, C).

    Attributes:
        first: latent of the first frame.
        keyframes: (latent of one frame (B, h, w, C), its pixel frame).
        reference: latent of a control video, appended at its own positions.
        sound: frozen sound.
        source: latents of a clip of which only ``span`` (in seconds) is generated anew, with its sound.
        span: see ``source``.
        start: (video latent, sound tokens) to refine instead of starting from noise.
    """

    first: Tensor | None = None
    keyframes: tuple[tuple[Tensor, int], ...] = ()
    reference: Tensor | None = None
    sound: Tensor | None = None
    source: tuple[Tensor, Tensor] | None = None
    span: tuple[float, float] = (0.0, 0.0)
    start: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Guidance:
    """Strengths of guidance: text for video and sound, perturbed self-attention, exchange between the streams."""

    video: float = 1.0
    sound: float = 1.0
    perturbed: float = 0.0
    exchange: float = 1.0
    rescale: float = 0.0
    blocks: tuple[int, ...] = ()
    negative: str = ""


def guided_schedule(steps: int) -> list[float]:
    """Noise levels of the guided pipelines (shift for 4096 tokens, last level stretched to 0.1)."""
    line = torch.linspace(1, 0, steps + 1)[:-1]
    shift = math.exp(2.05)
    shifted = shift / (shift + (1 / line - 1))
    rest = 1 - shifted
    return [*(1 - rest / (rest[-1] / 0.9)).tolist(), 0.0]


class Sampler:
    """All parts of the model, loaded from the work folder."""

    def __init__(self, folder: Path, transformer: nn.Module | None = None, registers: int = 0) -> None:
        def read(module: nn.Module, name: str) -> nn.Module:
            module.load_state_dict(read_state(folder / name))
            return module.eval().requires_grad_(False)

        self.prompts = Prompts(folder / "tokenizer.json")
        self.text = read(TextPath(self.prompts.vocabulary), "text.pt")
        self.transformer = transformer or read(Transformer(), "transformer_guided.pt")
        parts = (read_state(folder / f"video_{part}.pt") for part in ("encoder_clips", "decoder_finish"))
        self.video_vae = assemble(*parts).eval()
        self.audio_vae = read(audio.AudioVae(), "audio_vae.pt")
        self.vocoder = read(audio.Vocoder(), "vocoder.pt")
        self._registers = registers

    @torch.no_grad()
    def context(self, prompts: Sequence[str]) -> Context:
        return self.text(*self.prompts(prompts), self._registers)

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[str],
        *,
        frames: int = 25,
        size: int = 128,
        sigmas: Sequence[float] = flow_matching.DISTILLED_SIGMAS,
        seed: int = 0,
        given: Given | None = None,
        guidance: Guidance | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, f, h, w, C) and sound tokens (B, L, C) of a batch of prompts."""
        given, guidance = given or Given(), guidance or Guidance()
        generator = seeded(seed)
        batch, side, depth = len(prompts), size // 32, (frames - 1) // 8 + 1
        length, cells = latents.audio_tokens(frames), side * side
        video, video_mask, positions = self._video_state(given, batch, depth, side)
        sound, sound_mask = self._sound_state(given, batch, length)
        sound_places = flow_matching.sound_positions(length).expand(batch, -1, -1)
        noise = [torch.randn(x.shape, generator=generator) for x in (video, sound)]
        begin = [torch.zeros_like(video), torch.zeros_like(sound)]
        if given.start is not None:
            begin = [_extended(given.start[0].flatten(1, 3), video.shape[1]), given.start[1]]
        level = sigmas[0]
        x = [
            torch.where(mask[..., None] > 0, base * (1 - level) + n * level, clean)
            for mask, base, n, clean in zip((video_mask, sound_mask), begin, noise, (video, sound), strict=True)
        ]
        positive = self.context(prompts)
        needs_negative = guidance.video != 1 or guidance.sound != 1
        negative = self.context([guidance.negative] * batch) if needs_negative else None
        frozen_sound = given.sound is not None
        for now, then in pairwise(sigmas):
            sigma = torch.full((batch,), now)

            def predict(context: Context, sigma: Tensor = sigma, now: float = now, **options: object) -> list[Tensor]:
                velocities = self.transformer(
                    Tokens(x[0], sigma, video_mask, positions),
                    Tokens(x[1], sigma * 0 if frozen_sound else sigma, sound_mask, sound_places),
                    context,
                    **options,
                )
                levels = (video_mask * now, sound_mask * now)
                return [a - b[..., None] * v for a, b, v in zip(x, levels, velocities, strict=True)]

            plain = predict(positive)
            guided = [p.clone() for p in plain]
            changes: list[tuple[list[Tensor], float, float]] = []
            if negative is not None:
                changes.append((predict(negative), guidance.video - 1, guidance.sound - 1))
            if guidance.perturbed:
                perturbed = predict(positive, skip_self=guidance.blocks)
                changes.append((perturbed, guidance.perturbed, guidance.perturbed))
            if guidance.exchange != 1:
                changes.append((predict(positive, isolated=True), guidance.exchange - 1, guidance.exchange - 1))
            for other, *strengths in changes:
                for i, strength in enumerate(strengths):
                    guided[i] += strength * (plain[i] - other[i])
            if guidance.rescale:
                for i in range(2):
                    ratio = plain[i].flatten(1).std(1) / guided[i].flatten(1).std(1)
                    guided[i] *= (guidance.rescale * ratio + 1 - guidance.rescale)[:, None, None]
            for i, (mask, clean) in enumerate(((video_mask, video), (sound_mask, sound))):
                estimate = torch.where(mask[..., None] > 0, guided[i], clean)
                x[i] = x[i] + (x[i] - estimate) / now * (then - now)
        return x[0][:, : depth * cells].unflatten(1, (depth, side, side)), x[1]

    def _video_state(self, given: Given, batch: int, depth: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        cells = side * side
        clean, mask = torch.zeros(batch, depth * cells, VIDEO_USED), torch.ones(batch, depth * cells)
        positions = flow_matching.video_positions(depth, side, side)
        if given.source is not None:
            edges = (torch.arange(depth + 1).float() * 8 - 7).clamp(min=0) / latents.FRAME_RATE
            inside = (edges[1:] > given.span[0]) & (edges[:-1] < given.span[1])
            clean = given.source[0].flatten(1, 3).clone()
            mask = inside.float().repeat_interleave(cells).expand(batch, -1).clone()
        if given.first is not None:
            clean[:, :cells], mask[:, :cells] = given.first.flatten(1, -2), 0
        extra: list[tuple[Tensor, Tensor]] = []
        for latent, frame in given.keyframes:
            places = flow_matching.keyframe_positions(torch.tensor([frame]), side, side)[0]
            extra.append((latent.flatten(1, 2), places))
        if given.reference is not None:
            extra.append((given.reference.flatten(1, 3), flow_matching.video_positions(depth, side, side)))
        for tokens, places in extra:
            clean = torch.cat([clean, tokens], 1)
            mask = torch.cat([mask, torch.zeros(batch, tokens.shape[1])], 1)
            positions = torch.cat([positions, places])
        return clean, mask, positions.expand(batch, -1, -1)

    def _sound_state(self, given: Given, batch: int, length: int) -> tuple[Tensor, Tensor]:
        if given.sound is not None:
            return given.sound, torch.zeros(batch, length)
        if given.source is not None:
            edges = (torch.arange(length + 1).float() * 4 - 3).clamp(min=0) * 0.01
            inside = (edges[1:] > given.span[0]) & (edges[:-1] < given.span[1])
            return given.source[1], inside.float().expand(batch, -1)
        return torch.zeros(batch, length, AUDIO_USED), torch.ones(batch, length)

    @torch.no_grad()
    def frames(self, latent: Tensor) -> Tensor:
        """(B, f, h, w, C) to (B, F, H, W, 3) in [-1, 1]."""
        decoded = [self.video_vae.decode(part.permute(0, 4, 1, 2, 3)) for part in latent.split(8)]
        return torch.cat(decoded).clamp(-1, 1).permute(0, 2, 3, 4, 1)

    @torch.no_grad()
    def waves(self, tokens: Tensor) -> Tensor:
        """(B, L, C) to (B, S, 2) at 24 kHz."""
        return self.vocoder(self.audio_vae.decode(tokens)).transpose(1, 2)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to (B, f, h, w, C)."""
        return torch.cat([self.video_vae.encode(part).permute(0, 2, 3, 4, 1) for part in frames.split(8)])


def _extended(tokens: Tensor, length: int) -> Tensor:
    missing = length - tokens.shape[1]
    return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], missing, tokens.shape[2])], 1) if missing else tokens

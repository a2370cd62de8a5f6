"""The log-mel spectrum that the audio VAE works on, and the sample rates of sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE = 16000
HOP = 160
WINDOW = 1024
VOCODER_RATE = 24000
MEL_FEATURES = 16  # mel bins of the audio latent


def _mel_filters() -> Tensor:
    """(513, 64) triangles on Slaney's scale with unit area."""

    def hertz(mel: Tensor) -> Tensor:
        return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * (math.log(6.4) / 27)))

    top = 15 + 27 * math.log(8000 / 1000) / math.log(6.4)
    edges = hertz(torch.linspace(0, top, 66, dtype=torch.float64))
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


MEL_FILTERS = _mel_filters()


def log_mel(waves: Tensor) -> Tensor:
    """(B, 2, S) at 16 kHz to (B, 2, S // 160 + 1, 64)."""
    batch, channels, samples = waves.shape
    spectrum = torch.stft(
        waves.reshape(batch * channels, samples),
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW, device=waves.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    ).abs()
    return (spectrum.transpose(1, 2) @ MEL_FILTERS.to(waves.device)).clamp(min=1e-5).log().view(batch, channels, -1, 64)

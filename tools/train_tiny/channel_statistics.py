"""Normalisation of latent channels, shared by both VAEs and the upscalers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

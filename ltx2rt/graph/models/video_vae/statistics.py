"""Per-channel statistics that map latents between the VAE's own scale and the transformer's."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import ParamSpec

MEAN = "per_channel_statistics.mean-of-means"
STD = "per_channel_statistics.std-of-means"


def statistics_specs(latent_channels: int) -> list[ParamSpec]:
    """The two statistics vectors; further ones in 19B-era files are not used."""
    return [ParamSpec(MEAN, (latent_channels,)), ParamSpec(STD, (latent_channels,))]


class LatentStatistics:
    """Normalisation of video latents (..., C) with the statistics found in ``params``.

    Source: PerChannelStatistics of Lightricks/LTX-2 ltx_core/model/video_vae/ops.py @ v1.2.0.
    """

    def __init__(self, params: Params) -> None:
        self._params = params

    def normalise(self, latent: mx.array) -> mx.array:
        """(latent - mean) / std, computed in float32, dtype of ``latent``."""
        mean, std = self._vectors()
        return ((latent.astype(mx.float32) - mean) / std).astype(latent.dtype)

    def un_normalise(self, latent: mx.array) -> mx.array:
        """latent * std + mean, computed in float32, dtype of ``latent``."""
        mean, std = self._vectors()
        return (latent.astype(mx.float32) * std + mean).astype(latent.dtype)

    def _vectors(self) -> tuple[mx.array, mx.array]:
        return self._params[MEAN].astype(mx.float32), self._params[STD].astype(mx.float32)

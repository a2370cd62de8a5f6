"""The convolutional video decoder of the stages: its tensors, and its ways of decoding a clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.decode_way import DecodeWay
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder, decoder_layers
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.flops import video_decode_flops
from ltx2rt.graph.models.video_vae.footprint import decode_bytes
from ltx2rt.graph.models.video_vae.layers import ResidualLayer, can_stream
from ltx2rt.graph.models.video_vae.specs import decoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.streaming import PUSHES
from ltx2rt.graph.models.video_vae.surroundings import DecoderNoise
from ltx2rt.graph.models.video_vae.tiling import TileSize, Tiling, decode_plan, described_tiles
from ltx2rt.types import ParamSpec

Grid = tuple[int, int, int]

# Sides of the tiles, in pixels, where whole frames do not fit.
TILE_SIDES = (768, 512, 384, 256)
_TILE_OVERLAP = 64


@dataclass(frozen=True)
class ConvolutionalDecoder:
    """The decoder of a configuration, which must have a convolutional one. It does not look at key frames."""

    config: VideoVaeConfig

    def specs(self) -> list[ParamSpec]:
        return decoder_specs(self.config) + statistics_specs(self.config.latent_channels)

    def flops(self, latent: Grid, keyframes: int = 0) -> float:
        return video_decode_flops(self.config, latent)

    def ways(
        self, latent: Grid, tiling: Tiling | Literal["auto"] | None, itemsize: int, keyframes: int = 0
    ) -> Iterator[DecodeWay]:
        """``auto``: piece by piece, in tiles where that does not fit. None: never in tiles, whole if that fits."""
        height, width = (cells * self.config.spatial_factor for cells in latent[1:])
        streams = can_stream(decoder_layers(self.config.require_decoder()))

        def way(cut: Tiling | None, push: int | None, *, exact: bool = True) -> DecodeWay:
            return DecodeWay(
                {"tiling": cut, "push": push},
                {"frames": "in one piece" if push is None else f"{push} at a time", "tiles": described_tiles(cut)},
                decode_bytes(self.config, latent, itemsize, cut, push).footprint,
                min(push or 1, self.config.pixel_frames(latent[0])),
                exact,
            )

        if isinstance(tiling, Tiling):
            if streams and tiling.frames is None:
                yield from (way(tiling, push) for push in PUSHES)
            else:
                yield way(tiling, None)
            return
        if not streams:
            yield way(None if tiling is None else Tiling.auto(height, width, self.config.spatial_factor), None)
            return
        if tiling is None:
            yield way(None, None)
        yield from (way(None, push) for push in PUSHES)
        if tiling == "auto":
            for side in TILE_SIDES:
                if side < max(height, width):
                    cut = Tiling(height=_side(side, height), width=_side(side, width))
                    yield from (way(cut, push, exact=False) for push in PUSHES[1:])

    def frames(
        self,
        params: Params,
        dtype: mx.Dtype,
        latent: mx.array,
        settings: Mapping[str, Any],
        noise: DecoderNoise,
        keyframes: KeyFrames | None = None,
    ) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
        decoder = VideoDecoder(self.config, params, dtype)
        tiling, push = settings["tiling"], settings["push"]
        if push is None:
            return decoder.decode_frames(latent, tiling, noise=noise.normal)
        return decoder.stream_frames(latent, tiling, frames_per_push=push, noise=noise.normal)

    def draws(self, latent: Grid, settings: Mapping[str, Any], keyframes: KeyFrames | None) -> list[tuple[int, ...]]:
        decoder, tiling = self.config.require_decoder(), settings["tiling"]
        grids = [latent]
        if tiling is not None:
            factors = {"temporal_factor": self.config.temporal_factor, "spatial_factor": self.config.spatial_factor}
            sources = (
                (tile.frames.source, tile.height.source, tile.width.source)
                for tile in decode_plan(latent, tiling, **factors).tiles
            )
            grids = [(f[1] - f[0], h[1] - h[0], w[1] - w[0]) for f, h, w in sources]
        draws: list[tuple[int, ...]] = []
        for frames, *sides in grids:
            height, width = sides
            if decoder.timestep_conditioning:
                draws.append((1, self.config.latent_channels, frames, height, width))
            size = (height, width)
            for layer in decoder_layers(decoder):
                if isinstance(layer, ResidualLayer) and layer.inject_noise:
                    draws += [size, size]
                size = layer.resized(size)
        return draws


def _side(side: int, length: int) -> TileSize | None:
    return TileSize(side, _TILE_OVERLAP) if side < length else None

"""The diffusion video decoder of the stages: its tensors, and its ways of decoding a clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from ltx2rt.graph.models.layers.decode_way import DecodeWay
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.diffusion_config import Size
from ltx2rt.graph.models.video_vae.diffusion_decoder import DiffusionVideoDecoder, decoder_draws
from ltx2rt.graph.models.video_vae.diffusion_footprint import (
    diffusion_decode_bytes,
    diffusion_decode_flops,
    keyframe_decode_bytes,
)
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.specs import decoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.surroundings import DecoderNoise
from ltx2rt.graph.models.video_vae.tiling import TileSize, Tiling, described_tiles
from ltx2rt.types import Array, ParamSpec

# Frames that the last stage works on at a time: what a budget chooses from. Five is what its windows look ahead.
PUSHES = (5, 2, 1)
# The same, and whether keys and values are kept; without them a fifth more is computed.
_FRAMES = ((5, True), (2, True), (5, False), (2, False), (1, False))
# Sides of tiles in pixels, and frames of tiles where all frames of a clip do not fit besides them. Fewer frames are
# computed again more often, because tiles overlap by 40: 121 frames are 159 in tiles of 80, and 924 in tiles of 44.
TILE_SIDES = (768, 640, 512, 384)
_TILE_FRAMES, _FEW_FRAMES = 80, (64, 52, 44)


@dataclass(frozen=True)
class DiffusionDecoder:
    """The decoder of a configuration, which must have a diffusion decoder."""

    config: VideoVaeConfig

    def specs(self) -> list[ParamSpec]:
        return decoder_specs(self.config) + statistics_specs(self.config.latent_channels)

    def flops(self, latent: Size, keyframes: int = 0) -> float:
        return diffusion_decode_flops(self.config.require_diffusion(), latent, keyframes)

    def ways(
        self, latent: Size, tiling: Tiling | Literal["auto"] | None, itemsize: int, keyframes: int = 0
    ) -> Iterator[DecodeWay]:
        """Some frames at a time; ``auto``: in tiles where that does not fit, too. None: never in tiles."""
        cuts = [tiling if isinstance(tiling, Tiling) else None]
        if tiling == "auto":
            cuts += self._tilings(latent)
        for number, cut in enumerate(cuts):
            for push, keeps in [(push, True) for push in PUSHES] if keyframes else _FRAMES:
                yield self._way(latent, cut, itemsize, push, keyframes, keeps_keys=keeps, exact=number == 0)

    def frames(
        self,
        params: Params,
        dtype: mx.Dtype,
        latent: mx.array,
        settings: Mapping[str, Any],
        noise: DecoderNoise,
        keyframes: KeyFrames | None = None,
    ) -> Iterator[Array]:
        decoder = DiffusionVideoDecoder(self.config, params, dtype, settings["push"], settings["keeps_keys"])
        return decoder.stream_frames(latent, settings["tiling"], noise, keyframes)

    def draws(self, latent: Size, settings: Mapping[str, Any], keyframes: KeyFrames | None) -> list[tuple[int, ...]]:
        return decoder_draws(self.config.require_diffusion(), latent, settings["tiling"], keyframes)

    def _way(
        self,
        latent: Size,
        cut: Tiling | None,
        itemsize: int,
        push: int,
        keyframes: int,
        *,
        keeps_keys: bool,
        exact: bool,
    ) -> DecodeWay:
        decoder = self.config.require_diffusion()
        if keyframes:
            footprint = keyframe_decode_bytes(decoder, latent, keyframes, itemsize, cut, push)
        else:
            footprint = diffusion_decode_bytes(decoder, latent, itemsize, cut, push, keeps_keys=keeps_keys)
        chunk = min(push, self.config.pixel_frames(latent[0])) if cut is None else 1
        return DecodeWay(
            {"tiling": cut, "push": push, "keeps_keys": keeps_keys},
            {
                "decoder": "diffusion",
                "frames": f"{push} at a time",
                "keys": "kept" if keeps_keys else "computed again",
                "tiles": described_tiles(cut),
            },
            footprint,
            chunk,
            exact,
        )

    def _tilings(self, latent: Size) -> Iterator[Tiling]:
        """Larger tiles first, of all frames and then of some, and the smallest of few."""
        decoder = self.config.require_diffusion()
        overlap = [margin * cell for margin, cell in zip(decoder.tile_margins, decoder.tile_cell, strict=True)]
        height, width = (cells * self.config.spatial_factor for cells in latent[1:])
        frames = self.config.pixel_frames(latent[0])
        for side in TILE_SIDES:
            if side >= max(height, width) or side <= max(overlap[1:]):
                continue
            rows, columns = (
                TileSize(side, margin) if side < length else None
                for length, margin in ((height, overlap[1]), (width, overlap[2]))
            )
            yield Tiling(None, rows, columns)
            few = _FEW_FRAMES if side == TILE_SIDES[-1] else ()
            for length in (_TILE_FRAMES, *few):
                if overlap[0] < length < frames:
                    yield Tiling(TileSize(length, overlap[0]), rows, columns)

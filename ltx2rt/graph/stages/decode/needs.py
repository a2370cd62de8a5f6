"""What the stages of the decoders, the vocoder and the latent upscalers need."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Literal

import mlx.core as mx

from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.audio.footprint import (
    audio_decode_flops,
    audio_decode_footprint,
    vocoder_flops,
    vocoder_footprint,
)
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.upscaler.footprint import upscaler_flops, upscaler_footprint
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.flops import video_decode_flops
from ltx2rt.graph.models.video_vae.footprint import decode_bytes
from ltx2rt.graph.models.video_vae.layers import can_stream
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, decoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.streaming import PUSHES
from ltx2rt.graph.models.video_vae.tiling import TileSize, Tiling
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.memory.need import Need
from ltx2rt.weights.checkpoint import Checkpoint

Grid = tuple[int, int, int]

_FLOAT32 = 4
# Sides of the decoder's tiles, in pixels, where whole frames do not fit.
TILE_SIDES = (768, 512, 384, 256)
_TILE_OVERLAP = 64
# Encoders of video (x264) and sound (AAC): in themselves, per pixel of the picture, and per pixel of each frame that
# the former looks ahead. Measured (November 2026, x264 with 4 threads, the caller's frame included) and predicted:
# 9.2 and 12.2 MB for 128x128 and 9 frames, 17.4 and 18.4 MB for 256x256, 53.7 and 52.4 MB for 512x768, 254 and 229 MB
# for 1088x1920, of which 20 MB are the caller's.
_ENCODER_BYTES = 11 << 20
_ENCODER_BYTES_PER_PIXEL = 4
_LOOKAHEAD_BYTES_PER_PIXEL = 4
_LOOKAHEAD_FRAMES = 25


def video_decoder_options(
    checkpoint: Checkpoint,
    config: VideoVaeConfig,
    latent: Grid,
    tiling: Tiling | Literal["auto"] | None,
    dtype: mx.Dtype,
) -> Iterator[Need]:
    """Stage "video decoder".

    ``auto``: piece by piece, in tiles where that does not fit. None: never in tiles, and in one piece if that fits.
    """
    loaded = checkpoint.loaded_bytes("video_vae", decoder_specs(config) + statistics_specs())
    height, width = (cells * config.spatial_factor for cells in latent[1:])
    pixels, frames = height * width, config.pixel_frames(latent[0])
    ahead = _LOOKAHEAD_BYTES_PER_PIXEL * min(frames, _LOOKAHEAD_FRAMES)
    encoder = _ENCODER_BYTES + int(pixels * (_ENCODER_BYTES_PER_PIXEL + ahead))
    streams = can_stream(decoder_layers(config.require_decoder()))

    def need(cut: Tiling | None, push: int | None) -> Need:
        peak = decode_bytes(config, latent, dtype.size, cut, push).footprint
        converted = 2 * min(push or 1, frames) * pixels * 3 * _FLOAT32  # while a chunk becomes bytes
        return Need(
            "video decoder",
            weights=loaded.arrays,
            activations=peak.activations,
            working=peak.working,
            host=peak.host + converted + encoder,
            caches=prod(latent) * config.latent_channels * (dtype.size + _FLOAT32),
            flops=video_decode_flops(config, latent),
            choice={"frames": "in one piece" if push is None else f"{push} at a time", "tiles": _tiles(cut)},
            settings={"tiling": cut, "push": push},
            advice=smaller("height", "width"),
        ).while_loading(loaded.loading)

    if isinstance(tiling, Tiling):
        if streams and tiling.frames is None:
            yield from (need(tiling, push) for push in PUSHES)
        else:
            yield need(tiling, None)
        return
    if not streams:
        yield need(None if tiling is None else Tiling.auto(height, width), None)
        return
    if tiling is None:
        yield need(None, None)
    yield from (need(None, push) for push in PUSHES)
    if tiling == "auto":
        for side in TILE_SIDES:
            if side < max(height, width):
                cut = Tiling(height=_side(side, height), width=_side(side, width))
                yield from (need(cut, push) for push in PUSHES[1:])


def _side(side: int, length: int) -> TileSize | None:
    return TileSize(side, _TILE_OVERLAP) if side < length else None


def _tiles(tiling: Tiling | None) -> str:
    if tiling is None:
        return "none"
    axes = {"frames": tiling.frames, "height": tiling.height, "width": tiling.width}
    return ", ".join(
        f"{axis} {size.tile}/{size.overlap}" if isinstance(size, TileSize) else f"{axis} in {size.count}"
        for axis, size in axes.items()
        if size is not None
    )


def upscaler_options(
    checkpoint: Checkpoint,
    upscaler_file: Checkpoint,
    config: upscaler.LatentUpscalerConfig,
    name: str,
    latent: Grid,
    dtype: mx.Dtype,
) -> Iterator[Need]:
    """A stage that enlarges a latent."""
    footprint = upscaler_footprint(config, latent, dtype.size)
    loaded = upscaler_file.loaded_bytes("upscaler", upscaler.param_specs(config))
    statistics = checkpoint.loaded_bytes("video_vae", statistics_specs(config.in_channels))
    yield Need(
        name,
        weights=loaded.arrays + statistics.arrays,
        activations=footprint.activations,
        working=footprint.working,
        flops=upscaler_flops(config, latent),
        advice=smaller("height", "width", "num_frames"),
    ).while_loading(loaded.loading)


def audio_decoder_options(
    checkpoint: Checkpoint, config: audio_vae.AudioVaeConfig, sound: vocoder.VocoderConfig, tokens: int
) -> Iterator[Need]:
    """Stage "audio decoder": VAE, then vocoder."""
    mel_frames = config.downsampling * (tokens - 1) + 1
    vae, generator = audio_decode_footprint(config, tokens), vocoder_footprint(sound, mel_frames)
    loaded = (
        checkpoint.loaded_bytes("audio_vae", audio_vae.decoder_specs(config)),
        checkpoint.loaded_bytes("vocoder", vocoder.param_specs(sound)),
    )
    peak = max(vae, generator, key=lambda footprint: footprint.total)
    yield Need(
        "audio decoder",
        weights=sum(part.arrays for part in loaded),
        activations=peak.activations,
        working=peak.working,
        flops=audio_decode_flops(config, tokens) + vocoder_flops(sound, mel_frames),
        advice=smaller("num_frames"),
    ).while_loading(loaded[1].loading)

"""What the stages of the decoders, the vocoder and the latent upscalers need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal

import mlx.core as mx

from ltx2rt.graph.components import AUDIO_VAE, VOCODER, video_decoder
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.audio.footprint import (
    audio_decode_flops,
    audio_decode_footprint,
    vocoder_flops,
    vocoder_footprint,
)
from ltx2rt.graph.models.layers.footprint import largest
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.upscaler.footprint import upscaler_flops, upscaler_footprint
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.need import Need
from ltx2rt.types import FLOAT32_BYTES
from ltx2rt.weights.checkpoint import Checkpoint

Grid = tuple[int, int, int]

# Encoders of video (x264) and sound (AAC): in themselves, per pixel of the picture, and per pixel of each frame that
# the former looks ahead. Measured (November 2026, x264 with 4 threads, the caller's frame included) and predicted:
# 9.2 and 12.2 MB for 128x128 and 9 frames, 17.4 and 18.4 MB for 256x256, 53.7 and 52.4 MB for 512x768, 254 and 229 MB
# for 1088x1920, of which 20 MB are the caller's.
_ENCODER_BYTES = 11 << 20
_ENCODER_BYTES_PER_PIXEL = 4
_LOOKAHEAD_BYTES_PER_PIXEL = 4
_LOOKAHEAD_FRAMES = 25


# The same of x265 with 10 bits beside EXR frames. Measured without a decoder: 55 MB for 256x256 and 33 frames, 147 MB
# for 512x768, 606 MB for 1088x1920. Of these 77 bytes per pixel are a frame on its way: it comes when the decoder's
# activations are gone, and has most of their place.
_HDR_BYTES = 30 << 20
_HDR_BYTES_PER_PIXEL = 20
_HDR_LOOKAHEAD_BYTES_PER_PIXEL = 12.5
_HDR_LOOKAHEAD_FRAMES = 17


def writing_bytes(pixels: int, frames: int, *, is_hdr: bool = False) -> int:
    """What the encoders of a clip's pictures and sound take; of an HLG master with the EXR frames beside it."""
    if is_hdr:
        ahead = round(_HDR_LOOKAHEAD_BYTES_PER_PIXEL * min(frames, _HDR_LOOKAHEAD_FRAMES))
        return _HDR_BYTES + pixels * (_HDR_BYTES_PER_PIXEL + ahead)
    ahead = _LOOKAHEAD_BYTES_PER_PIXEL * min(frames, _LOOKAHEAD_FRAMES)
    return _ENCODER_BYTES + pixels * (_ENCODER_BYTES_PER_PIXEL + ahead)


def video_decoder_options(
    checkpoint: Checkpoint,
    config: VideoVaeConfig,
    latent: Grid,
    tiling: Tiling | Literal["auto"] | None,
    dtype: mx.Dtype,
    beside: int = 0,
    keyframes: int = 0,
    name: str = "video decoder",
    clips: int = 1,
    *,
    writes: bool = True,
    is_hdr: bool = False,
) -> Iterator[Need]:
    """A stage that decodes so many clips, one after the other, in the ways that the decoder offers.

    ``beside`` bytes are there meanwhile; ``keyframes``: how many the decoder looks at besides; ``writes``: the encoder
    of the file begins now, and is not there already; ``is_hdr``: it is that of high dynamic range.
    """
    decoder = video_decoder(config)
    loaded = checkpoint.loaded_bytes("video_vae", decoder.specs())
    height, width = (cells * config.spatial_factor for cells in latent[1:])
    pixels, frames = height * width, config.pixel_frames(latent[0])
    encoder = writing_bytes(pixels, frames, is_hdr=is_hdr) if writes else 0
    for way in decoder.ways(latent, tiling, dtype.size, keyframes):
        choice = dict(way.choice)
        if not way.exact:
            choice["tiles"] += ", which change the result"
        chunk = way.chunk_frames * pixels * 3 * FLOAT32_BYTES  # whose frames go to the encoder one by one
        yield Need(
            name,
            weights=loaded.arrays,
            activations=way.footprint.activations,
            working=way.footprint.working,
            host=way.footprint.host + chunk + encoder + beside,
            caches=(clips * latent[0] + keyframes)
            * prod(latent[1:])
            * config.latent_channels
            * (dtype.size + FLOAT32_BYTES),
            flops=clips * decoder.flops(latent, keyframes),
            choice=choice,
            settings=dict(way.settings),
            advice=smaller("height", "width"),
            can_be_kept=way.exact,
        ).while_loading(loaded.loading)


def upscaler_options(
    checkpoint: Checkpoint,
    upscaler_file: Checkpoint,
    config: upscaler.LatentUpscalerConfig,
    name: str,
    latents: Sequence[Grid],
    dtype: mx.Dtype,
) -> Iterator[Need]:
    """A stage that enlarges latents, one after the other."""
    footprint = largest(*(upscaler_footprint(config, latent, dtype.size) for latent in latents))
    loaded = upscaler_file.loaded_bytes("upscaler", upscaler.param_specs(config))
    statistics = checkpoint.loaded_bytes("video_vae", statistics_specs(config.in_channels))
    yield Need(
        name,
        weights=loaded.arrays + statistics.arrays,
        activations=footprint.activations,
        working=footprint.working,
        flops=sum(upscaler_flops(config, latent) for latent in latents),
        advice=smaller("height", "width", "num_frames"),
    ).while_loading(loaded.loading)


def audio_decoder_options(files: WeightSet, tokens: int) -> Iterator[Need]:
    """Stage "audio decoder": VAE, then vocoder."""
    config, sound = files.config(AUDIO_VAE).vae, files.config(VOCODER)
    mel_frames = config.downsampling * (tokens - 1) + 1
    vae, generator = audio_decode_footprint(config, tokens), vocoder_footprint(sound, mel_frames)
    loaded = (
        files.source(AUDIO_VAE).loaded_bytes("audio_vae", audio_vae.decoder_specs(config)),
        files.source(VOCODER).loaded_bytes("vocoder", vocoder.param_specs(sound)),
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

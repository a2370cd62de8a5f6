"""What the stages that encode pictures, clips and sound need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import mlx.core as mx

from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio.footprint import sound_encode_flops, sound_encode_footprint
from ltx2rt.graph.models.layers.footprint import Footprint, largest
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.flops import video_encode_flops
from ltx2rt.graph.models.video_vae.footprint import encode_bytes
from ltx2rt.graph.models.video_vae.layers import can_stream
from ltx2rt.graph.models.video_vae.specs import encoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.streaming import PUSHES
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.memory.need import Need
from ltx2rt.types import FLOAT32_BYTES
from ltx2rt.weights.checkpoint import Checkpoint

Grid = tuple[int, int, int]


def video_encoder_options(
    checkpoint: Checkpoint,
    config: VideoVaeConfig,
    name: str,
    clips: Sequence[Grid],
    dtype: mx.Dtype,
    beside: int = 0,
    tiling: Tiling | None = None,
) -> Iterator[Need]:
    """A stage that encodes clips of (F, H, W) pixels, single images in one piece.

    ``beside`` bytes are there, too; ``tiling``: of longer clips, for an encoder that could take them whole.
    """
    loaded = checkpoint.loaded_bytes("video_vae", encoder_specs(config) + statistics_specs(config.latent_channels))
    streams = can_stream(encoder_layers(config.require_encoder()))
    flops = sum(video_encode_flops(config, clip, clip_tiling(config, clip, tiling, streams=streams)) for clip in clips)
    for push in PUSHES:
        peak, host = Footprint(0), 0
        for clip in clips:
            piece = push if streams and clip[0] > 1 else None
            tiles = clip_tiling(config, clip, tiling, streams=streams)
            peak = largest(peak, encode_bytes(config, clip, dtype.size, tiles, piece).footprint)
            # Frames of the caller as float32: all of them, or one and the next.
            frames = clip[0] if piece is None else min(clip[0], 2)
            host = max(host, frames * prod(clip[1:]) * 3 * FLOAT32_BYTES)
        yield Need(
            name,
            weights=loaded.arrays,
            activations=peak.activations,
            working=peak.working,
            host=peak.host + host + beside,
            flops=flops,
            choice={"frames": f"{push} at a time"} if any(clip[0] > 1 for clip in clips) else {},
            settings={"push": push if streams else None},
            advice=smaller("height", "width"),
        ).while_loading(loaded.loading)


def clip_tiling(config: VideoVaeConfig, clip: Grid, tiling: Tiling | None, *, streams: bool) -> Tiling | None:
    """The tiles in which a clip of (F, H, W) pixels is encoded: those wanted, else those of an encoder that cannot take
    it a few frames at a time; None: it is encoded whole."""
    if clip[0] == 1:
        return None
    return tiling if tiling is not None or streams else Tiling.auto(*clip[1:], config.spatial_factor)


def sound_encoder_options(
    checkpoint: Checkpoint, config: audio_vae.AudioVaeConfig, mel_frames: int, samples: int, resampling: int
) -> Iterator[Need]:
    """Stage "sound encoder"; ``samples`` of each channel of the waveform, which ``resampling`` bytes have made."""
    footprint = sound_encode_footprint(config, mel_frames)
    loaded = checkpoint.loaded_bytes("audio_vae", audio_vae.encoder_specs(config))
    yield Need(
        "sound encoder",
        weights=loaded.arrays,
        activations=footprint.activations,
        working=footprint.working,
        host=8 * samples * 2 * FLOAT32_BYTES + resampling,
        flops=sound_encode_flops(config, mel_frames),
        advice="give a shorter sound",
    ).while_loading(loaded.loading)

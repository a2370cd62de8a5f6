"""Stages that turn images, videos and sound into latents."""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.models import audio_vae, mel
from ltx2rt.graph.models.latent_statistics import statistics_specs
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.pixel_range import from_uint8
from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.graph.models.video_encoder import VideoEncoder
from ltx2rt.graph.models.video_vae import VideoVaeConfig, encoder_specs
from ltx2rt.graph.pipelines.events import SoundEncoded, VideoEncoded
from ltx2rt.graph.pipelines.inputs import SoundInput
from ltx2rt.graph.pipelines.run import Run

Array = np.ndarray[Any, np.dtype[Any]]
logger = logging.getLogger(__name__)


def encode_pixels(run: Run, name: str, clips: list[Array]) -> list[Float32Array]:
    """Normalised latents (1, f, h, w, 128) of clips (F, H, W, 3), uint8 or float32 in [-1, 1], in order.

    No stage runs when there are none.
    """
    if not clips:
        return []
    checkpoint, dtype = run.files.checkpoint, run.request.dtype
    config = VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    latents = []
    with run.stage(name) as stage:
        arrays = stage.hold(checkpoint.load("video_vae", encoder_specs(config) + statistics_specs()))
        encoder = VideoEncoder(config, Params(arrays), dtype)
        for clip in clips:
            frames = from_uint8(clip) if clip.dtype == np.uint8 else clip
            tiling = Tiling.auto(*clip.shape[1:3]) if len(clip) > 1 else None
            latent = encoder.encode_frames(frames[None], tiling)
            mx.eval(latent)
            run.emit(VideoEncoded(latent))
            latents.append(np.array(latent.astype(mx.float32)))
    return latents


def encode_images(run: Run, name: str, height: int, width: int) -> list[Float32Array]:
    """Latents of the request's images at this size."""
    return encode_pixels(run, name, [image.pixels(height, width)[None] for image in run.request.images])


def encode_sound(run: Run, sound: SoundInput, frames: int) -> Float32Array:
    """Normalised audio tokens (1, frames, 128): the sound is resampled, analysed and encoded, then cut at the end or
    filled with zeros."""
    checkpoint = run.files.checkpoint
    section = checkpoint.section("audio_vae")
    config, mel_config = audio_vae.AudioVaeConfig.from_dict(section), mel.MelConfig.from_dict(section)
    with run.stage("sound encoder") as stage:
        arrays = stage.hold(checkpoint.load("audio_vae", audio_vae.encoder_specs(config)))
        waveform = mel.resample(sound.waveform[None], sound.sample_rate, mel_config.sample_rate)
        log_mel = mx.array(mel.log_mel(waveform, mel_config))
        encoded = audio_vae.AudioEncoder(config, Params(arrays), mx.float32)(log_mel)
        run.emit(SoundEncoded(log_mel, encoded))
        tokens = np.array(encoded)[:, :frames]
    return np.pad(tokens, ((0, 0), (0, frames - tokens.shape[1]), (0, 0)))

"""Stages that turn latents into larger latents, sound and frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.models import audio_vae, upscaler, vocoder
from ltx2rt.graph.models.latent_statistics import LatentStatistics, statistics_specs
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.graph.models.video_decoder import VideoDecoder
from ltx2rt.graph.models.video_vae import VideoVaeConfig, decoder_specs
from ltx2rt.graph.pipelines.events import AudioDecoded, LatentUpscaled, VideoDecodeStarted
from ltx2rt.graph.pipelines.run import GeneratedClip, Run

Array = np.ndarray[Any, np.dtype[Any]]


def upscale_latent(run: Run, latent: Float32Array) -> Float32Array:
    """Normalised video latent (1, f, h, w, 128) -> (1, f, 2h, 2w, 128)."""
    checkpoint, upscaler_file = run.files.checkpoint, run.files.spatial_upscaler
    if upscaler_file is None:
        raise UsageError("the spatial upscaler is missing; give its file.")
    config = upscaler.LatentUpscalerConfig.from_dict(upscaler_file.section("upscaler"))
    with run.stage("spatial upscaler") as stage:
        arrays = stage.hold(upscaler_file.load("upscaler", upscaler.param_specs(config)))
        statistics = LatentStatistics(Params(stage.hold(checkpoint.load("video_vae", statistics_specs()))))
        before = statistics.un_normalise(mx.array(latent).astype(run.request.dtype))
        after = upscaler.LatentUpscaler(config, Params(arrays), run.request.dtype)(before)
        run.emit(LatentUpscaled(before, after))
        return np.array(statistics.normalise(after).astype(mx.float32))


def decode_audio(run: Run, tokens: Float32Array) -> tuple[Array, int]:
    """Audio tokens (1, L, 128) -> waveform (S, 2) float32 and its sample rate in Hz."""
    checkpoint = run.files.checkpoint
    vae_config = audio_vae.AudioVaeConfig.from_dict(checkpoint.section("audio_vae"))
    vocoder_config = vocoder.VocoderConfig.from_dict(checkpoint.section("vocoder"))
    with run.stage("audio decoder") as stage:
        arrays = stage.hold(checkpoint.load("audio_vae", audio_vae.decoder_specs(vae_config)))
        # The audio path is small; float32 costs little and keeps the sound clean.
        decoder = audio_vae.AudioDecoder(vae_config, Params(arrays), mx.float32)
        log_mel = decoder(mx.array(tokens))
        run.emit(AudioDecoded(mx.array(tokens), log_mel))
        vocoder_arrays = stage.hold(checkpoint.load("vocoder", vocoder.param_specs(vocoder_config)))
        waveform = vocoder.Vocoder(vocoder_config, Params(vocoder_arrays))(log_mel)
        return np.array(waveform[0]), vocoder_config.sample_rate


def decode_video(run: Run, latent: Float32Array) -> Iterator[Array]:
    """Chunks of float32 (f, H, W, 3) in [0, 1] of a normalised latent (1, f, h, w, 128).

    The stage begins with the first chunk and lasts as long as the iteration.
    """
    checkpoint = run.files.checkpoint
    config = VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    tiling = run.request.tiling
    if tiling == "auto":
        tiling = Tiling.auto(latent.shape[2] * config.spatial_factor, latent.shape[3] * config.spatial_factor)
    with run.stage("video decoder") as stage:
        arrays = stage.hold(checkpoint.load("video_vae", decoder_specs(config) + statistics_specs()))
        decoder = VideoDecoder(config, Params(arrays), run.request.dtype)
        values = mx.array(latent).astype(run.request.dtype)
        run.emit(VideoDecodeStarted(values))
        yield from decoder.decode_frames(values, tiling, noise=run.noise.normal)


def finish(
    run: Run,
    video: Float32Array | None,
    audio: Float32Array | None,
    *,
    waveform: Array | None = None,
    sample_rate: int = 0,
) -> GeneratedClip:
    """The clip of the final latents: the sound now (decoded, or the waveform given), the frames while they are read."""
    if audio is not None:
        waveform, sample_rate = decode_audio(run, audio)
    request = run.request
    spatial = (
        VideoVaeConfig.from_dict(run.files.checkpoint.section("video_vae")).spatial_factor if video is not None else 0
    )
    return GeneratedClip(
        frames=None if video is None else decode_video(run, video),
        audio=waveform,
        sample_rate=sample_rate,
        frame_rate=request.frame_rate,
        num_frames=0 if video is None else request.num_frames,
        height=0 if video is None else video.shape[2] * spatial,
        width=0 if video is None else video.shape[3] * spatial,
    )

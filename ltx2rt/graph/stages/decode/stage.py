"""Stages that turn latents into larger latents, sound and frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, decoder_specs
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs
from ltx2rt.graph.stages.decode.needs import audio_decoder_options, upscaler_options, video_decoder_options
from ltx2rt.graph.stages.events import AudioDecoded, LatentUpscaled, VideoDecodeStarted
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.weights.checkpoint import Checkpoint

Array = np.ndarray[Any, np.dtype[Any]]


def upscale_latent(run: Run, latent: Float32Array) -> Float32Array:
    """Normalised video latent (1, f, h, w, 128) -> (1, f, 2h, 2w, 128)."""
    if run.files.spatial_upscaler is None:
        raise UsageError("the spatial upscaler is missing; give its file.")
    return resample_latent(run, "spatial upscaler", run.files.spatial_upscaler, latent)


def resample_latent(run: Run, name: str, upscaler_file: Checkpoint, latent: Float32Array) -> Float32Array:
    """Normalised video latent (1, f, h, w, 128) through the upscaler of a file: larger in space, or 2f - 1 in time."""
    latents = run.remember(name, lambda: {"latent": _resample(run, name, upscaler_file, latent)})
    return to_numpy(latents["latent"])


def _resample(run: Run, name: str, upscaler_file: Checkpoint, latent: Float32Array) -> Float32Array:
    checkpoint, dtype = run.files.checkpoint, run.inputs.dtype
    config = upscaler.LatentUpscalerConfig.from_dict(upscaler_file.section("upscaler"))
    grid = (latent.shape[1], latent.shape[2], latent.shape[3])
    need = run.ledger.choose(upscaler_options(checkpoint, upscaler_file, config, name, grid, dtype))
    if run.planning:
        return np.zeros((1, *config.upscaled(grid), config.in_channels), np.float32)
    with run.stage(need) as stage:
        arrays = stage.hold(upscaler_file.load("upscaler", upscaler.param_specs(config)))
        statistics = LatentStatistics(Params(stage.hold(checkpoint.load("video_vae", statistics_specs()))))
        before = statistics.un_normalise(mx.array(latent).astype(dtype))
        after = upscaler.LatentUpscaler(config, Params(arrays), dtype)(before)
        run.emit(LatentUpscaled(before, after))
        upscaled = to_numpy(statistics.normalise(after).astype(mx.float32))
        require_finite(name, "the upscaled latent", upscaled)
        return upscaled


def decode_audio(run: Run, tokens: Float32Array) -> tuple[Array, int]:
    """Audio tokens (1, L, 128) -> waveform (S, 2) float32 and its sample rate in Hz."""
    checkpoint = run.files.checkpoint
    vae_config = audio_vae.AudioVaeConfig.from_dict(checkpoint.section("audio_vae"))
    vocoder_config = vocoder.VocoderConfig.from_dict(checkpoint.section("vocoder"))
    need = run.ledger.choose(audio_decoder_options(checkpoint, vae_config, vocoder_config, tokens.shape[1]))
    if run.planning:
        return np.zeros((1, vocoder.CHANNELS), np.float32), vocoder_config.sample_rate
    with run.stage(need) as stage:
        arrays = stage.hold(checkpoint.load("audio_vae", audio_vae.decoder_specs(vae_config)))
        # The audio path is small; float32 costs little and keeps the sound clean.
        decoder = audio_vae.AudioDecoder(vae_config, Params(arrays), mx.float32)
        log_mel = decoder(mx.array(tokens))
        mx.eval(log_mel)  # what it took is free before the vocoder comes
        require_finite(need.name, "the decoded spectrogram", log_mel)
        run.emit(AudioDecoded(mx.array(tokens), log_mel))
        vocoder_arrays = stage.hold(checkpoint.load("vocoder", vocoder.param_specs(vocoder_config)))
        waveform = vocoder.Vocoder(vocoder_config, Params(vocoder_arrays))(log_mel)
        sound = to_numpy(waveform[0])
        require_finite(need.name, "the sound", sound)
        return sound, vocoder_config.sample_rate


def decode_video(run: Run, latent: Float32Array) -> Iterator[Array]:
    """Chunks of float32 (f, H, W, 3) in [0, 1] of a normalised latent (1, f, h, w, 128).

    The stage begins with the first chunk and lasts as long as the iteration.
    """
    checkpoint, inputs = run.files.checkpoint, run.inputs
    config = VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    grid = (latent.shape[1], latent.shape[2], latent.shape[3])
    tiling = None if inputs.settings.tiling == "none" else inputs.settings.tiling
    need = run.ledger.choose(video_decoder_options(checkpoint, config, grid, tiling, inputs.dtype))
    return iter(()) if run.planning else _decoded(run, config, need, latent)


def _decoded(run: Run, config: VideoVaeConfig, need: Need, latent: Float32Array) -> Iterator[Array]:
    tiling, push = need.settings["tiling"], need.settings["push"]
    with run.stage(need) as stage:
        arrays = stage.hold(run.files.checkpoint.load("video_vae", decoder_specs(config) + statistics_specs()))
        decoder = VideoDecoder(config, Params(arrays), run.inputs.dtype)
        values = mx.array(latent).astype(run.inputs.dtype)
        run.emit(VideoDecodeStarted(values))
        if push is None:
            chunks = decoder.decode_frames(values, tiling, noise=run.noise.normal)
        else:
            chunks = decoder.stream_frames(values, tiling, frames_per_push=push, noise=run.noise.normal)
        for chunk in chunks:
            require_finite(need.name, "the frames", chunk)
            yield chunk
            del chunk  # its memory is free while the next one is decoded


def finish(
    run: Run,
    video: Float32Array | None,
    audio: Float32Array | None,
    *,
    waveform: Array | None = None,
    sample_rate: int = 0,
) -> GeneratedClip:
    """The clip of the final latents: the sound now (decoded, or the waveform given), the frames while they are read.

    What the request asks for beyond its pipeline happens here: upscalers on the final latent, and no decoding.
    """
    inputs, frame_rate = run.inputs, run.inputs.frame_rate
    if video is not None and inputs.settings.upscale_spatial:
        video = resample_latent(run, "final spatial upscaler", _given(run.files.spatial_upscaler, "spatial"), video)
    if video is not None and inputs.settings.upscale_temporal:
        video = resample_latent(run, "final temporal upscaler", _given(run.files.temporal_upscaler, "temporal"), video)
        frame_rate *= 2
    if audio is not None and not inputs.settings.latents_only:
        tokens = audio
        decoded = run.remember("sound", lambda: dict(zip(("waveform", "rate"), _sound(run, tokens), strict=True)))
        waveform, sample_rate = to_numpy(decoded["waveform"]), int(to_numpy(decoded["rate"]))
    vae = None if video is None else VideoVaeConfig.from_dict(run.files.checkpoint.section("video_vae"))
    return GeneratedClip(
        frames=decode_video(run, video) if video is not None and not inputs.settings.latents_only else None,
        audio=waveform,
        sample_rate=sample_rate,
        frame_rate=frame_rate,
        num_frames=0 if video is None or vae is None else (video.shape[1] - 1) * vae.temporal_factor + 1,
        height=0 if video is None or vae is None else video.shape[2] * vae.spatial_factor,
        width=0 if video is None or vae is None else video.shape[3] * vae.spatial_factor,
        video_latent=video,
        audio_latent=audio,
    )


def _sound(run: Run, tokens: Float32Array) -> tuple[Array, Array]:
    waveform, sample_rate = decode_audio(run, tokens)
    return waveform, np.full((), sample_rate, np.int32)


def _given(upscaler_file: Checkpoint | None, kind: str) -> Checkpoint:
    if upscaler_file is None:
        raise UsageError(f"the {kind} upscaler is missing; give its file with --{kind}-upsampler-path.")
    return upscaler_file

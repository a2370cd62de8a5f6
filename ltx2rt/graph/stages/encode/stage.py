"""Stages that turn images, videos and sound into latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import AUDIO_VAE, VIDEO_VAE
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.models.audio import mel
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, encoder_specs
from ltx2rt.graph.models.video_vae.statistics import statistics_specs
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.encode.needs import clip_tiling, sound_encoder_options, video_encoder_options
from ltx2rt.graph.stages.events import SoundEncoded, VideoEncoded
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.inputs import FrameStream, SoundInput
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.media.pixel_range import to_signed_range
from ltx2rt.types import Array

# What reading a file leaves in the process: code of the decoder, stacks and heaps of its threads. Measured for H.264,
# November 2026: 3.2 MB after a clip of 400x240, 3.3 MB after one of 320x176; on a Sapphire Rapids 4.6 MB after 640x360,
# 6.5 MB after 1280x720, 4.3 MB after 1920x1080.
_READER_LEAVES = 5 << 20
# The same of analysing sound: code of the resampler and of the transforms, measured 2.3 MB.
_ANALYSIS_LEAVES = 2 << 20


def encode_pixels(
    run: Run, name: str, clips: Sequence[Array | FrameStream], beside: int = 0, tiling: Tiling | None = None
) -> list[Float32Array]:
    """Normalised latents (1, f, h, w, 128) of clips (F, H, W, 3), uint8 or float32 in [-1, 1], in order.

    No stage runs when there are none. What reads the frames of a stream takes ``beside`` bytes. ``tiling``: of clips
    longer than a frame, which are then blended of tiles, as the official code has them; None: as if encoded whole.
    """
    if not clips:
        return []
    if any(isinstance(clip, FrameStream) and clip.shape[0] > 1 for clip in clips):
        run.ledger.carried += _READER_LEAVES
    checkpoint, config = run.files.source(VIDEO_VAE), run.files.config(VIDEO_VAE)
    dtype = run.inputs.encoder_dtype
    grids = [(clip.shape[0], clip.shape[1], clip.shape[2]) for clip in clips]
    weights = run.files.weights(VIDEO_VAE, encoder_specs(config) + statistics_specs(config.latent_channels))
    need = run.choose(video_encoder_options(checkpoint, config, name, grids, dtype, beside, tiling), weights)
    if run.planning:
        return [_blank_latent(config, grid) for grid in grids]
    latents = []
    with run.stage(need) as stage:
        encoder = VideoEncoder(config, Params(run.load(stage, weights)), dtype)
        for clip in clips:
            latent = _encode(encoder, clip, need.settings["push"], tiling)
            run.emit(VideoEncoded(latent))
            latents.append(to_numpy(latent.astype(mx.float32)))
            require_finite(name, "the latent", latents[-1])
            del latent
    return latents


def _blank_latent(config: VideoVaeConfig, clip: tuple[int, int, int]) -> Float32Array:
    frames, height, width = clip
    factor = config.spatial_factor
    shape = (1, config.latent_frames(frames), height // factor, width // factor, config.latent_channels)
    return np.zeros(shape, np.float32)


def _encode(encoder: VideoEncoder, clip: Array | FrameStream, push: int | None, tiling: Tiling | None) -> mx.array:
    """The latent of one clip: an image at once; a longer clip, or each of its tiles, ``push`` frames at a time or at
    once (None)."""
    count, height, width = clip.shape[:3]
    tiling = clip_tiling(encoder.config, (count, height, width), tiling, streams=push is not None)
    if push is not None and count > 1:
        frames = (_as_float(frame) for frame in _frames(clip))
        if tiling is not None:
            latent = encoder.encode_tiles(frames, (count, height, width), tiling, frames_per_push=push)
        else:
            chunks = (frame[None] for frame in frames)
            latent = mx.concatenate(list(encoder.encode_stream(chunks, frames_per_push=push)), axis=1)
    else:
        whole = np.stack(list(_frames(clip))) if isinstance(clip, FrameStream) else clip
        latent = encoder.encode_frames(_as_float(whole)[None], tiling)
    mx.eval(latent)
    return latent


def _frames(clip: Array | FrameStream) -> Iterator[Array]:
    """The frames of a clip, one by one."""
    if not isinstance(clip, FrameStream):
        yield from clip
        return
    with closing(clip.read()) as frames:
        yield from frames


def _as_float(frames: Array) -> Array:
    return to_signed_range(frames) if frames.dtype == np.uint8 else frames


def encode_images(run: Run, name: str, height: int, width: int) -> list[Float32Array]:
    """Latents of the request's images at this size."""
    images = run.inputs.media.images
    reading = max((image.reading_bytes for image in images), default=0)
    return encode_pixels(run, name, [image.stream(height, width) for image in images], reading)


def encode_sound(run: Run, sound: SoundInput, frames: int | None = None) -> Float32Array:
    """Normalised audio tokens (1, frames, 128): the sound is resampled, analysed and encoded, then cut at the end or
    filled with zeros; None: as many as it has."""
    checkpoint = run.files.source(AUDIO_VAE)
    config, mel_config = run.files.config(AUDIO_VAE)
    samples = round(len(sound.waveform) * mel_config.sample_rate / sound.sample_rate)
    mel_frames = samples // mel_config.hop + 1
    weights = run.files.weights(AUDIO_VAE, audio_vae.encoder_specs(config))
    resampling = mel.resampling_bytes(samples, 2, sound.sample_rate, mel_config.sample_rate)
    need = run.choose(sound_encoder_options(checkpoint, config, mel_frames, samples, resampling), weights)
    run.ledger.carried += _ANALYSIS_LEAVES
    if frames is None:
        frames = -(-mel_frames // config.downsampling)
    if run.planning:
        return np.zeros((1, frames, config.token_width), np.float32)
    with run.stage(need) as stage:
        waveform = mel.resample(sound.waveform[None], sound.sample_rate, mel_config.sample_rate)
        log_mel = mx.array(mel.log_mel(waveform, mel_config))
        encoded = audio_vae.AudioEncoder(config, Params(run.load(stage, weights)), mx.float32)(log_mel)
        run.emit(SoundEncoded(log_mel, encoded))
        tokens = to_numpy(encoded)[:, :frames]
        require_finite(need.name, "the audio latent", tokens)
    return np.pad(tokens, ((0, 0), (0, frames - tokens.shape[1]), (0, 0)))

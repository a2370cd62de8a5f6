"""Stages that turn latents into larger latents, sound and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import (
    AUDIO_VAE,
    SPATIAL_UPSCALER,
    TEMPORAL_UPSCALER,
    VIDEO_VAE,
    VOCODER,
    Component,
    video_decoder,
)
from ltx2rt.graph.diffusion.noise import FrameNoise, NoiseSource
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.windows import Planes
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs
from ltx2rt.graph.protocols import VideoDecoder
from ltx2rt.graph.stages.decode.needs import audio_decoder_options, upscaler_options, video_decoder_options
from ltx2rt.graph.stages.events import AudioDecoded, FramesDecoded, LatentUpscaled, VideoDecodeStarted
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.types import Array
from ltx2rt.weights.kept_weights import StageWeights

Upscaler = Component[upscaler.LatentUpscalerConfig]


def upscale_latents(
    run: Run, latent: Float32Array, keyframes: Float32Array | None, name: str = "spatial upscaler"
) -> tuple[Float32Array, Float32Array | None]:
    """Normalised video latent (1, f, h, w, 128) -> (1, f, 2h, 2w, 128), and that of the generated key frames, which are
    enlarged like a clip of their own: neighbours among them mix. ``name`` is that of the stage."""
    given = {"latent": latent} | ({} if keyframes is None else {"keyframes": keyframes})
    enlarged = _resampled(run, name, SPATIAL_UPSCALER, given)
    return enlarged["latent"], enlarged.get("keyframes")


def resample_latent(run: Run, name: str, component: Upscaler, latent: Float32Array) -> Float32Array:
    """Normalised video latent (1, f, h, w, 128) through an upscaler: larger in space, or 2f - 1 in time.

    Raises:
        UsageError: the upscaler is missing.
    """
    return _resampled(run, name, component, {"latent": latent})["latent"]


def _resampled(
    run: Run, name: str, component: Upscaler, latents: Mapping[str, Float32Array]
) -> dict[str, Float32Array]:
    """Several latents through one upscaler, one after the other."""
    if not run.files.has(component):
        raise UsageError(f"the {component.name.replace('_', ' ')} is missing; give {spelled(component.name, 'FILE')}.")
    found = run.remember(name, lambda: _resample(run, name, component, latents))
    return {key: to_numpy(value) for key, value in found.items()}


def _resample(run: Run, name: str, component: Upscaler, latents: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
    checkpoint, upscaler_file = run.files.source(VIDEO_VAE), run.files.source(component)
    config, dtype = run.files.config(component), run.inputs.dtype
    grids = {key: (latent.shape[1], latent.shape[2], latent.shape[3]) for key, latent in latents.items()}
    enlarging = run.files.weights(component, upscaler.param_specs(config))
    of_latents = run.files.weights(VIDEO_VAE, statistics_specs(config.in_channels))
    options = upscaler_options(checkpoint, upscaler_file, config, name, [*grids.values()], dtype)
    need = run.choose(options, enlarging, of_latents)
    if run.planning:
        return {
            key: np.zeros((1, *config.upscaled(grid), config.in_channels), np.float32) for key, grid in grids.items()
        }
    with run.stage(need) as stage:
        model = upscaler.LatentUpscaler(config, Params(run.load(stage, enlarging)), dtype)
        statistics = LatentStatistics(Params(run.load(stage, of_latents)))
        return {key: _enlarged(run, name, model, statistics, latent) for key, latent in latents.items()}


def _enlarged(
    run: Run, name: str, model: upscaler.LatentUpscaler, statistics: LatentStatistics, latent: Float32Array
) -> Float32Array:
    before = statistics.un_normalise(mx.array(latent).astype(run.inputs.dtype))
    after = model(before)
    run.emit(LatentUpscaled(before, after))
    upscaled = to_numpy(statistics.normalise(after).astype(mx.float32))
    require_finite(name, "the upscaled latent", upscaled)
    return upscaled


def decode_audio(run: Run, tokens: Float32Array) -> tuple[Array, int]:
    """Audio tokens (1, L, 128) -> waveform (S, 2) float32 and its sample rate in Hz."""
    files = run.files
    vae_config, vocoder_config = files.config(AUDIO_VAE).vae, files.config(VOCODER)
    of_vae = files.weights(AUDIO_VAE, audio_vae.decoder_specs(vae_config))
    of_vocoder = files.weights(VOCODER, vocoder.param_specs(vocoder_config))
    need = run.choose(audio_decoder_options(files, tokens.shape[1]), of_vae, of_vocoder)
    if run.planning:
        return np.zeros((1, vocoder.CHANNELS), np.float32), vocoder_config.sample_rate
    with run.stage(need) as stage:
        arrays = run.load(stage, of_vae)
        # The audio path is small; float32 costs little and keeps the sound clean.
        decoder = audio_vae.AudioDecoder(vae_config, Params(arrays), mx.float32)
        log_mel = decoder(mx.array(tokens))
        mx.eval(log_mel)  # what it took is free before the vocoder comes
        require_finite(need.name, "the decoded spectrogram", log_mel)
        run.emit(AudioDecoded(mx.array(tokens), log_mel))
        waveform = vocoder.Vocoder(vocoder_config, Params(run.load(stage, of_vocoder)))(log_mel)
        sound = to_numpy(waveform[0])
        require_finite(need.name, "the sound", sound)
        return sound, vocoder_config.sample_rate


class KeyFramePlanes(NamedTuple):
    """Key frames for the video decoder to look at.

    Attributes:
        latents: (1, P, h, w, 128), normalised.
        positions: pixel frame of each, counted as ``clip_start`` is.
        clip_start: pixel frame with which the clip begins.
    """

    latents: Float32Array
    positions: Sequence[int]
    clip_start: int = 0

    def for_decoder(self, dtype: mx.Dtype) -> KeyFrames:
        return KeyFrames(mx.array(self.latents).astype(dtype), tuple(self.positions), self.clip_start)


def decode_video(
    run: Run,
    latent: Float32Array,
    keyframes: KeyFramePlanes | None = None,
    beside: int = 0,
    noise: NoiseSource | None = None,
) -> Callable[[], Iterator[Array]]:
    """What decodes a normalised latent (1, f, h, w, 128): chunks of float32 (f, H, W, 3) in [0, 1].

    Called again, it gives the same bits. How it is decoded is chosen now. The stage begins with the first chunk and
    lasts as long as the iteration. ``keyframes`` are looked at by a diffusion decoder alone. The reader
    of the chunks takes ``beside`` bytes meanwhile. ``noise``: of the diffusion decoder, in place of the run's.
    """
    config = run.files.config(VIDEO_VAE)
    decoder = video_decoder(config)
    weights = run.files.weights(VIDEO_VAE, decoder.specs())
    if config.diffusion is None:
        keyframes = None
    need = run.choose(_decoding(run, latent, keyframes, beside), weights)
    draws = run.decoder_noise or noise or run.noise.fork()
    _pass_over(run, decoder, latent, keyframes)
    if run.planning:
        return lambda: iter(())
    return lambda: _decoded(run, decoder, weights, need, latent, draws.fork(), keyframes)


def leave_out_video(run: Run, latent: Float32Array, keyframes: KeyFramePlanes | None = None) -> None:
    """Go on as if the latent of a window had been decoded: the noise of later windows is then the same."""
    config = run.files.config(VIDEO_VAE)
    _pass_over(run, video_decoder(config), latent, None if config.diffusion is None else keyframes)


def _decoding(run: Run, latent: Float32Array, keyframes: KeyFramePlanes | None, beside: int) -> Iterator[Need]:
    """The ways of decoding a latent."""
    inputs, config = run.inputs, run.files.config(VIDEO_VAE)
    tiling = None if inputs.settings.tiling == "none" else inputs.settings.tiling
    number = 0 if keyframes is None else len(keyframes.positions)
    return video_decoder_options(
        run.files.source(VIDEO_VAE),
        config,
        _grid(latent),
        tiling,
        inputs.decoder_dtype,
        beside,
        number,
        writes=run.window.index == 0,
        is_hdr=inputs.is_hdr,
    )


def _pass_over(run: Run, decoder: VideoDecoder, latent: Float32Array, keyframes: KeyFramePlanes | None) -> None:
    """Move the noise of a clip in windows past what the decoder draws; of other clips it has no further use.

    It is what the best way draws, whichever memory allows: later windows have the same noise with every budget.
    """
    if run.window.count > 1:
        seen = None if keyframes is None else keyframes.for_decoder(run.inputs.dtype)
        best = next(_decoding(run, latent, keyframes, 0))
        run.pass_over(decoder.draws(_grid(latent), best.settings, seen))


def _grid(latent: Float32Array) -> tuple[int, int, int]:
    return latent.shape[1], latent.shape[2], latent.shape[3]


def _decoded(
    run: Run,
    decoder: VideoDecoder,
    weights: StageWeights,
    need: Need,
    latent: Float32Array,
    noise: NoiseSource,
    keyframes: KeyFramePlanes | None,
) -> Iterator[Array]:
    dtype = run.inputs.decoder_dtype
    with run.stage(need) as stage:
        params = Params(run.load(stage, weights))
        values = mx.array(latent).astype(dtype)
        run.emit(VideoDecodeStarted(values, () if keyframes is None else tuple(keyframes.positions)))
        seen = None if keyframes is None else keyframes.for_decoder(dtype)
        done, frames = 0, run.files.config(VIDEO_VAE).pixel_frames(latent.shape[1])
        for chunk in decoder.frames(params, dtype, values, need.settings, FrameNoise(noise), seen):
            require_finite(need.name, "the frames", chunk)
            done += len(chunk)
            run.emit(FramesDecoded(need.name, done, frames))
            yield chunk
            del chunk  # its memory is free while the next one is decoded


def _planes(run: Run, keyframes: Float32Array | None, carried: Planes | None, frames: int) -> KeyFramePlanes | None:
    """The generated key frames within a clip of ``frames`` frames, if its decoder is to look at them."""
    if not run.inputs.settings.decode_with_keyframes:
        return None
    given = [] if keyframes is None else [Planes(keyframes, run.inputs.keyframe_positions)]
    given += [] if carried is None else [carried]
    placed = sorted(
        (position, number, index)
        for number, planes in enumerate(given)
        for index, position in enumerate(planes.positions)
        if position < frames
    )
    if not placed:
        return None
    latents = np.concatenate([given[number].latents[:, index : index + 1] for _, number, index in placed], axis=1)
    start = run.window.start
    return KeyFramePlanes(latents, [start + position for position, _, _ in placed], start)


def finish(
    run: Run,
    video: Float32Array | None,
    audio: Float32Array | None,
    *,
    keyframes: Float32Array | None = None,
    carried: Planes | None = None,
    planes: KeyFramePlanes | None = None,
    decodes_video: bool = True,
    decodes_audio: bool = True,
    beside: int = 0,
) -> GeneratedClip:
    """The clip of the final latents: the sound now, the frames while they are read.

    What the request asks for beyond its pipeline happens here: upscalers on the final latent, and no decoding.

    Args:
        run: its settings say what is wanted.
        video, audio: normalised, (1, f, h, w, 128) and (1, L, 128).
        keyframes: (1, K, h, w, 128), normalised: the key frames that were generated besides the clip.
        carried: key frames that the window before has left, at their places in this one.
        planes: those that the decoder looks at, whatever the settings say.
        decodes_video, decodes_audio: False for latents of which nothing is to be seen or heard.
        beside: bytes that reading the frames takes.
    """
    inputs, frame_rate = run.inputs, run.inputs.frame_rate
    waveform: Array | None = None
    sample_rate = 0
    if video is not None and inputs.settings.upscale_spatial:
        video = resample_latent(run, "final spatial upscaler", SPATIAL_UPSCALER, video)
    if video is not None and inputs.settings.upscale_temporal:
        video = resample_latent(run, "final temporal upscaler", TEMPORAL_UPSCALER, video)
        frame_rate *= 2
    shows = not inputs.settings.latents_only
    if audio is not None and shows and decodes_audio:
        tokens = audio
        decoded = run.remember("sound", lambda: dict(zip(("waveform", "rate"), _sound(run, tokens), strict=True)))
        waveform, sample_rate = to_numpy(decoded["waveform"]), int(to_numpy(decoded["rate"]))
    vae = None if video is None else run.files.config(VIDEO_VAE)
    num_frames = 0 if video is None or vae is None else vae.pixel_frames(video.shape[1])
    frames = None
    if video is not None and decodes_video:
        seen = _planes(run, keyframes, carried, num_frames) if planes is None else planes
        if shows:
            frames = decode_video(run, video, seen, beside)
        elif run.window.count > 1:
            leave_out_video(run, video, seen)
    return GeneratedClip(
        frames=frames,
        audio=waveform,
        sample_rate=sample_rate,
        frame_rate=frame_rate,
        num_frames=num_frames,
        height=0 if video is None or vae is None else video.shape[2] * vae.spatial_factor,
        width=0 if video is None or vae is None else video.shape[3] * vae.spatial_factor,
        video_latent=video,
        audio_latent=audio,
    )


def _sound(run: Run, tokens: Float32Array) -> tuple[Array, Array]:
    waveform, sample_rate = decode_audio(run, tokens)
    return waveform, np.full((), sample_rate, np.int32)

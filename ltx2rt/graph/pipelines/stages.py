"""The stages that pipelines are made of; each loads what it needs, runs, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, ReplaceLatentFrames
from ltx2rt.graph.diffusion.denoising import NO_GUIDANCE, GuidedDenoiser
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    create_audio_state,
    create_video_state,
)
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype
from ltx2rt.graph.diffusion.samplers import euler_loop
from ltx2rt.graph.models import audio_vae, connector, feature_extractor, gemma3, transformer, upscaler, vocoder
from ltx2rt.graph.models.latent_statistics import LatentStatistics, statistics_specs
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.graph.models.video_decoder import VideoDecoder
from ltx2rt.graph.models.video_encoder import VideoEncoder
from ltx2rt.graph.models.video_vae import VideoVaeConfig, decoder_specs, encoder_specs
from ltx2rt.graph.pipelines.events import (
    AudioDecoded,
    Denoised,
    ImageEncoded,
    LatentUpscaled,
    StepDone,
    VideoDecodeStarted,
)
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext, check_pairing, connect, extract_features
from ltx2rt.graph.pipelines.request import ImageCondition
from ltx2rt.graph.pipelines.run import GeneratedClip, Run
from ltx2rt.graph.pipelines.transformer_passes import TransformerPasses

Array = np.ndarray[Any, np.dtype[Any]]

STATE_DTYPES: dict[mx.Dtype, StateDtype] = {mx.bfloat16: "bfloat16", mx.float16: "float16", mx.float32: "float32"}


def state_dtype(run: Run) -> StateDtype:
    """In which dtype the sampler keeps its latents: that of the activations."""
    return STATE_DTYPES[run.request.dtype]


def encode_prompts(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    """Contexts of each prompt: stage "text encoder" (Gemma and the projection), then stage "connectors"."""
    checkpoint, encoder = run.files.checkpoint, run.files.text_encoder
    tokenizer = run.files.tokenizer
    if encoder is None or tokenizer is None:
        raise UsageError("the text encoder is missing; give the Gemma folder or a text embedding.")
    dtype = run.request.dtype
    config = gemma3.Gemma3Config.from_dict(encoder.section("text_encoder"))
    check_pairing(checkpoint.metadata, encoder.section("text_encoder"), str(checkpoint.path))
    extractor_config = feature_extractor.FeatureExtractorConfig.from_dict(
        checkpoint.section("transformer"), encoder_width=config.hidden_size, encoder_states=config.num_states
    )
    with run.stage("text encoder") as stage:
        arrays = stage.hold(encoder.load("text_encoder", gemma3.param_specs(config)))
        projection = stage.hold(checkpoint.load("text_projection", feature_extractor.param_specs(extractor_config)))
        model = gemma3.Gemma3(config, Params(arrays), dtype)
        extractor = feature_extractor.FeatureExtractor(extractor_config, Params(projection), dtype)
        features = [extract_features(model, extractor, tokenizer.encode(prompt)) for prompt in prompts]
        for feature in features:
            mx.eval(*feature)
    with run.stage("connectors") as stage:
        section = checkpoint.section("transformer")
        video_config = connector.ConnectorConfig.from_dict(section, "video")
        audio_config = connector.ConnectorConfig.from_dict(section, "audio")
        video_arrays = stage.hold(checkpoint.load("video_connector", connector.param_specs(video_config)))
        audio_arrays = stage.hold(checkpoint.load("audio_connector", connector.param_specs(audio_config)))
        video = connector.Connector(video_config, Params(video_arrays), dtype)
        audio = connector.Connector(audio_config, Params(audio_arrays), dtype)
        return [connect(feature, video, audio) for feature in features]


def encode_images(run: Run, name: str, images: Sequence[ImageCondition], height: int, width: int) -> list[Float32Array]:
    """Normalised latents (1, 1, h, w, 128) of the images at this size; no stage when there are none."""
    if not images:
        return []
    checkpoint = run.files.checkpoint
    config = VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    latents = []
    with run.stage(name) as stage:
        arrays = stage.hold(checkpoint.load("video_vae", encoder_specs(config) + statistics_specs()))
        encoder = VideoEncoder(config, Params(arrays), run.request.dtype)
        for image in images:
            pixels = mx.array(image.pixels(height, width))[None, None].astype(run.request.dtype)
            latent = encoder(pixels)
            mx.eval(latent)
            run.emit(ImageEncoded(latent))
            latents.append(np.array(latent.astype(mx.float32)))
    return latents


def condition_on_images(
    state: LatentState, target: VideoTarget, images: Sequence[ImageCondition], latents: Sequence[Float32Array]
) -> LatentState:
    """Frame 0 replaces the first latent frame; images at other frames are appended as key frames."""
    for image, latent in zip(images, latents, strict=True):
        if image.frame_index == 0:
            state = ReplaceLatentFrames(latent, image.strength).apply(state, target)
        else:
            state = AppendKeyframe(latent, image.frame_index, image.strength).apply(state, target)
    return state


def prepare_states(
    run: Run,
    video_target: VideoTarget,
    audio_target: AudioTarget,
    *,
    noise_scale: float,
    images: Sequence[Float32Array] = (),
    initial_video: Float32Array | None = None,
    initial_audio: Float32Array | None = None,
) -> tuple[LatentState, LatentState]:
    """Create, condition and noise both states; the video draws its noise first."""
    dtype = state_dtype(run)
    video = create_video_state(video_target, initial=initial_video, dtype=dtype)
    video = condition_on_images(video, video_target, run.request.images, images)
    audio = create_audio_state(audio_target, initial=initial_audio, dtype=dtype)
    return run.add_noise("video", video, noise_scale), run.add_noise("audio", audio, noise_scale)


def denoise(
    run: Run,
    name: str,
    sigmas: Float32Array,
    video: LatentState,
    audio: LatentState,
    positive: PromptContext,
    negative: PromptContext | None = None,
    video_guider: GuiderParams = NO_GUIDANCE,
    audio_guider: GuiderParams = NO_GUIDANCE,
) -> tuple[LatentState, LatentState]:
    """One denoising stage: load the transformer, walk down the sigmas with Euler steps, free it."""
    checkpoint, dtype = run.files.checkpoint, run.request.dtype
    config = transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    steps = len(sigmas) - 1
    with run.stage(name, steps) as stage:
        arrays = stage.hold(
            checkpoint.load(
                "transformer",
                transformer.param_specs(config),
                loras=run.files.loras,
                fuse_dtype=mx.float32 if dtype == mx.float32 else None,
            )
        )
        model = transformer.Transformer(config, Params(arrays), dtype)
        denoiser = GuidedDenoiser(TransformerPasses(model, positive, negative), video=video_guider, audio=audio_guider)
        for step in euler_loop(denoiser, sigmas, video, audio):
            video, audio = step.video or video, step.audio or audio
            run.emit(Denoised(step.video_denoised, step.audio_denoised))
            run.emit(StepDone(name, step.index, steps, step.sigma, video.latent, audio.latent))
    return video, audio


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
    """Chunks of float32 (f, H, W, 3) in [0, 1] of a normalised latent (1, f, h, w, 128); the stage lasts as long as
    the iteration."""
    checkpoint = run.files.checkpoint
    config = VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    tiling = run.request.tiling
    if tiling == "auto":
        tiling = Tiling.auto(run.request.height, run.request.width)
    with run.stage("video decoder") as stage:
        arrays = stage.hold(checkpoint.load("video_vae", decoder_specs(config) + statistics_specs()))
        decoder = VideoDecoder(config, Params(arrays), run.request.dtype)
        values = mx.array(latent).astype(run.request.dtype)
        run.emit(VideoDecodeStarted(values))
        yield from decoder.decode_frames(values, tiling, noise=run.noise.normal)


def finish(run: Run, video: Float32Array, audio: Float32Array) -> GeneratedClip:
    """The clip of the final latents: the sound now, the frames while they are read."""
    waveform, sample_rate = decode_audio(run, audio)
    request = run.request
    return GeneratedClip(
        frames=decode_video(run, video),
        audio=waveform,
        sample_rate=sample_rate,
        frame_rate=request.frame_rate,
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
    )

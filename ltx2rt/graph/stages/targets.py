"""The latent targets of a request at a given size, in the geometry of the model's VAEs."""

from __future__ import annotations

from ltx2rt.graph.components import AUDIO_VAE, VIDEO_VAE, AudioConfig
from ltx2rt.graph.diffusion.latent_geometry import (
    AudioLatentShape,
    AudioScale,
    VideoLatentShape,
    VideoScale,
    audio_latent_frames,
)
from ltx2rt.graph.diffusion.latent_state import AudioTarget, VideoTarget
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet


def video_scale(vae: VideoVaeConfig) -> VideoScale:
    """What a latent cell of the video VAE stands for."""
    return VideoScale(vae.temporal_factor, vae.spatial_factor, vae.spatial_factor)


def audio_scale(audio: AudioConfig) -> AudioScale:
    """What a latent of the audio VAE stands for."""
    return AudioScale(audio.mel.sample_rate, audio.mel.hop, audio.vae.downsampling)


def targets(run: Run, height: int, width: int) -> tuple[VideoTarget, AudioTarget]:
    """Video at ``height`` x ``width`` pixels and the sound of the same length."""
    return video_target(run, height, width), audio_target(run)


def video_target(run: Run, height: int, width: int) -> VideoTarget:
    """Video at ``height`` x ``width`` pixels."""
    shape = video_shape(run.files, run.inputs, height, width)
    return VideoTarget(shape, float(run.inputs.frame_rate), video_scale(run.files.config(VIDEO_VAE)))


def video_shape(files: WeightSet, inputs: GenerationInputs, height: int, width: int) -> VideoLatentShape:
    """Of the clip's latent at ``height`` x ``width`` pixels."""
    vae = files.config(VIDEO_VAE)
    return VideoLatentShape.from_pixels(
        inputs.num_frames, height, width, video_scale(vae), channels=vae.latent_channels
    )


def audio_shape(files: WeightSet, inputs: GenerationInputs) -> AudioLatentShape:
    """Of the latent of the clip's sound."""
    audio = files.config(AUDIO_VAE)
    frames = audio_latent_frames(inputs.num_frames, float(inputs.frame_rate), audio_scale(audio))
    return AudioLatentShape(frames, channels=audio.vae.latent_channels, mel_bins=audio.vae.latent_bins)


def audio_target(run: Run) -> AudioTarget:
    """The sound of the clip's length."""
    return AudioTarget(audio_shape(run.files, run.inputs), audio_scale(run.files.config(AUDIO_VAE)))

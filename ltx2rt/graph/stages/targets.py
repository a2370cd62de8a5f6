"""The latent targets of a request at a given size."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, VideoLatentShape, audio_latent_frames
from ltx2rt.graph.diffusion.latent_state import AudioTarget, VideoTarget
from ltx2rt.graph.stages.inputs import GenerationInputs


def targets(inputs: GenerationInputs, height: int, width: int) -> tuple[VideoTarget, AudioTarget]:
    """Video at ``height`` x ``width`` pixels and the sound of the same length."""
    frame_rate = float(inputs.frame_rate)
    video = VideoTarget(VideoLatentShape.from_pixels(inputs.num_frames, height, width), frame_rate)
    audio = AudioTarget(AudioLatentShape(audio_latent_frames(inputs.num_frames, frame_rate)))
    return video, audio

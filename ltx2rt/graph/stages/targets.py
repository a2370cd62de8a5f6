"""The latent targets of a request at a given size."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, VideoLatentShape, audio_latent_frames
from ltx2rt.graph.diffusion.latent_state import AudioTarget, VideoTarget
from ltx2rt.graph.stages.request import Request


def targets(request: Request, height: int, width: int) -> tuple[VideoTarget, AudioTarget]:
    """Video at ``height`` x ``width`` pixels and the sound of the same length."""
    frame_rate = float(request.frame_rate)
    video = VideoTarget(VideoLatentShape.from_pixels(request.num_frames, height, width), frame_rate)
    audio = AudioTarget(AudioLatentShape(audio_latent_frames(request.num_frames, frame_rate)))
    return video, audio

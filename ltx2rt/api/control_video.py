"""Writes the control video that steered a clip, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltx2rt.api.clip import Clip
from ltx2rt.errors import UsageError
from ltx2rt.graph.stages.media_inputs import control_frames
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.spelling import spelled


def write_control_video(path: Path, clip: Clip) -> None:
    """The first control video of the clip's settings, at the clip's size, edges included.

    Raises:
        UsageError: the clip had no control video.
        MediaError: the file cannot be written.
    """
    settings = clip.inputs.settings
    if not settings.video_conditioning:
        raise UsageError(f"there is no control video to save; give {spelled('video_conditioning')}.")
    frames = control_frames(settings.video_conditioning[0].video, settings, clip.height, clip.width, clip.num_frames)
    with VideoWriter(path, clip.width, clip.height, clip.frame_rate) as writer:
        writer.write(np.rint(np.clip(frames, 0, 255)).astype(np.uint8))

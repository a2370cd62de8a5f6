"""Writes the control video that steered a clip, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltx2rt.api.clip import Clip
from ltx2rt.errors import UsageError
from ltx2rt.graph.stages.media_inputs import ControlVideo
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
    control = ControlVideo.open(settings.video_conditioning[0].video, settings)
    with VideoWriter(path, clip.width, clip.height, clip.frame_rate) as writer:
        for frame in control.frames(settings, clip.height, clip.width, range(clip.num_frames)):
            writer.write(np.rint(frame[None]).astype(np.uint8))

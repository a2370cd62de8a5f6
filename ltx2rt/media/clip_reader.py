"""Clips as pictures at a constant rate and as sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.video_reader import probe_video, read_frames
from ltx2rt.types import Array


class ClipReader:
    """A clip."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source_color: str | None = None,
        frame_rate: Fraction | None = None,
    ) -> None:
        info = probe_video(path)
        self._path = path
        self.frame_rate, self.num_frames = info.frame_rate, info.num_frames
        self.height, self.width, self.sample_rate = info.height, info.width, info.audio_rate
        self.notes: list[str] = []

    def frames(self) -> Iterator[Array]:
        """(H, W, 3) uint8."""
        return read_frames(self._path)

    def sound(self) -> Array | None:
        """None without sound."""
        return None if self.sample_rate is None else read_audio(self._path).waveform.T

"""The sound of a saved clip: it comes in parts, and goes to the clip's track and to a file of its own."""

from __future__ import annotations

import numpy as np

from ltx2rt.media.pcm import WavWriter, of_length
from ltx2rt.media.resampling import resample
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.types import Array

# What AAC can carry, in Hz; other sound is resampled to the last one.
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 64000, 88200, 96000, 48000)


class SoundTrack:
    """Sound that is written as it comes. Only where it is resampled, all of it is waited for.

    Args:
        writer: of the clip; None: no track.
        wav: of the file of its own; None: there is none.
        samples: of the track, which is as long as the pictures: it is cut, or ends in silence.
        rates: of the sound and of the track, Hz.
        speed: playback speed; the sound changes its pitch like a tape.
        of_file: see `ltx2rt.media.pcm.to_int16`.

    Attributes:
        given: samples that came, as they came.
    """

    def __init__(
        self,
        writer: VideoWriter | None,
        wav: WavWriter | None,
        *,
        samples: int,
        rates: tuple[int, int],
        speed: float,
        of_file: bool,
    ) -> None:
        self.given = 0
        self._writer = writer
        self._wav = wav
        self._left = samples
        self._rates = rates
        self._speed = speed
        self._of_file = of_file
        self._waiting: list[Array] = []

    def add(self, waveform: Array) -> None:
        """The next samples, (S, 2) float32 in [-1, 1]."""
        self.given += len(waveform)
        if self._speed != 1.0 or self._rates[0] != self._rates[1]:
            self._waiting.append(waveform)
        else:
            self._put(waveform, waveform)

    def finish(self) -> None:
        """All samples have come."""
        if self._waiting:
            rate, track_rate = self._rates
            whole = at_speed(np.concatenate(self._waiting), rate, self._speed)
            self._put(whole, whole if rate == track_rate else resample(whole, rate, track_rate))
        if self._writer is not None and self._left:
            self._writer.write_audio(np.zeros((self._left, 2), np.float32))
            self._left = 0

    def _put(self, of_file: Array, of_track: Array) -> None:
        if self._wav is not None:
            self._wav.write(of_file)
        part = of_length(of_track, min(self._left, len(of_track)))
        if self._writer is not None and len(part):
            self._writer.write_audio(part, of_file=self._of_file)
        self._left -= len(part)


def at_speed(waveform: Array, sample_rate: int, speed: float) -> Array:
    """Sound (S, 2) at a playback speed, at the same rate."""
    return waveform if speed == 1.0 else resample(waveform, round(sample_rate * speed), sample_rate)

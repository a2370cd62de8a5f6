"""Change of the sample rate of sound that is written to a file, by FFmpeg's resampler."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from ltx2rt.errors import MediaError
from ltx2rt.types import Array

_SAMPLES_AT_A_TIME = 1 << 16
_FILTER_SAMPLES = 128  # more than its length, in samples of the lower rate


def resample(waveform: Array, source_rate: int, target_rate: int) -> Array:
    """Stereo sound at another rate; at its own rate it comes back as it is.

    Args:
        waveform: (S, 2) float32.
        source_rate, target_rate: Hz.

    Returns:
        (ceil(S * target_rate / source_rate), 2) float32.

    Raises:
        MediaError: a rate is not positive.
    """
    if source_rate < 1 or target_rate < 1:
        raise MediaError(f"sample rates must be positive, got {source_rate} and {target_rate}.")
    if source_rate == target_rate or not len(waveform):
        return waveform
    resampler = av.AudioResampler(format="flt", layout="stereo", rate=target_rate)
    count = -(-len(waveform) * target_rate // source_rate)
    # Silence for the filter to end in: it gives nothing at all for sounds that are shorter than itself.
    waveform = np.pad(waveform, ((0, _FILTER_SAMPLES * -(-source_rate // target_rate)), (0, 0)))
    parts = []
    for start in range(0, len(waveform), _SAMPLES_AT_A_TIME):
        part = np.asarray(waveform[start : start + _SAMPLES_AT_A_TIME], dtype=np.float32, order="C")
        frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = source_rate, start, Fraction(1, source_rate)
        parts += [made.to_ndarray() for made in resampler.resample(frame)]
    parts += [made.to_ndarray() for made in resampler.resample(None)]
    result = np.concatenate(parts, axis=1).reshape(-1, 2)
    return result[:count]

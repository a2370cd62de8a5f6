"""Waveforms as 16-bit samples, and .wav files made of them."""

from __future__ import annotations

import os
import wave

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.media.output_file import OutputFile
from ltx2rt.types import Array


def to_int16(waveform: Array, *, of_file: bool = False) -> Array:
    """Samples clipped to [-1, 1], times 32767, truncated toward zero.

    Args:
        waveform: (S, C) float.
        of_file: the samples were read from a file: times 32768 and rounded, so that those of 16 bits come out as they
            went in.

    Returns:
        (S, C) int16.

    Raises:
        UsageError: not two-dimensional, not float, or not finite.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io @ v1.2.0.
    """
    if waveform.ndim != 2 or waveform.dtype.kind != "f":
        raise UsageError(
            f"waveform must be float (S, C), got {waveform.dtype} {waveform.shape}; transpose or convert it."
        )
    if not np.isfinite(waveform).all():
        raise UsageError("waveform holds values that are not finite; the model that made it overflowed, try float32.")
    if of_file:
        exact: Array = np.clip(np.rint(waveform * np.float32(32768.0)), -32768, 32767).astype(np.int16)
        return exact
    result: Array = (np.clip(waveform, -1.0, 1.0) * np.float32(32767.0)).astype(np.int16)
    return result


def of_length(waveform: Array, samples: int) -> Array:
    """A waveform (S, C) of exactly so many samples: its end is cut, or silence follows."""
    missing = samples - len(waveform)
    return np.pad(waveform, ((0, missing), (0, 0))) if missing > 0 else waveform[:samples]


def write_wav(path: str | os.PathLike[str], waveform: Array, sample_rate: int, *, of_file: bool = False) -> None:
    """Write a 16-bit PCM .wav file.

    Args:
        path: the file; it appears only when complete.
        waveform: (S, C) float in [-1, 1].
        sample_rate: Hz.
        of_file: see `to_int16`.

    Raises:
        UsageError: for a waveform that `to_int16` refuses.
        MediaError: the file cannot be written.
    """
    samples = to_int16(waveform, of_file=of_file).astype("<i2")
    with OutputFile(path) as output, wave.open(output.file, "wb") as container:
        container.setnchannels(samples.shape[1])
        container.setsampwidth(2)
        container.setframerate(sample_rate)
        container.writeframes(samples.tobytes())

"""Waveforms as 16-bit samples, and .wav files made of them."""

from __future__ import annotations

import os
import wave
from contextlib import ExitStack
from types import TracebackType

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


class WavWriter:
    """A 16-bit PCM stereo .wav file that is written part by part, and appears only when it is complete.

    Use it as a context manager: any exception removes what was written.

    Args:
        path: the file.
        sample_rate: Hz.
        of_file: see `to_int16`.

    Raises:
        MediaError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int, *, of_file: bool = False) -> None:
        self._open = ExitStack()
        self._file = self._open.enter_context(OutputFile(path)).file
        self._of_file = of_file
        self._sample_rate = sample_rate
        self._container: wave.Wave_write | None = None

    def write(self, waveform: Array) -> None:
        """The next samples, (S, C) float in [-1, 1]; UsageError for a waveform that `to_int16` refuses."""
        samples = to_int16(waveform, of_file=self._of_file).astype("<i2")
        if self._container is None:
            self._container = self._open.enter_context(wave.open(self._file, "wb"))  # noqa: SIM115  # closed with the stack
            self._container.setnchannels(samples.shape[1])
            self._container.setsampwidth(2)
            self._container.setframerate(self._sample_rate)
        self._container.writeframes(samples.tobytes())

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


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
    with WavWriter(path, sample_rate, of_file=of_file) as writer:
        writer.write(waveform)

"""Sound files and the sound of videos as stereo waveforms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer

from ltx2rt.errors import MediaError
from ltx2rt.media.container import reading
from ltx2rt.types import Array

# (offset, full scale) of the integer sample formats; float formats are taken as they are.
_INTEGER_SCALES = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}

SEEK_MARGIN_S = 0.25  # Decoding begins earlier than asked: the first frame after a jump lacks its predecessor's half.


@dataclass(frozen=True)
class Sound:
    """A stereo waveform.

    Attributes:
        waveform: (S, 2) float32, full scale is 1.
        sample_rate: Hz.
    """

    waveform: Array
    sample_rate: int


def read_audio(path: str | os.PathLike[str], *, start_s: float = 0.0, duration_s: float | None = None) -> Sound:
    """The first sound track of a file as stereo at its own rate.

    One channel is duplicated; more than two are mixed down as FFmpeg does it.

    Args:
        path: a sound or video file.
        start_s: seconds; where to begin.
        duration_s: seconds; at most so much. None: to the end.

    Raises:
        MediaError: the file cannot be read, has no sound track, or none in the window.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (decode_audio_from_file), which knows
    neither mono nor surround and leaves the offset of unsigned samples in.
    """
    name = os.fspath(path)
    with reading(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{name} has no sound track; give a file with sound.")
        rate = int(container.streams.audio[0].codec_context.sample_rate)
        end_s = float("inf") if duration_s is None else start_s + duration_s
        blocks: list[Array] = []
        first_s = 0.0
        for begin_s, block in _blocks(container, start_s):
            if begin_s > end_s:
                break
            if begin_s + len(block) / rate < start_s:
                continue
            if not blocks:
                first_s = begin_s
            blocks.append(block)
    # Codecs decode whole frames; the window is cut from them by sample number.
    skipped = max(round((start_s - first_s) * rate), 0)
    count = None if duration_s is None else round(duration_s * rate)
    waveform = np.concatenate(blocks)[skipped:][:count] if blocks else np.empty((0, 2), np.float32)
    if len(waveform) == 0:
        raise MediaError(f"{name} has no sound from {start_s:g} s on; choose another start or file.")
    return Sound(np.ascontiguousarray(waveform), rate)


def _blocks(container: InputContainer, start_s: float) -> Iterator[tuple[float, Array]]:
    """(time in seconds, (S, 2) float32) of every decoded frame from about ``start_s``."""
    stream = container.streams.audio[0]
    if start_s > SEEK_MARGIN_S and stream.time_base:
        container.seek(int((start_s - SEEK_MARGIN_S) / stream.time_base), stream=stream)
    mixer: av.AudioResampler | None = None
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        begin_s = frame.pts * float(frame.time_base or 0)
        if frame.layout.nb_channels > 2:
            mixer = mixer or av.AudioResampler(format="fltp", layout="stereo", rate=frame.sample_rate)
            for mixed in mixer.resample(frame):
                yield begin_s, mixed.to_ndarray().T.astype(np.float32)
        else:
            yield begin_s, _stereo(frame)


def _stereo(frame: av.AudioFrame) -> Array:
    samples = frame.to_ndarray().astype(np.float32)
    offset, scale = _INTEGER_SCALES.get(frame.format.name.removesuffix("p"), (0.0, 1.0))
    if scale != 1.0:
        samples = (samples - np.float32(offset)) / np.float32(scale)
    channels = frame.layout.nb_channels
    separate = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    return np.repeat(separate, 2, axis=1) if channels == 1 else separate

"""Streams frames and stereo sound into an H.264 or HEVC file with AAC that appears only when it is complete.

Frames are SDR of BT.709 with 8 bits, or the HLG signal of BT.2020 with 10.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.video.frame import PictureType
from av.video.stream import VideoStream

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.colour import BT709, BT2020, LIMITED
from ltx2rt.media.colour import HLG as ARIB_STD_B67
from ltx2rt.media.frame_rate import exact_frame_rate
from ltx2rt.media.output_file import OutputFile
from ltx2rt.media.pcm import to_int16
from ltx2rt.media.yuv import yuv420_bt709, yuv420_bt2020
from ltx2rt.types import Array

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}
ENCODER_THREADS = 4  # x264's bits depend on the number of threads, so it does not follow the machine.
# A clip of at most so many frames has them in order. x265 learns by how much decoding precedes showing from the frame
# that follows these; without it, decoding times come from memory that nobody wrote, and the container refuses them.
_ALWAYS_IN_ORDER = 2
AAC_FRAME = 1024
# Frames that are encoded for the second time get so many times the bits of others. Beside other frames they become P
# where they would have been B, which costs up to 1.3 dB where there is grain (80x72, November 2026); this gives 1.2.
_BITS_OF_FILE = 1.4
_SOME_TICKS = 240_000  # per second, where none fits all
AAC_BITS_PER_SECOND = 192_000


class VideoSignal(NamedTuple):
    """What the numbers of pictures are, and how they are stored.

    Attributes:
        name: for messages.
        pixel_format: FFmpeg's name of the planes.
        primaries, transfer, matrix: codes of the colour tags (ISO/IEC 23091-2).
        planes: Y, Cb and Cr of a picture (H, W, 3) float32 in [0, 1]; second argument: it was read from a file, whose
            bytes are to come out again.
        codecs: those that have such a profile, the usual one first.
        preset: usual speed.
        crf: usual quality; None: that of the codec.
        finer: no part of a picture is quantised more coarsely than ``crf`` less this; None: the encoder decides.
    """

    name: str
    pixel_format: str
    primaries: int
    transfer: int
    matrix: int
    planes: Callable[[Array, bool], tuple[Array, Array, Array]]
    codecs: tuple[str, ...]
    preset: str
    crf: int | None = None
    finer: int | None = None

    def parameters(self, crf: int | None) -> dict[str, str]:
        """Parameters of the encoder for a quality; None: the usual one."""
        quality = self.crf if crf is None else crf
        return {} if self.finer is None or quality is None else {"qpmax": str(max(quality - self.finer, 1))}


SDR = VideoSignal(
    name="SDR",
    pixel_format="yuv420p",
    primaries=BT709,
    transfer=BT709,
    matrix=BT709,
    planes=lambda rgb, of_file: yuv420_bt709(rgb, rounded=of_file),
    codecs=("h264", "hevc"),
    preset="veryfast",
)
# The code of the matrix with non-constant luminance is that of the primaries. Left to itself x265 takes a quantiser of
# up to 20 where little changes, and a ramp errs by 3 of 1023; with one of 6 at most by 1 (November 2026).
HLG = VideoSignal(
    name="HLG",
    pixel_format="yuv420p10le",
    primaries=BT2020,
    transfer=ARIB_STD_B67,
    matrix=BT2020,
    planes=lambda rgb, of_file: yuv420_bt2020(rgb),
    codecs=("hevc",),
    preset="ultrafast",
    crf=12,
    finer=6,
)


class VideoCodec(NamedTuple):
    """One way to encode pictures.

    Attributes:
        encoder: FFmpeg's name.
        crf: default quality, 0 (best) to 51.
        tag: four letters that players look for in an .mp4; None leaves the usual one.
        options: of the encoder, besides quality and preset.
        best: what stands for crf 0.
    """

    encoder: str
    crf: int
    tag: str | None
    options: dict[str, str]
    best: dict[str, str]

    def quality(self, crf: int | None) -> dict[str, str]:
        """The encoder's options for a quality; None = the default."""
        return self.best if crf == 0 else {"crf": str(self.crf if crf is None else crf)}

    def options_with(self, parameters: dict[str, str]) -> dict[str, str]:
        """`options` with more of the encoder's own parameters."""
        key = f"{self.encoder.removeprefix('lib')}-params"
        known = [self.options[key]] if key in self.options else []
        words = [*known, *(f"{name}={value}" for name, value in parameters.items())]
        return {**self.options, key: ":".join(words)} if words else self.options


def _x264_options() -> dict[str, str]:
    """x264's rate control reads memory that nobody wrote where it uses AVX-512: the same pictures then give other bytes
    now and then, unless width and height are multiples of 64. With AVX2 they do not."""
    try:
        has_avx512 = " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_avx512 = False  # macOS runs on processors without it
    return {"x264-params": "asm=AVX2"} if has_avx512 else {}


CODECS = {
    # With crf 0 x264 writes High 4:4:4 Predictive, which QuickTime, browsers and televisions refuse. The finest
    # quantiser of the High profile errs by one level at most.
    "h264": VideoCodec("libx264", 19, None, _x264_options(), best={"qp": "1"}),
    # Frame threads and the pool are fixed for the same reason as ENCODER_THREADS.
    "hevc": VideoCodec("libx265", 22, "hvc1", {"x265-params": "frame-threads=1:pools=4:log-level=error"}, {"crf": "0"}),
}
PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


class _Unbuffered:
    """A file for FFmpeg, which reads it again by its name to put the index in front: nothing may wait in a buffer."""

    def __init__(self, file: BinaryIO) -> None:
        assert isinstance(file, BufferedWriter)
        self._file = file
        self.name = os.path.join(os.getcwd(), os.fspath(file.name))  # so that no part of it looks like a protocol

    def write(self, data: bytes) -> int:
        count = self._file.write(data)
        self._file.flush()
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class VideoWriter:
    """One clip: 4:2:0 H.264 or HEVC in limited range and, if asked for, AAC stereo; its index comes first.

    Frames are encoded as they arrive. Use it as a context manager: a clean exit completes the file, any exception
    (Ctrl-C included) removes what was written.

    Args:
        path: ends in .mp4, .m4v or .mov; its folder must exist.
        width, height: pixels, even.
        frame_rate: frames/s, see `exact_frame_rate`.
        codec: a key of `CODECS`; None = the usual one of the signal.
        crf: quality, 0 (best; still a profile that players have) to 51; None = the usual one of signal and codec.
        preset: speed, one of `PRESETS`; slower ones make smaller files. None = the usual one of the signal.
        sample_rate: Hz of the sound; None makes a silent file without an audio track.
        signal: what the frames are: `SDR`, or `HLG`, which HEVC alone has.
        of_file: frames whose pictures were read from a file: their values are rounded, so that they come out as they
            went in. Where such a range begins or ends, an intra frame stands: after a cut that is half hidden by a
            blend the encoder would spend fewer bits on them. They get more bits than others.

    Raises:
        UsageError: for arguments that cannot work.
        MediaError: the file cannot be written, or PyAV lacks the encoders.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io @ v1.2.0, except that the frame rate stays exact.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        frame_rate: Fraction | float,
        *,
        codec: str | None = None,
        crf: int | None = None,
        preset: str | None = None,
        sample_rate: int | None = None,
        signal: VideoSignal = SDR,
        of_file: Sequence[range] = (),
    ) -> None:
        if width <= 0 or height <= 0 or width % 2 or height % 2:
            raise UsageError(f"video size must be even and positive, got {width}x{height}; use multiples of 32.")
        codec = signal.codecs[0] if codec is None else codec
        preset = signal.preset if preset is None else preset
        if codec not in CODECS:
            raise UsageError(f"unknown video codec {codec!r}; use one of {', '.join(CODECS)}.")
        usual_crf = CODECS[codec].crf if signal.crf is None else signal.crf
        if codec not in signal.codecs:
            raise UsageError(f"{signal.name} cannot be {codec} video; use {', '.join(signal.codecs)}.")
        if crf is not None and not 0 <= crf <= 51:
            raise UsageError(f"crf must be 0 to 51, got {crf}; {usual_crf} is the default, smaller is better quality.")
        if preset not in PRESETS:
            raise UsageError(f"unknown encoder preset {preset!r}; use one of {', '.join(PRESETS)}.")
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if suffix not in CONTAINERS:
            raise UsageError(f"video output must end in {', '.join(CONTAINERS)}, got {os.fspath(path)!r}; use .mp4.")
        self.width, self.height = width, height
        self.frame_rate = exact_frame_rate(frame_rate)
        self._of_file = of_file
        self._signal = signal
        self.frames_written = 0
        self.samples_written = 0
        self._begun: Array | None = None  # samples of a frame of sound that is not full yet
        self._output = OutputFile(path)
        try:
            # The index comes first, so that a player can begin before it has the whole file.
            options = {"movflags": "+faststart", "movie_timescale": str(self._time_scale(sample_rate))}
            self._container = av.open(_Unbuffered(self._output.file), "w", format=CONTAINERS[suffix], options=options)
            self._video = self._add_video(CODECS[codec], crf, preset)
            self._audio = None if sample_rate is None else self._add_audio(sample_rate)
        except (av.error.FFmpegError, ValueError) as error:
            self._output.discard()
            raise MediaError(
                f"cannot set up the encoder for {self._output.path}: {error}; "
                f"reinstall the package 'av' with {CODECS[codec].encoder} and aac, or check the sample rate."
            ) from error
        except BaseException:
            self._output.discard()
            raise

    def write(self, frames: Array) -> None:
        """Encode the next frames.

        Args:
            frames: (F, H, W, 3) RGB of the signal, uint8, or float in [0, 1].

        Raises:
            UsageError: for another shape or dtype, or values that are not numbers.
            MediaError: encoding failed or the disk is full.
        """
        if frames.ndim != 4 or frames.shape[1:] != (self.height, self.width, 3):
            raise UsageError(
                f"frames must be (F, {self.height}, {self.width}, 3), got {frames.shape}; resize them first."
            )
        for frame in frames:
            rgb = _unit_float(frame)
            if np.isnan(rgb.min()):
                raise UsageError(
                    f"frame {self.frames_written} holds values that are not numbers; "
                    "the model that made it overflowed, try float32."
                )
            picture = av.VideoFrame(self.width, self.height, self._signal.pixel_format)
            is_of_file = self._is_of_file(self.frames_written)
            for plane, values in zip(picture.planes, self._signal.planes(rgb, is_of_file), strict=True):
                rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                rows[:, : plane.width] = values
                plane.update(rows.tobytes())
            picture.pts = self.frames_written
            picture.time_base = 1 / self.frame_rate
            picture.colorspace, picture.color_range = self._signal.matrix, LIMITED
            if self.frames_written and is_of_file != self._is_of_file(self.frames_written - 1):
                picture.pict_type = PictureType.I
            self._mux(self._video, picture)
            self.frames_written += 1

    def write_audio(self, waveform: Array, *, of_file: bool = False) -> None:
        """Encode the sound track or the next part of it, before, between or after frames: parts may have any length.

        Args:
            waveform: (S, 2) float in [-1, 1] at ``sample_rate``; it is quantised to 16 bits first.
            of_file: see `to_int16`.

        Raises:
            UsageError: the writer was made without ``sample_rate``, or the waveform is not stereo, is empty or is not
                finite.
            MediaError: encoding failed or the disk is full.
        """
        if self._audio is None:
            raise UsageError("this clip has no audio track; give VideoWriter a sample_rate.")
        if waveform.ndim != 2 or waveform.shape[1] != 2 or waveform.shape[0] == 0:
            raise UsageError(
                f"waveform must be (S, 2) with S > 0, got {waveform.shape}; AAC stereo needs two channels."
            )
        # Dividing by 32768 undoes the scaling that decoders use for 16-bit samples.
        planes = to_int16(waveform, of_file=of_file).T.astype(np.float32) / np.float32(32768.0)
        if self._begun is not None:
            planes = np.concatenate([self._begun, planes], axis=1)
        whole = planes.shape[1] // AAC_FRAME * AAC_FRAME
        self._write_samples(self._audio, planes[:, :whole])
        self._begun = planes[:, whole:].copy()

    def _write_samples(self, stream: AudioStream, planes: Array) -> None:
        """Encode (2, n) samples, of which only the last ones of the track may fill less than a frame."""
        for start in range(0, planes.shape[1], AAC_FRAME):
            block = np.ascontiguousarray(planes[:, start : start + AAC_FRAME])
            sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            sound.sample_rate = stream.codec_context.sample_rate
            sound.pts = self.samples_written
            sound.time_base = Fraction(1, sound.sample_rate)
            self._mux(stream, sound)
            self.samples_written += block.shape[1]

    def close(self) -> None:
        """Complete the file and give it its name.

        Raises:
            MediaError: nothing was written, encoding failed or the disk is full; nothing is left then.
        """
        try:
            if self.frames_written == 0:
                raise MediaError(f"cannot write {self._output.path}: no frame was produced; check the request.")
            if self._audio is not None and self._begun is not None:
                self._write_samples(self._audio, self._begun)
            self._mux_last_frames()
            if self._audio is not None:
                self._mux(self._audio, None)
            self._guarded(self._container.close)
        except BaseException:
            self.abort()
            raise
        self._output.commit()

    def abort(self) -> None:
        """Drop the clip: nothing is left on the disk."""
        self._output.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _is_of_file(self, frame: int) -> bool:
        return any(frame in part for part in self._of_file)

    def _time_scale(self, sample_rate: int | None) -> int:
        """Ticks per second in which the file states its length: both tracks are a whole number of them."""
        exact = math.lcm(self.frame_rate.numerator, sample_rate or 1)
        return exact if exact < 2**31 else _SOME_TICKS

    def _zones(self, crf: int | None) -> dict[str, str]:
        """Frames that get more bits, as x264 and x265 write them; at crf 0 there are none more to get."""
        if crf == 0 or not self._of_file:
            return {}
        return {"zones": "/".join(f"{part.start},{part.stop - 1},b={_BITS_OF_FILE}" for part in self._of_file)}

    def _add_video(self, codec: VideoCodec, crf: int | None, preset: str) -> VideoStream:
        stream = cast(VideoStream, self._container.add_stream(codec.encoder, rate=self.frame_rate))
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = self._signal.pixel_format
        stream.time_base = 1 / self.frame_rate
        context = stream.codec_context
        quality = codec.quality(self._signal.crf if crf is None else crf)
        parameters = {**self._zones(crf), **self._signal.parameters(crf)}
        context.options = {"preset": preset, **quality, **codec.options_with(parameters)}
        if codec.tag is not None:
            context.codec_tag = codec.tag
        context.thread_count = ENCODER_THREADS
        context.color_primaries, context.color_trc = self._signal.primaries, self._signal.transfer
        context.colorspace, context.color_range = self._signal.matrix, LIMITED
        context.open()
        return stream

    def _add_audio(self, sample_rate: int) -> AudioStream:
        stream = self._container.add_stream("aac", rate=sample_rate, layout="stereo")
        stream.bit_rate = AAC_BITS_PER_SECOND
        stream.codec_context.open()
        return stream

    def _mux(self, stream: VideoStream | AudioStream, frame: Any) -> None:
        self._guarded(lambda: self._container.mux(stream.encode(frame)))

    def _mux_last_frames(self) -> None:
        def mux() -> None:
            packets = self._video.encode(None)
            if self.frames_written <= _ALWAYS_IN_ORDER:
                for packet in packets:
                    packet.dts = packet.pts
            self._container.mux(packets)

        self._guarded(mux)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            self._output.discard()
            raise self._output.failure(error) from error
        except av.error.FFmpegError as error:
            self._output.discard()
            raise MediaError(
                f"cannot encode {self._output.path}: {error.strerror}; try another size, rate or crf."
            ) from error


def _unit_float(frame: Array) -> Array:
    """Bytes divided by 255; float as it is, in single precision."""
    if frame.dtype == np.uint8:
        result: Array = frame.astype(np.float32) / np.float32(255.0)
        return result
    if frame.dtype.kind != "f":
        raise UsageError(f"frames must be uint8 or float, got {frame.dtype}; convert them first.")
    return frame.astype(np.float32, copy=False)

"""Writes clips as cameras, phones and editors make them: tags, stamps, edit lists, display matrices, several tracks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

# (primaries, transfer, matrix)
BT709, BT601, UNTAGGED = (1, 1, 1), (6, 6, 6), (2, 2, 2)
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}

QUARTERS = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 50, 200),
    "white": (235, 235, 235),
}
GREY = (128, 128, 128)


def card(width: int = 96, height: int = 64) -> np.ndarray:
    """Red, green, blue and white quarters around a grey middle, (height, width, 3) uint8."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    for (rows, columns), colour in zip(
        (
            (slice(0, h), slice(0, w)),
            (slice(0, h), slice(w, None)),
            (slice(h, None), slice(0, w)),
            (slice(h, None),) * 2,
        ),
        QUARTERS.values(),
        strict=True,
    ):
        picture[rows, columns if columns.start != h else slice(w, None)] = colour
    picture[h - h // 4 : h + h // 4, w - w // 4 : w + w // 4] = GREY
    return picture


def spots(picture: np.ndarray) -> list[tuple[int, int, int]]:
    """The colours of a card, read off: quarters, then the middle."""
    height, width = picture.shape[:2]
    places = ((0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8), (0.5, 0.5))
    colours = [picture[int(height * y), int(width * x)] for y, x in places]
    return [(int(red), int(green), int(blue)) for red, green, blue in colours]


def greys(count: int, width: int = 64, height: int = 32, step: int = 8) -> Iterator[np.ndarray]:
    """Pictures of one grey each: picture i is of ``16 + step * i``."""
    for index in range(count):
        yield np.full((height, width, 3), 16 + step * index, np.uint8)


def places(pictures: Iterable[np.ndarray], step: int = 8) -> list[int]:
    """Which of `greys` each picture is."""
    return [round((float(picture.mean()) - 16) / step) for picture in pictures]


def planes_420(signal: np.ndarray, matrix: int = 1, bits: int = 8, full: bool = False) -> list[np.ndarray]:
    """4:2:0 planes of an (H, W, 3) signal of 0 to 1."""
    kr, kb = KR_KB[matrix]
    y = signal @ np.array([kr, 1 - kr - kb, kb])
    cb, cr = (signal[..., 2] - y) / (2 * (1 - kb)), (signal[..., 0] - y) / (2 * (1 - kr))
    height, width = y.shape
    half = [c.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for c in (cb, cr)]
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    luma = y * top if full else (16 + 219 * y) * unit
    chroma = [128 * unit + c * (top if full else 224 * unit) for c in half]
    values = [np.clip(np.rint(v), 0, top) for v in (luma, *chroma)]
    return [v.astype(np.uint8 if bits == 8 else "<u2") for v in values]


def frame_of(planes: list[np.ndarray], pix_fmt: str) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(plane.height, -1)
        rows[:, : raw.shape[1]] = raw
        plane.update(rows.tobytes())
    return frame


def write_clip(
    path: Path,
    pictures: Iterable[np.ndarray],
    rate: float | Fraction = 24,
    *,
    times: Sequence[float] | None = None,
    begins: float = 0.0,
    sounds: Sequence[np.ndarray] = (),
    default_sound: int = 0,
    sound_begins: float = 0.0,
    sound_codec: str = "aac",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    tags: tuple[int, int, int] = BT709,
    matrix: int | None = None,
    full: bool = False,
    aspect: Fraction | None = None,
    signals: bool = False,
    container_format: str | None = None,
    gop: int = 12,
) -> Path:
    """A clip of pictures (H, W, 3), uint8 R'G'B' or, with ``signals``, what is stored as it is, 0 to 1.

    Args:
        times: seconds at which pictures are shown; None: evenly.
        begins, sound_begins: seconds at which the tracks begin.
        sounds: tracks of (S, channels) float at 48 kHz; ``default_sound`` is marked as the default one.
        tags: written into the stream.
        matrix: used in place of that of ``tags``.
    """
    rate = Fraction(rate).limit_denominator(1001)
    ticks = Fraction(1, 90000) if times is not None or begins else 1 / rate
    bits = 10 if "10" in pix_fmt else 8
    used = matrix if matrix is not None else (1 if tags[2] == 2 else tags[2])
    with av.open(str(path), "w", format=container_format) as output:
        video = output.add_stream(codec, rate=rate)
        context = video.codec_context
        video.time_base = context.time_base = ticks
        context.pix_fmt, context.gop_size = pix_fmt, gop
        context.options = {"preset": "veryfast", "crf": "4", **(options or {})} if "26" in codec else options or {}
        context.color_primaries, context.color_trc, context.colorspace = tags
        context.color_range = 2 if full else (0 if tags == UNTAGGED else 1)
        if aspect:
            context.sample_aspect_ratio = aspect
        tracks = []
        for number, sound in enumerate(sounds):
            layout = {1: "mono", 2: "stereo"}[sound.shape[1]]
            track = output.add_stream(sound_codec, rate=48000, layout=layout)
            if len(sounds) > 1:
                track.disposition = Disposition.default if number == default_sound else Disposition(0)
            tracks.append(track)
        waiting: list[Any] = []
        for index, picture in enumerate(pictures):
            signal = picture if signals else picture / 255.0
            if pix_fmt.startswith("yuv"):
                frame = frame_of(planes_420(signal, used, bits, full), pix_fmt)
            else:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            if index == 0:
                context.width, context.height = frame.width, frame.height
            shown = begins + (times[index] if times is not None else float(index / rate))
            frame.pts, frame.time_base = round(shown / ticks), ticks
            waiting += video.encode(frame)
        waiting += video.encode(None)
        for track, sound in zip(tracks, sounds, strict=True):
            waiting += _sound_packets(track, sound, sound_begins)
        for packet in sorted(waiting, key=lambda p: float((p.dts or 0) * p.time_base)):
            output.mux(packet)
    return path


def _sound_packets(stream: Any, sound: np.ndarray, begins: float, rate: int = 48000) -> list[Any]:
    planes = np.ascontiguousarray(sound.T.astype(np.float32))
    size, layout = stream.codec_context.frame_size or 1024, stream.codec_context.layout.name
    convert = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
    packets: list[Any] = []
    for start in range(0, planes.shape[1], size):
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, start : start + size]), "fltp", layout)
        block.sample_rate, block.time_base = rate, Fraction(1, rate)
        block.pts = start + round(begins * rate)
        for ready in convert.resample(block):
            packets += stream.encode(ready)
    return packets + stream.encode(None)


def write_sound(path: Path, sound: np.ndarray, codec: str, rate: int = 48000) -> Path:
    """A file of (S, channels) float sound alone."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo"}[sound.shape[1]])
        for packet in _sound_packets(stream, sound, 0.0, rate):
            output.mux(packet)
    return path


def click(seconds: float, at: float, rate: int = 48000) -> np.ndarray:
    """Silence with a click of 10 ms, (S, 2)."""
    wave = np.zeros((round(seconds * rate), 2))
    wave[round(at * rate) : round((at + 0.01) * rate)] = 0.9
    return wave


def tone(seconds: float, rate: int = 48000) -> np.ndarray:
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], 2, 1)


def click_time(sound: np.ndarray, rate: int) -> float:
    """Seconds at which the click of (channels, samples) begins."""
    loud = np.abs(sound).max(axis=0)
    return float(np.argmax(loud > 0.5 * loud.max())) / rate


# Boxes of MP4 files


def boxes(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of content, end) of every box at one level."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        yield bytes(kind), start + 8, start + size
        start += size


def find_box(data: bytearray, *path: bytes, track: int = 0) -> tuple[int, int] | None:
    """(start of content, end) of a box; ``track`` counts the trak boxes."""
    start, end = 0, len(data)
    for kind in path:
        found = [(s, e) for name, s, e in boxes(data, start, end) if name == kind]
        index = track if kind == b"trak" else 0
        if index >= len(found):
            return None
        start, end = found[index]
    return start, end


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the 2x2 part of the display matrix of the first track."""
    data = bytearray(path.read_bytes())
    found = find_box(data, b"moov", b"trak", b"tkhd")
    assert found is not None
    at = found[0] + (52 if data[found[0]] == 1 else 40)
    fixed = [value * 65536 for value in (a, b)] + [0] + [value * 65536 for value in (c, d)] + [0]
    data[at : at + 36] = struct.pack(">9i", *fixed, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def trim_by_edit_list(path: Path, skipped: int, shown: int, rate: int = 24) -> Path:
    """Hide the first ``skipped`` pictures and all after ``shown`` more, in the edit lists of all tracks."""
    data = bytearray(path.read_bytes())
    header = find_box(data, b"moov", b"mvhd")
    assert header is not None
    (movie_scale,) = struct.unpack(">I", data[header[0] + 12 : header[0] + 16])
    length = int(shown / rate * movie_scale)
    track = 0
    while (media := find_box(data, b"moov", b"trak", b"mdia", b"mdhd", track=track)) is not None:
        (scale,) = struct.unpack(">I", data[media[0] + 12 : media[0] + 16])
        edits = find_box(data, b"moov", b"trak", b"edts", b"elst", track=track)
        assert edits is not None
        (old,) = struct.unpack(">i", data[edits[0] + 12 : edits[0] + 16])
        data[edits[0] + 8 : edits[0] + 16] = struct.pack(">Ii", length, old + round(skipped / rate * scale))
        track += 1
    path.write_bytes(data)
    return path


# HDR


def linear_bt2020(picture: np.ndarray, white: float) -> np.ndarray:
    """BT.2020 light of an sRGB picture whose white lies at ``white``."""
    encoded = picture / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    return np.clip(linear @ to_2020.T, 0, 1) * white


def hlg_signal(picture: np.ndarray) -> np.ndarray:
    """White at the signal 0.75, reference white of ITU-R BT.2408."""
    light = linear_bt2020(picture, 0.265)
    bright = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), bright)


def pq_signal(picture: np.ndarray, white_nits: float = 203) -> np.ndarray:
    """White at 203 nits, reference white of ITU-R BT.2408."""
    power = linear_bt2020(picture, white_nits / 10000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    return ((c1 + c2 * power) / (1 + c3 * power)) ** (2523 / 4096 * 128)


def write_hdr(path: Path, signal: np.ndarray, transfer: int, frames: int = 5, primaries: int = 9) -> Path:
    params = f"log-level=error:colorprim={primaries}:transfer={transfer}:colormatrix=9:range=limited"
    return write_clip(
        path,
        [signal] * frames,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": params},
        tags=(primaries, transfer, 9),
        signals=True,
    )


def dolby_vision_unit() -> bytes:
    """The unit behind a picture of HEVC that says how Dolby Vision shows it: here as it is."""

    def number(n: int) -> str:  # Exp-Golomb
        digits = f"{n + 1:b}"
        return "0" * (len(digits) - 1) + digits

    bits = f"{2:06b}{0x12:011b}{0:08b}1"  # type, format, profile and level; what follows is there
    bits += f"0{0:02b}{number(23)}{1:02b}1"  # coefficients in fixed point, and their denominator; full range
    bits += f"{number(2)}{number(2)}{number(4)}000001"  # depths of 10, 10 and 12 bits; no residual
    bits += f"00{number(0) * 3}"  # no data of a display, of no earlier picture; numbers
    bits += f"{number(0)}{0:010b}{1023:010b}" * 3  # from where to where each curve reaches
    bits += number(0) * 2  # one partition
    bits += f"{number(0) * 2}0{f'1{0:023b}' * 2}" * 3  # lines
    bits += "0" * (-len(bits) % 8)
    plain = b"\x19" + int(bits, 2).to_bytes(len(bits) // 8, "big") + bytes(4) + b"\x80"
    unit = bytearray()
    for byte in plain:  # three bytes that begin a unit do not stand inside of one
        if unit[-2:] == b"\0\0" and byte <= 3:
            unit.append(3)
        unit.append(byte)
    return b"\0\0\0\1" + bytes([62 << 1, 1]) + unit

"""What reading a frame costs, plain and through each filter, beside FFmpeg's decoding to RGB alone.

    python benchmarks/clip_reading.py [--size 1920x1080] [--frames 48] [--rounds 5]

Makes one clip of each kind, reads them turn by turn, and prints the milliseconds per frame of `ClipReader`, its
ratio to plain decoding of the same file (medians over the rounds, file opening included in both), and the memory that
reading took in a process of its own beside what `ClipReader.reading_bytes` counts for the plan.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from ltx2rt.media.clip_reader import DECODER_THREADS, ClipReader

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "HDR (HLG, hevc 10 bits)": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=error:colorprim=9:transfer=18:colormatrix=9"},
        "tags": (9, 18, 9),
    },
    "wide gamut (Display P3)": {"tags": (12, 13, 1)},
    "interlaced": {"options": {"x264-params": "tff=1"}},
    "pixels 4:3": {"aspect": Fraction(4, 3)},
    "turned by 90 degrees": {"rotation": 90},
    "mirrored": {"rotation": 0, "mirrored": True},
    "variable rate": {"variable": True},
}


def make_clip(
    path: Path,
    size: tuple[int, int],
    frames: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    tags: tuple[int, int, int] = (1, 1, 1),
    aspect: Fraction | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    variable: bool = False,
) -> None:
    """A clip of drifting noise on a gradient."""
    width, height = size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 80, (height, width + frames * 2, 3), np.uint8)
    noise += np.linspace(0, 150, height, dtype=np.uint8)[:, None, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.options = {"preset": "veryfast", **(options or {})}
        context.color_primaries, context.color_trc, context.colorspace = tags
        context.color_range = 1
        stream.time_base = context.time_base = Fraction(1, 24000)
        if aspect:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for index in range(frames):
            pixels = np.ascontiguousarray(noise[:, index * 2 : index * 2 + width])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts = index * 1000 + (index % 3) * 300 * variable
            frame.time_base = Fraction(1, 24000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def plain_frames(path: Path) -> Iterator[Any]:
    """FFmpeg's decoding, with as many threads as the reader takes, and its conversion to RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", DECODER_THREADS
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")


def seconds(frames: Iterator[Any]) -> float:
    began = time.perf_counter()
    for _ in frames:
        pass
    return time.perf_counter() - began


def measure_memory(path: str) -> None:
    """Print the growth of the process's peak while a clip is read, and what is counted for it."""
    process = psutil.Process()
    list(ClipReader(path).frames(1))
    before = process.memory_info().rss
    reader, peak = ClipReader(path), 0
    for _ in reader.frames():
        peak = max(peak, process.memory_info().rss)
    print(f"{(peak - before) / 1e6:.1f} {reader.reading_bytes / 1e6:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1920x1080", help="pixels, default 1920x1080")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of)
        return
    width, height = (int(side) for side in arguments.size.split("x"))
    print(f"{'clip':26} {'ms/frame':>9} {'plain':>7} {'ratio':>6} {'MB':>7} {'counted':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, form) in enumerate(KINDS.items()):
            path = Path(folder) / f"{number}.mp4"
            make_clip(path, (width, height), arguments.frames, **form)
            read, plain = [], []
            for _ in range(arguments.rounds):
                read.append(seconds(ClipReader(path).frames()) / arguments.frames)
                plain.append(seconds(plain_frames(path)) / arguments.frames)
            ratio = statistics.median(a / b for a, b in zip(read, plain, strict=True))
            command = [sys.executable, __file__, "--memory-of", str(path)]
            memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            print(
                f"{kind:26} {1e3 * statistics.median(read):9.2f} {1e3 * statistics.median(plain):7.2f} {ratio:6.2f} "
                f"{memory[0]:>7} {memory[1]:>8}"
            )


if __name__ == "__main__":
    main()

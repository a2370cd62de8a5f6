"""Opens what is converted to high dynamic range: a usual clip, or a folder of EXR frames, as ACEScct codes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.inputs import FrameStream, HdrInput, Media
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.exr import ExrFolder, is_exr
from ltx2rt.media.grid_fit import GridFit
from ltx2rt.media.hdr import HDR_SPACES, acescct_of_light, acescct_of_srgb
from ltx2rt.media.primaries import REC709
from ltx2rt.spelling import spelled
from ltx2rt.types import FLOAT32_BYTES, Array

_CLIPS = (".mp4", ".mov")
_GAMMA, _LINEAR = "srgb_gamma", "srgb"
# Frames as float32 besides those that the encoder counts. It does not compute while colours are converted.
_CONVERTED_FRAMES = 1
_FEWEST_SEAM_FRAMES = 2


@dataclass(frozen=True)
class _Frames:
    """Frames of an input.

    Attributes:
        count, height, width, frame_rate: what they are.
        read: called, it begins with the first one: (height, width, 3) ACEScct codes.
        reading_bytes: what reading takes, besides the conversion.
        words: what a user should know.
    """

    count: int
    height: int
    width: int
    frame_rate: Fraction
    read: Callable[[], Generator[Array, None, None]]
    reading_bytes: int
    words: tuple[str, ...] = ()


def open_hdr_input(settings: Settings, files: WeightSet, seams: Callable[[int], tuple[int, ...]]) -> Media:
    """The frames to convert, at a size and a number that the model takes.

    Args:
        settings: say where they are, and what their colours are.
        files: whose video VAE sets the grid.
        seams: called with their number, gives the frames that get a key frame.

    Raises:
        UsageError: no input, one of another kind than its colour space or a frame rate says, or of another length.
        MediaError: it cannot be read.
    """
    if settings.input is None:
        raise UsageError(
            f"HDR IC-LoRA requires --input; give {spelled('input')}, an MP4 or MOV file or a folder of EXR frames."
        )
    path, vae = settings.input, files.config(VIDEO_VAE)
    has_frames = path.is_dir() or is_exr(path)
    if not has_frames and path.suffix.lower() not in _CLIPS:
        raise UsageError(
            f"{spelled('input')}: expected an MP4/MOV file or a directory of *.exr frames; got {path}; convert it."
        )
    own = _exr_frames(path, settings) if has_frames else _clip_frames(path, settings)
    _require_length(own.count, vae)
    fit = GridFit.of(own.height, own.width, vae.spatial_factor, "pad", str(path), least=vae.least_side)
    every = 2 if settings.high_quality else 1

    def read() -> Generator[Array, None, None]:
        count = 0
        with closing(own.read()) as frames:
            for codes in frames:
                count += 1
                shown = fit.to_grid(codes * np.float32(2) - np.float32(1))
                # Between the first and the last one each is shown twice.
                for _ in range(1 if count == own.count else every):
                    yield shown
                if count == own.count:
                    return
        raise MediaError(f"{path} holds {count} frames, {own.count} were found before; was it changed on the way?")

    shape = (every * (own.count - 1) + 1, fit.grid_height, fit.grid_width, 3)
    places = seams(own.count) if settings.seam_keyframes and own.count >= _FEWEST_SEAM_FRAMES else ()
    pixels = fit.grid_height * fit.grid_width
    hdr = HdrInput(
        FrameStream(shape, read),
        own.height,
        own.width,
        every,
        tuple(every * place for place in places),
        own.reading_bytes + _CONVERTED_FRAMES * pixels * 3 * FLOAT32_BYTES,
        tuple(word for word in (*own.words, fit.words and f"{path}: {fit.words}") if word),
    )
    return Media(hdr=hdr, num_frames=shape[0], frame_rate=own.frame_rate)


def _exr_frames(path: Path, settings: Settings) -> _Frames:
    folder = ExrFolder.open(path)
    name, asked = settings.input_colorspace, spelled("input_colorspace")
    if name == _GAMMA:
        stated = "" if folder.stated is None else f", and these state {folder.stated.tag}"
        raise UsageError(
            f"{asked} {_GAMMA} expects an MP4/MOV file; got EXR frames at {path}; give acescg, acescct or {_LINEAR}, "
            f"what they are{stated}."
        )
    if settings.frame_rate is None:
        raise UsageError(
            f"an EXR-frame folder requires {spelled('frame_rate')}: the files do not say how fast they are shown."
        )
    space = HDR_SPACES["srgb_linear" if name == _LINEAR else name]
    words: tuple[str, ...] = ()
    if folder.stated is not None and folder.stated != space:
        words = (f"{folder.frames[0]} states the colour space {folder.stated.tag}; it is read as {space.tag}",)

    def read() -> Generator[Array, None, None]:
        for frame in folder.read():
            yield space.to_acescct(frame)

    return _Frames(
        len(folder.frames), folder.height, folder.width, settings.frame_rate, read, folder.reading_bytes, words
    )


def _clip_frames(path: Path, settings: Settings) -> _Frames:
    name, asked = settings.input_colorspace, spelled("input_colorspace")
    if name not in (_GAMMA, _LINEAR):
        raise UsageError(f"{asked} {name} expects a directory of *.exr frames; got {path}; give {_GAMMA} or {_LINEAR}.")
    if settings.frame_rate is not None:
        raise UsageError(
            f"{spelled('frame_rate')} is only valid for an EXR-frame folder; a clip keeps its own, leave it out."
        )
    reader = ClipReader(path, source_color=settings.source_color)

    def read() -> Generator[Array, None, None]:
        for picture in reader.frames():
            signal = picture.astype(np.float32) / np.float32(255)
            yield acescct_of_srgb(signal) if name == _GAMMA else acescct_of_light(signal, REC709)

    return _Frames(
        reader.num_frames,
        reader.height,
        reader.width,
        reader.frame_rate,
        read,
        reader.reading_bytes,
        tuple(reader.notes),
    )


def _require_length(count: int, vae: VideoVaeConfig) -> None:
    step = vae.temporal_factor
    if count % step != 1 % step:
        raise UsageError(
            f"Video frame count must satisfy {step}k+1 (e.g. 97, 193). Got {count}; use a video with "
            f"{(count - 1) // step * step + 1} frames."
        )

"""Photographs as conditioning frames: decode, orient, convert to sRGB, compress as video would, fit."""

from __future__ import annotations

import io
import logging
import os
import warnings
from typing import Any

import av
import av.error
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.fit import fitted
from ltx2rt.media.heif import HeifError, is_heif, read_heif
from ltx2rt.media.pillow_pictures import to_srgb
from ltx2rt.media.pixel_range import to_signed_range
from ltx2rt.types import Array

log = logging.getLogger(__name__)


_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")

# Per stored pixel: the picture in Pillow's memory before and after a conversion, as an array and handed on; in floating
# point for scaling; and for the round trip through H.264 what the encoder and the decoder hold.
_READ_BYTES, _FLOAT_BYTES, _CODED_BYTES = 16, 12, 8

ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray[Any, np.dtype[Any]]


def load_conditioning_image(
    source: ImageSource, height: int, width: int, *, crf: int, fit: str = "crop", antialias: bool = False
) -> Array:
    """A photograph as the model wants a frame.

    Args:
        source: PNG, JPEG or another format Pillow reads; a PIL image; an array (H, W, 3), uint8 or float in [0, 1].
        height, width: pixels of the frame.
        crf: strength of the H.264 round trip, see `compress_as_video`; 0 skips it.
        fit, antialias: how the image is brought to the size, see `fitted`; the official code crops, without antialias.

    Returns:
        (height, width, 3) float32 in [-1, 1].

    Raises:
        UsageError: crf outside 0..51, an empty size, or other proportions that are not to be fitted.
        MediaError: the file is missing, is no image, is damaged or is too large.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (load_image_and_preprocess).
    """
    image, _ = open_image(source)
    return to_signed_range(fitted(compress_as_video(image, crf), height, width, fit, antialias=antialias))


def read_image(source: ImageSource) -> Array:
    """The pixels of an image, upright and in sRGB; what had to be guessed or changed is logged.

    Args:
        source: as `load_conditioning_image`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        MediaError: the file is missing, is no image, is damaged or is too large.
        UsageError: an array that is no picture.
    """
    image, notes = open_image(source)
    for note in notes:
        log.warning("%s", note)
    return image


def open_image(source: ImageSource) -> tuple[Array, list[str]]:
    """As `read_image`, with what is to be said in place of logging it."""
    notes: list[str] = []
    if isinstance(source, np.ndarray):
        return picture_bytes(source, "an image"), notes
    name = image_name(source)
    try:
        # Pillow's warnings are for programmers, and it refuses itself what is much too large.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _pixels(source, name, notes), notes
            if os.path.isdir(source):
                raise MediaError(f"image {name} cannot be read: it is a folder; give a picture in it.")
            with Image.open(source) as stored:
                stored.load()
                count = getattr(stored, "n_frames", 1)
                if count > 1 and stored.format in _ANIMATED:
                    notes.append(f"{name} holds {count} pictures; the first one is taken")
                return _pixels(stored, name, notes), notes
    except FileNotFoundError as error:
        raise MediaError(f"image {name} does not exist; check the path.") from error
    except UnidentifiedImageError as error:
        assert not isinstance(source, Image.Image)  # those are opened
        if _is_heif(source):
            return _heif_pixels(source, name, notes), notes
        raise MediaError(f"{name} {_what_it_is(source)}") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"image {name} is too large: {error}; scale it down first.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # What Pillow's decoders raise for damaged data.
        raise MediaError(f"image {name} cannot be read: {error}; the file may be damaged, save it again.") from error


def reading_bytes(rows: int, columns: int, *, compressed: bool, reduced: bool) -> int:
    """What `load_conditioning_image` takes for an image of this size.

    Args:
        rows, columns: of the image.
        compressed: it goes through H.264.
        reduced: it is much larger than needed, and antialiased: then it is scaled as bytes.
    """
    return rows * columns * (_READ_BYTES + _FLOAT_BYTES * (not reduced) + _CODED_BYTES * compressed)


def image_name(source: ImageSource) -> str:
    """What an image is called in messages."""
    if isinstance(source, np.ndarray):
        return "an image"
    return "a PIL image" if isinstance(source, Image.Image) else os.fspath(source)


def _pixels(stored: Image.Image, name: str, notes: list[str]) -> Array:
    return np.array(to_srgb(ImageOps.exif_transpose(stored), stored.format, name, notes), dtype=np.uint8)


def _is_heif(path: str | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        return is_heif(file.read(12))


def _heif_pixels(path: str | os.PathLike[str], name: str, notes: list[str]) -> Array:
    try:
        return np.array(to_srgb(read_heif(path, notes), "HEIF", name, notes), dtype=np.uint8)
    except (HeifError, OSError) as error:
        raise MediaError(
            f"the HEIC photograph {name} cannot be read: {error}; convert it: sips -s format jpeg {name} --out "
            f"{os.path.splitext(name)[0]}.jpg (macOS), or save it as JPEG or PNG."
        ) from error


def _what_it_is(path: str | os.PathLike[str]) -> str:
    """What is wrong with a file that Pillow does not know."""
    with open(path, "rb") as file:
        start = file.read(32)
    is_riff = start[:4] == b"RIFF"
    if start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3" or (is_riff and start[8:12] == b"AVI "):
        return "is a video, not an image; give one of its pictures as PNG or JPEG."
    if is_riff and start[8:12] == b"WAVE":
        return "is sound, not an image; use PNG or JPEG."
    return "is not an image that can be read; use PNG or JPEG."


def picture_bytes(pixels: Array, what: str) -> Array:
    """uint8 values of an array (..., H, W, 3): uint8 as it is, floating point in [0, 1] scaled and rounded.

    Raises:
        UsageError: another shape, dtype or range.
    """
    if pixels.ndim < 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise UsageError(f"{what} as an array must be (..., height, width, 3), got {pixels.shape}.")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(f"{what} as an array must be uint8 or floating point in [0, 1], got {pixels.dtype}.")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UsageError(f"{what} as floating point must lie in [0, 1], got {pixels.min():g} to {pixels.max():g}.")
    result: Array = np.rint(pixels * 255).astype(np.uint8)
    return result


def compress_as_video(image: Array, crf: int) -> Array:
    """What is left of an image after one H.264 frame: the models saw compressed frames in training.

    Args:
        image: (H, W, 3) uint8 sRGB.
        crf: x264 quality 1 to 51; 0 returns the image as it is. Images with a side below 2 are returned too.

    Returns:
        uint8, cut to even sides when compressed.

    Raises:
        UsageError: crf outside 0..51.
        MediaError: PyAV lacks libx264 or refuses the frame.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/media_io/decode.py @ v1.2.0 (preprocess).
    """
    if not 0 <= crf <= 51:
        raise UsageError(f"image crf must be 0 to 51, got {crf}; 0 keeps the image as it is.")
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    if crf == 0 or height == 0 or width == 0:
        return image
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            stream: VideoStream = container.add_stream("libx264", rate=1)
            stream.codec_context.options = {"crf": str(crf), "preset": "veryfast"}
            stream.codec_context.thread_count = 1
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuv420p"
            pixels = np.ascontiguousarray(image[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")))
            container.mux(stream.encode(None))
        buffer.seek(0)
        with av.open(buffer) as container:
            decoded: Array = next(container.decode(video=0)).to_ndarray(format="rgb24")
            return decoded
    except av.error.FFmpegError as error:
        raise MediaError(
            f"cannot compress a {width}x{height} image with libx264: {error.strerror}; use crf 0."
        ) from error

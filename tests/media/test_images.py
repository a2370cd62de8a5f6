"""Photographs: orientation, colour profiles, codec round trip, torch's bilinear resizing, unreadable files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.images import compress_as_video, load_conditioning_image, read_image
from ltx2rt.media.resize import bilinear, resize_to_cover, resize_to_fit


def picture(height: int = 61, width: int = 91) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8)


def plain_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """One output pixel at a time, in float64."""
    rows, columns = image.shape[:2]
    out = np.empty((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            y, x = (max((n + 0.5) * s / t - 0.5, 0.0) for n, s, t in ((i, rows, height), (j, columns, width)))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            above = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            below = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[i, j] = above * (1 - (y - y0)) + below * (y - y0)
    return out


@pytest.mark.parametrize(("height", "width"), [(5, 7), (19, 4), (11, 13), (1, 1), (30, 40)])
def test_bilinear_is_the_plain_formula(height: int, width: int) -> None:
    image = np.random.default_rng(1).random((11, 13, 3)) * 255
    np.testing.assert_allclose(bilinear(image, height, width), plain_bilinear(image, height, width), atol=1e-3)


def test_cover_scales_up_and_cuts_the_centre() -> None:
    image = np.random.default_rng(2).random((10, 31, 3)).astype(np.float32)
    # Height decides: 2x to 20 x 62; 42 columns fall away, 21 on the left.
    np.testing.assert_array_equal(resize_to_cover(image, 20, 20), bilinear(image, 20, 62)[:, 21:41])
    # 7 of 31 columns over 5 rows: an odd surplus leaves the smaller half on the left.
    np.testing.assert_array_equal(resize_to_cover(image, 10, 28), image[:, 1:29])


def test_cover_works_on_stacks_of_frames() -> None:
    frames = np.random.default_rng(3).random((2, 9, 7, 3)).astype(np.float32)
    together = resize_to_cover(frames, 6, 6)
    for frame, alone in zip(together, frames, strict=True):
        np.testing.assert_array_equal(frame, resize_to_cover(alone, 6, 6))


def test_fit_never_enlarges_and_mirrors_the_rest() -> None:
    image = np.random.default_rng(4).random((6, 8, 3)).astype(np.float32)
    padded = resize_to_fit(image, 8, 10)
    np.testing.assert_array_equal(padded, np.pad(image, [(0, 2), (0, 2), (0, 0)], mode="reflect"))
    # Margins as large as the image cannot be mirrored.
    np.testing.assert_array_equal(resize_to_fit(image, 12, 8), np.pad(image, [(0, 6), (0, 0), (0, 0)], mode="edge"))
    shrunk = resize_to_fit(image, 4, 4)
    np.testing.assert_array_equal(shrunk[:3], bilinear(image, 3, 4))
    np.testing.assert_array_equal(shrunk[3], shrunk[1])


def test_empty_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot resize \(4, 4\) to \(0, 5\)"):
        bilinear(np.zeros((4, 4, 3)), 0, 5)


def test_orientation_of_the_camera_is_undone(tmp_path: Path) -> None:
    upright = picture()
    stored = {1: upright, 3: np.rot90(upright, 2), 6: np.rot90(upright, 1), 8: np.rot90(upright, -1)}
    stored[2] = upright[:, ::-1]
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[274] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
        np.testing.assert_array_equal(read_image(path), upright)


def test_every_pixel_format_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(picture())
    for mode in ("L", "LA", "P", "RGBA", "1"):
        path = tmp_path / f"{mode}.png"
        image.convert(mode).save(path)
        pixels = read_image(path)
        assert pixels.shape == (61, 91, 3)
        np.testing.assert_array_equal(pixels, np.array(Image.open(path).convert("RGB")))
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read_image(tmp_path / "cmyk.jpg").shape == (61, 91, 3)
    deep = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[..., 1], deep // 256)


def test_colour_profile_is_converted_or_ignored_when_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.fromarray(picture())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_image(tmp_path / "srgb.png"), picture())
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(tmp_path / "broken.png"), picture())
    assert "colour profile of" in caplog.text
    # sRGB with the tags of red and blue swapped is another colour space: its conversion must change the picture.
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    image.save(tmp_path / "swapped.png", icc_profile=swapped)
    difference = np.abs(read_image(tmp_path / "swapped.png").astype(int) - picture()[..., ::-1])
    assert difference.max() <= 2


def test_codec_round_trip_grows_with_crf_and_zero_is_none() -> None:
    image = picture()
    assert compress_as_video(image, 0) is image
    errors = []
    for crf in (1, 18, 33, 51):
        result = compress_as_video(image, crf)
        assert result.shape == (60, 90, 3)
        errors.append(np.abs(result.astype(int) - image[:60, :90]).mean())
    assert errors == sorted(errors)
    assert errors[0] < 2 < errors[-1]
    np.testing.assert_array_equal(compress_as_video(image[:1], 33), image[:1])
    with pytest.raises(UsageError, match="image crf must be 0 to 51, got 60"):
        compress_as_video(image, 60)


def test_conditioning_frame_is_resized_after_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture()).save(path)
    frame = load_conditioning_image(path, 32, 64, crf=0)
    assert (frame.shape, frame.dtype) == ((32, 64, 3), np.float32)
    np.testing.assert_array_equal(frame, resize_to_cover(picture(), 32, 64) / np.float32(127.5) - np.float32(1))
    lossy = load_conditioning_image(path, 32, 64, crf=33)
    expected = resize_to_cover(compress_as_video(picture(), 33), 32, 64) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(lossy, expected)
    assert np.abs(lossy - frame).max() > 0


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_unreadable_images_are_one_clear_error(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "good.png")
    Image.fromarray(picture()).save(tmp_path / "good.jpg")
    good = (tmp_path / "good.png").read_bytes()
    damaged = bytearray(good)
    damaged[60] ^= 255
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    bomb = good[:8] + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    contents = {
        "cut.png": (good[: len(good) // 2], r"cut\.png cannot be read.*truncated"),
        "cut.jpg": ((tmp_path / "good.jpg").read_bytes()[:700], r"cut\.jpg cannot be read"),
        "damaged.png": (bytes(damaged), r"damaged\.png cannot be read"),
        "empty.png": (b"", "not an image that can be read; use PNG or JPEG"),
        "text.png": (b"not an image at all", "not an image that can be read"),
        "bomb.png": (bomb, r"bomb\.png is too large"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=message):
            read_image(tmp_path / name)
    with pytest.raises(MediaError, match=r"missing\.png does not exist"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="cannot be read"):
        read_image(tmp_path)

"""Pictures of rare kinds: deep and floating values, transparency, profiles that do not match, what is no picture."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from made_clips import card, greys, tone, write_clip, write_sound
from PIL import Image, ImageCms

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.fit import FITS, fit_words, fitted
from ltx2rt.media.images import load_conditioning_image, read_image
from ltx2rt.media.resize import bilinear, resize_to_cover


def ramp() -> np.ndarray:
    return np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)


def said(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[np.ndarray, list[str]]:
    """The picture, and the lines about it; a warning of a library is an error."""
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        picture = read_image(path)
    return picture, [record.getMessage() for record in caplog.records]


def test_floating_point_of_0_to_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(ramp().astype(np.float32) / 255, mode="F").save(tmp_path / "f.tif")
    picture, lines = said(tmp_path / "f.tif", caplog)
    np.testing.assert_array_equal(picture, np.repeat(ramp()[..., None], 3, axis=2))
    assert lines == []


@pytest.mark.parametrize("white", [255, 65535])
def test_floating_point_that_had_been_whole_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, white: int
) -> None:
    Image.fromarray(ramp().astype(np.float32) * (white / 255), mode="F").save(tmp_path / "f.tif")
    picture, lines = said(tmp_path / "f.tif", caplog)
    assert np.abs(picture[..., 0].astype(int) - ramp()).max() <= 1
    assert len(lines) == 1
    assert f"it is taken as 0 to {white}" in lines[0]


def test_floating_point_a_little_outside_is_clipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.float32([[-0.1, 0.0], [1.0, 1.3]]), mode="F").save(tmp_path / "f.tif")
    picture, lines = said(tmp_path / "f.tif", caplog)
    assert picture[..., 0].tolist() == [[0, 0], [255, 255]]
    assert "clipped to 0 to 1" in lines[0]


def test_values_without_a_scale_are_refused_by_kind(tmp_path: Path) -> None:
    Image.fromarray(np.float32([[0, 1e6]]), mode="F").save(tmp_path / "f.tif")
    with pytest.raises(MediaError, match=r"f\.tif holds floating point of 0 to 1e\+06, whose white is not known"):
        read_image(tmp_path / "f.tif")
    Image.fromarray(np.float32([[0, np.nan]]), mode="F").save(tmp_path / "nan.tif")
    with pytest.raises(MediaError, match=r"nan\.tif holds values that are not finite"):
        read_image(tmp_path / "nan.tif")
    Image.fromarray(np.int32([[0, 2**24]]), mode="I").save(tmp_path / "i.tif")
    with pytest.raises(MediaError, match=r"i\.tif holds whole numbers of 32 bits, 0 to 1.67772e\+07"):
        read_image(tmp_path / "i.tif")


def test_sixteen_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = (ramp().astype(np.uint16) * 257) | 0x1F
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 60 40 65535\n" + deep.astype(">u2").tobytes())
    for name in ("a.png", "a.tif", "a.pgm"):
        picture, lines = said(tmp_path / name, caplog)
        assert np.abs(picture[..., 0].astype(int) - ramp()).max() <= 1, name
        assert lines == []
    Image.fromarray(ramp().astype(np.int32), mode="I").save(tmp_path / "labels.tif")
    picture, lines = said(tmp_path / "labels.tif", caplog)
    np.testing.assert_array_equal(picture[..., 0], ramp())
    assert "taken as 0 to 255" in lines[0]


def cut_out() -> Image.Image:
    """The card, whose left third is transparent with magenta behind."""
    pixels = np.dstack([card(), np.full((64, 96), 255, np.uint8)])
    pixels[:, :32] = (255, 0, 255, 0)
    pixels[:, 32:40, 3] = 128
    return Image.fromarray(pixels)


def test_transparent_pictures_are_laid_on_white_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut_out().save(tmp_path / "cut.png")
    picture, lines = said(tmp_path / "cut.png", caplog)
    assert (picture[:, :32] == 255).all()
    np.testing.assert_array_equal(picture[:, 40:], card()[:, 40:])
    assert np.abs(picture[:, 32:40] - (card()[:, 32:40] / 2 + 127.5)).max() <= 1
    assert lines == [f"{tmp_path / 'cut.png'} has transparent parts; they are laid on white"]


def test_every_kind_of_transparency(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    palette = Image.fromarray(card()).quantize(8)
    first = palette.getpixel((2, 2))
    palette.save(tmp_path / "bytes.png", transparency=bytes(0 if n == first else 255 for n in range(8)))
    palette.save(tmp_path / "index.gif", transparency=first)
    Image.fromarray(card()).save(tmp_path / "rgb.png", transparency=(200, 30, 30))
    cut_out().save(tmp_path / "cut.webp", lossless=True)
    grey = Image.fromarray(np.dstack([ramp(), ramp()]))
    grey.save(tmp_path / "la.png")
    for name in ("bytes.png", "index.gif", "rgb.png", "cut.webp"):
        picture, lines = said(tmp_path / name, caplog)
        assert (picture[2, 2] == 255).all(), name
        assert np.abs(picture[2, 94].astype(int) - (30, 180, 40)).max() <= 6, name
        assert len(lines) == 1, name
    picture, lines = said(tmp_path / "la.png", caplog)
    assert picture[0, 0].tolist() == [255] * 3
    assert len(lines) == 1


def test_opaque_pictures_with_an_alpha_channel_get_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opaque = Image.fromarray(card())
    opaque.putalpha(255)
    for name in ("a.png", "a.webp", "a.tif"):
        opaque.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        picture, lines = said(tmp_path / name, caplog)
        np.testing.assert_array_equal(picture, card())
        assert lines == []


def profile(space: str) -> bytes:
    """A profile of grey or red, green and blue."""
    if space == "RGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[16:20] = space.ljust(4).encode()
    return bytes(made)


def test_profiles_of_other_kinds_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for space in ("GRAY", "CMYK"):
        Image.fromarray(card()).save(tmp_path / "a.png", icc_profile=profile(space))
        picture, lines = said(tmp_path / "a.png", caplog)
        np.testing.assert_array_equal(picture, card())
        assert len(lines) == 1
        assert f"ignored: it is one of {space} colours, the picture is RGB" in lines[0]


def test_grey_and_palette_pictures_with_a_profile_of_colours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(ramp()).save(tmp_path / "grey.png", icc_profile=profile("RGB"))
    picture, lines = said(tmp_path / "grey.png", caplog)
    assert np.abs(picture - ramp()[..., None].astype(int)).max() <= 1
    assert lines == []
    Image.fromarray(card()).quantize(8).save(tmp_path / "palette.png", icc_profile=profile("RGB"))
    picture, lines = said(tmp_path / "palette.png", caplog)
    assert np.abs(picture.astype(int) - card()).max() <= 8
    assert lines == []


def test_animated_pictures_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = [Image.fromarray(picture) for picture in greys(3, step=80)]
    for name in ("a.gif", "a.webp", "a.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        picture, lines = said(tmp_path / name, caplog)
        assert np.abs(picture.astype(int) - 16).max() <= 2
        assert lines == [f"{tmp_path / name} holds 3 pictures; the first one is taken"]


def test_pictures_in_lab(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
    converted = ImageCms.profileToProfile(Image.fromarray(card()), srgb, lab, outputMode="LAB")
    assert converted is not None
    converted.save(tmp_path / "lab.tif")
    picture, lines = said(tmp_path / "lab.tif", caplog)
    assert np.abs(picture.astype(int) - card()).max() <= 6
    assert lines == []


def test_avif_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(card()).save(tmp_path / "a.avif", quality=95)
    picture, lines = said(tmp_path / "a.avif", caplog)
    assert np.abs(picture[::8, ::8].astype(int) - card()[::8, ::8]).mean() < 6
    assert lines == []


def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", greys(3))
    with pytest.raises(MediaError, match=r"clip\.mp4 is a video, not an image; give one of its pictures"):
        read_image(tmp_path / "clip.mp4")
    write_sound(tmp_path / "sound.wav", tone(0.1), "pcm_s16le")
    with pytest.raises(MediaError, match=r"sound\.wav is sound, not an image"):
        read_image(tmp_path / "sound.wav")
    with pytest.raises(MediaError, match="cannot be read: it is a folder; give a picture in it"):
        read_image(tmp_path)


def test_words_about_what_is_lost() -> None:
    assert (
        fit_words(256, 128, 64, 64, "crop") == "128x256 becomes 64x64, 50% of its height is cut away, half at each end"
    )
    assert (
        fit_words(128, 256, 64, 64, "crop") == "256x128 becomes 64x64, 50% of its width is cut away, half at each end"
    )
    assert fit_words(256, 128, 64, 64, "pad") == "128x256 becomes 64x64, 50% of it black left and right"
    assert fit_words(128, 256, 64, 64, "pad") == "256x128 becomes 64x64, 50% of it black above and below"
    assert fit_words(128, 256, 64, 64, "stretch") == "256x128 becomes 64x64, stretched by 2.00 down"
    for rows, columns in ((64, 64), (128, 128), (31, 31), (1000, 1001)):
        assert fit_words(rows, columns, 64, 64, "crop") == ""
    assert fit_words(1080, 1920, 704, 1280, "crop").startswith("1920x1080 becomes 1280x704, 2% of its height")


@pytest.mark.parametrize("antialias", [False, True])
def test_the_four_fits(antialias: bool) -> None:
    picture = card(48, 96)  # tall
    cut = fitted(picture, 64, 64, "crop", antialias=antialias)
    np.testing.assert_array_equal(cut, resize_to_cover(picture, 64, 64))
    inside = fitted(picture, 64, 64, "pad", antialias=antialias)
    np.testing.assert_array_equal(inside[:, 16:48], bilinear(picture, 64, 32))
    assert (inside[:, :16] == 0).all()
    assert (inside[:, 48:] == 0).all()
    np.testing.assert_array_equal(fitted(picture, 64, 64, "stretch"), bilinear(picture, 64, 64))
    with pytest.raises(UsageError, match="a picture of 48x96 has not the proportions of 64x64"):
        fitted(picture, 64, 64, "error")
    for way in FITS:
        np.testing.assert_array_equal(fitted(picture, 192, 96, way), bilinear(picture, 192, 96))


def test_large_pictures_are_reduced_with_antialiasing() -> None:
    """Lines of one pixel become grey, not lines of another width; up to twice the size nothing differs."""
    lines = np.zeros((256, 256, 3), np.uint8)
    lines[:, ::4] = 255
    official = fitted(lines, 48, 48)
    assert np.ptp(official[24]) > 100
    smooth = fitted(lines, 48, 48, antialias=True)
    assert np.ptp(smooth[24, 2:-2]) < 40
    assert np.abs(smooth.mean() - lines.mean()) < 2
    np.testing.assert_array_equal(fitted(lines, 128, 128, antialias=True), fitted(lines, 128, 128))
    stack = np.stack([lines, lines[::-1]])
    np.testing.assert_array_equal(fitted(stack, 48, 48, antialias=True)[0], smooth)


def test_conditioning_images_take_the_fit(tmp_path: Path) -> None:
    stored = io.BytesIO()
    Image.fromarray(card(192, 384)).save(stored, "PNG")
    (tmp_path / "a.png").write_bytes(stored.getvalue())
    padded = load_conditioning_image(tmp_path / "a.png", 64, 64, crf=0, fit="pad", antialias=True)
    assert (padded[:, :16] == -1).all()
    official = load_conditioning_image(tmp_path / "a.png", 64, 64, crf=0)
    np.testing.assert_array_equal(official, resize_to_cover(card(192, 384), 64, 64) / np.float32(127.5) - np.float32(1))

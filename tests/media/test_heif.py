"""HEIC photographs: one picture, tiles, turns and mirrors, profiles, HDR, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_clips import GREY, QUARTERS, card, hlg_signal, spots
from made_heic import auxiliary, cut, mirrored, turned, write_heic
from PIL import ImageCms

from ltx2rt.errors import MediaError
from ltx2rt.media.images import open_image, read_image

CARD = np.array([*QUARTERS.values(), GREY])
PICTURE = card(320, 192)


def colours(path: Path) -> np.ndarray:
    return np.array(spots(read_image(path)))


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix"])
@pytest.mark.parametrize("codes", [(1, 13, 6), (1, 13, 1), None])
def test_one_picture(tmp_path: Path, brand: bytes, codes: tuple[int, int, int] | None) -> None:
    path = write_heic(tmp_path / "a.heic", PICTURE / 255, codes=codes, brand=brand)
    assert read_image(path).shape == (192, 320, 3)
    assert np.abs(colours(path) - CARD).max() <= 4


@pytest.mark.parametrize("grid_in_meta", [True, False])
@pytest.mark.parametrize("size", [(320, 192), (300, 170), (64, 64)])
def test_tiles_make_the_whole_picture(tmp_path: Path, size: tuple[int, int], grid_in_meta: bool) -> None:
    picture = card(*size)
    path = write_heic(tmp_path / "a.heic", picture / 255, tile=64, grid_in_meta=grid_in_meta)
    read, notes = open_image(path)
    assert read.shape == picture.shape
    assert np.abs(read.astype(int) - picture).mean() < 3
    assert notes == []


@pytest.mark.parametrize("tile", [64, pytest.param(None, marks=pytest.mark.slow)])
def test_turns_and_mirrors(tmp_path: Path, tile: int | None) -> None:
    stored = read_image(write_heic(tmp_path / "a.heic", PICTURE / 255))
    for turns in range(4):
        path = write_heic(tmp_path / "b.heic", PICTURE / 255, tile=tile, shown=(turned(turns),))
        assert np.abs(read_image(path).astype(int) - np.rot90(stored, turns)).mean() < 3
    both = write_heic(tmp_path / "c.heic", PICTURE / 255, tile=tile, shown=(turned(1), mirrored(True)))
    assert np.abs(read_image(both).astype(int) - np.rot90(stored)[:, ::-1]).mean() < 3
    flipped = write_heic(tmp_path / "d.heic", PICTURE / 255, tile=tile, shown=(mirrored(False),))
    assert np.abs(read_image(flipped).astype(int) - stored[::-1]).mean() < 3


def test_a_lost_alpha_channel_is_said(tmp_path: Path) -> None:
    for kind, said in ((b"urn:mpeg:hevc:2015:auxid:1", True), (b"urn:mpeg:hevc:2015:auxid:2", False)):
        path = write_heic(tmp_path / "a.heic", PICTURE / 255, shown=(auxiliary(kind),))
        assert open_image(path)[1] == [f"{path} has an alpha channel, which is left out"] * said


def test_the_part_that_is_shown(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "a.heic", PICTURE / 255, shown=(cut(300, 100),))
    assert read_image(path).shape == (100, 300, 3)
    assert np.abs(colours(path) - CARD).max() <= 4


def test_primaries_by_codes_and_by_profile(tmp_path: Path) -> None:
    encoded = PICTURE / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_p3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])
    light = linear @ to_p3.T
    wide = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    path = write_heic(tmp_path / "p3.heic", wide, codes=(12, 13, 6))
    assert np.abs(colours(path) - CARD).max() <= 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for tile in (None, 64):
        # The profile says more than the codes of the primaries.
        path = write_heic(tmp_path / "icc.heic", encoded, codes=(12, 13, 6), profile=srgb, tile=tile)
        assert np.abs(colours(path) - CARD).max() <= 6


def test_hdr_photographs_are_tone_mapped(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "hlg.heic", hlg_signal(PICTURE), codes=(9, 18, 9), bits=10, full=False)
    picture, notes = open_image(path)
    assert np.abs(np.array(spots(picture)) - CARD).max() <= 12
    assert notes == [f"{path} is HDR (HLG), BT.2020; it is converted to BT.709"]


@pytest.mark.parametrize("count", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_damaged_files_are_one_clear_error(tmp_path: Path, count: int) -> None:
    whole = write_heic(tmp_path / "whole.heic", PICTURE / 255, tile=64).read_bytes()
    rng = np.random.default_rng(0)
    for length in (40, 200, 600, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.heic").write_bytes(whole[:length])
        with pytest.raises(MediaError, match=r"HEIC photograph .*cut\.heic cannot be read: .*sips -s format jpeg"):
            read_image(tmp_path / "cut.heic")
    refused = 0
    for _ in range(count):
        data = bytearray(whole)
        for place in rng.integers(24, 1200, 3):
            data[place] = rng.integers(256)
        (tmp_path / "odd.heic").write_bytes(data)
        try:
            read_image(tmp_path / "odd.heic")
        except MediaError:
            refused += 1
    assert refused > count / 6

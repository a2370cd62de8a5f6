"""Pictures on the grid of the model's cells: there, and back at the clip's own size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.media.grid_fit import GridFit

DOUBLE = Fraction(2)


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([2 * x, 2 * y, x + y], axis=-1).astype(np.uint8)


def as_model(pixels: np.ndarray) -> np.ndarray:
    """What a model would give that changes nothing."""
    return pixels.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("way", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(72, 80), (64, 96), (90, 64), (34, 126)])
def test_the_way_back_gives_the_picture_and_its_size(way: str, height: int, width: int) -> None:
    fit = GridFit.of(height, width, 32, way, "clip")
    own = picture(height, width)
    seen = fit.to_grid(own)
    assert seen.shape == (fit.grid_height, fit.grid_width, 3)
    assert seen.dtype == np.uint8
    assert fit.grid_height % 32 == fit.grid_width % 32 == 0
    back = fit.restored(as_model(seen), own)
    assert back.shape == (height, width, 3)
    # Bilinear scaling there and back blurs at the borders.
    tolerance = {"pad": 0, "crop": 0, "stretch": 2.5}[way]
    np.testing.assert_allclose(back * 255, own, atol=tolerance + 1e-3)


def test_a_picture_of_the_models_size_is_handed_on_as_it_is() -> None:
    fit = GridFit.of(64, 96, 32, "stretch", "clip")
    own = picture(64, 96)
    assert fit.is_exact
    assert fit.words == ""
    assert fit.to_grid(own) is own
    seen = as_model(own)
    assert fit.restored(seen, None) is seen


def test_padding_mirrors_the_border_and_repeats_it_where_there_is_less_than_that() -> None:
    fit = GridFit.of(40, 64, 32, "pad", "clip")
    assert (fit.grid_height, fit.grid_width) == (64, 64)
    own = picture(40, 64)
    np.testing.assert_array_equal(fit.to_grid(own)[40:], own[38:14:-1])
    small = GridFit.of(12, 64, 32, "pad", "clip").to_grid(own[:12])
    np.testing.assert_array_equal(small[12:], np.repeat(own[11:12], 20, axis=0))


def test_what_was_cut_off_comes_from_the_clip_or_from_the_border() -> None:
    fit = GridFit.of(36, 70, 32, "crop", "clip")
    new = np.zeros((32, 64, 3), np.float32)
    new[:, 0] = 1
    with_own = fit.restored(new, np.full((36, 70, 3), 51, np.uint8))
    np.testing.assert_array_equal(with_own[2:34, 3:67], new)
    assert np.allclose(with_own[:2], 0.2)
    assert np.allclose(with_own[:, 67:], 0.2)
    without = fit.restored(new, None)
    assert without.shape == (36, 70, 3)
    assert (without[:, :3] == 1).all()
    assert (without[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("way", "scale", "size"),
    [
        ("pad", DOUBLE, (144, 160)),
        ("pad", Fraction(3, 2), (108, 120)),
        ("stretch", DOUBLE, (144, 160)),
        ("crop", DOUBLE, (128, 128)),
        ("crop", Fraction(1), (72, 80)),
    ],
)
def test_sizes_of_enlarged_pictures(way: str, scale: Fraction, size: tuple[int, int]) -> None:
    fit = GridFit.of(72, 80, 32, way, "clip")
    assert fit.size(scale) == size
    large = np.zeros((int(fit.grid_height * scale), int(fit.grid_width * scale), 3), np.float32)
    assert fit.restored(large, None, scale).shape == (*size, 3)


def test_sides_of_video_files_are_even() -> None:
    assert GridFit.of(70, 74, 32, "pad", "clip").size(Fraction(3, 2)) == (104, 110)


def test_what_does_not_fit_is_said_or_refused() -> None:
    assert GridFit.of(720, 1280, 32, "pad", "clip").words == "1280x720 is filled to 1280x736 for the model"
    assert GridFit.of(720, 1280, 32, "crop", "clip").words == "1280x720 is cut to 1280x704 for the model"
    with pytest.raises(UsageError, match="clip is 1280x720; both sides must be multiples of 32"):
        GridFit.of(720, 1280, 32, "error", "clip")
    assert GridFit.of(64, 96, 32, "error", "clip").is_exact
    with pytest.raises(UsageError, match="too small to be cut"):
        GridFit.of(20, 96, 32, "crop", "clip")


@pytest.mark.parametrize("way", ["pad", "stretch"])
def test_the_model_has_its_least_side(way: str) -> None:
    fit = GridFit.of(20, 96, 32, way, "clip", least=64)
    assert (fit.grid_height, fit.grid_width) == (64, 96)
    own = picture(20, 96)
    assert fit.restored(as_model(fit.to_grid(own)), own).shape == own.shape
    for refused in ("crop", "error"):
        with pytest.raises(UsageError, match=r"multiples of 32,? from 64 on"):
            GridFit.of(32, 96, 32, refused, "clip", least=64)

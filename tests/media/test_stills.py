"""Pictures made of a clip: PNG bytes, which frames a contact sheet shows and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.media.images import read_image
from ltx2rt.media.stills import ContactSheet, sheet_indices, to_uint8, write_png


def test_png_holds_the_truncated_values(tmp_path: Path) -> None:
    frame = np.linspace(-0.1, 1.1, 8 * 6 * 3, dtype=np.float32).reshape(8, 6, 3)
    write_png(tmp_path / "frame.png", frame)
    expected = np.clip(np.floor(np.clip(frame, 0, 1) * 255), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "frame.png"), expected)
    assert list(tmp_path.iterdir()) == [tmp_path / "frame.png"]


def test_bytes_stay_as_they_are() -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert to_uint8(frame) is frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [(np.zeros((2, 2)), r"\(H, W, 3\), got \(2, 2\)"), (np.zeros((2, 2, 3), np.int32), "got int32")],
)
def test_other_pictures_are_refused(frame: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        to_uint8(frame)


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.png"):
        write_png(tmp_path / "frame.jpg", np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("frames", "indices"),
    [(1, [0]), (9, list(range(9))), (25, [0, 2, 4, 7, 9, 11, 13, 15, 17, 20, 22, 24])],
)
def test_a_sheet_shows_first_last_and_evenly_between(frames: int, indices: list[int]) -> None:
    assert sheet_indices(frames) == indices


def test_sheet_places_frames_row_by_row() -> None:
    frames = np.stack([np.full((32, 64, 3), value, np.uint8) for value in range(100, 106)])
    sheet = ContactSheet(6)
    sheet.add(frames[:2])
    sheet.add(frames[2:])
    picture = sheet.picture()
    assert picture.shape == (2 * 36 + 4, 4 * 68 + 4, 3)
    assert [int(picture[4, 4 + 68 * column, 0]) for column in range(4)] == [100, 101, 102, 103]
    assert [int(picture[40, 4 + 68 * column, 0]) for column in range(2)] == [104, 105]
    assert int(picture[40, 4 + 68 * 2, 0]) == 24


def test_wide_frames_shrink() -> None:
    sheet = ContactSheet(1)
    sheet.add(np.ones((1, 360, 640, 3), np.float32))
    assert sheet.picture().shape == (180 + 8, 320 + 8, 3)


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one frame"):
        ContactSheet(5).picture()

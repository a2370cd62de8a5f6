"""Edges: where they are, how thin, what the thresholds do, rejections."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.media.canny import canny


def square(contrast: int) -> np.ndarray:
    picture = np.full((40, 48, 3), 50, np.uint8)
    picture[10:30, 12:36] = 50 + contrast
    return picture


def test_a_square_gives_its_outline_one_pixel_wide() -> None:
    edges = canny(square(150))
    assert set(np.unique(edges)) == {0, 255}
    white = edges[..., 0] > 0
    assert (edges[..., 0] == edges[..., 1]).all()
    # Each row that crosses the square away from its corners meets two edges of one pixel at its sides.
    for row in range(13, 27):
        columns = np.flatnonzero(white[row])
        assert len(columns) == 2
        assert abs(columns[0] - 11.5) <= 1
        assert abs(columns[1] - 35.5) <= 1
    assert not white[:8].any()
    assert not white[15:25, 16:32].any()


def test_low_edges_count_only_where_they_continue_high_ones() -> None:
    picture = np.full((20, 60, 3), 50, np.uint8)
    ramp = np.linspace(90, 20, 60).astype(np.uint8)
    picture[10:] = (50 + ramp)[None, :, None]
    # The step of 90 to 20 grey values is a gradient of 360 to 80.
    white = canny(picture, 100, 340)[..., 0] > 0
    columns = np.flatnonzero(white.any(axis=0))
    assert columns.min() <= 1
    assert 50 <= columns.max() <= 58
    assert not canny(picture, 370, 380).any()
    assert not canny(square(10), 100, 200).any()


@pytest.mark.parametrize(("low", "high"), [(200, 100), (-1, 5)])
def test_thresholds_out_of_order_are_refused(low: int, high: int) -> None:
    with pytest.raises(UsageError, match=f"got {low} and {high}"):
        canny(square(1), low, high)

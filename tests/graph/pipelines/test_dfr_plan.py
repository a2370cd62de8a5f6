"""The numbers of DFR: canvases, rates and parts of time, with worked examples of the official plan."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2rt.graph.pipelines.dfr_plan import (
    Part,
    Prefix,
    canvas_of,
    conditioning_rate,
    doubled,
    parts_of_round,
    sound_of_part,
    whole,
)


@pytest.mark.parametrize(
    ("frames", "canvas", "segment"),
    [
        (2, 25, 24),
        *((9, 25, 24), (17, 25, 24), (25, 25, 24), (33, 33, 32), (41, 49, 24), (49, 49, 24)),
        *((57, 65, 32), (97, 97, 32), (121, 121, 24), (145, 145, 24), (241, 241, 24), (481, 481, 32)),
    ],
)
def test_the_canvas_ends_with_a_key_frame(frames: int, canvas: int, segment: int) -> None:
    found = canvas_of(frames)
    assert found.frames == canvas
    assert found.slots == tuple(range(segment, canvas, segment))
    assert found.slots[-1] == canvas - 1


def test_a_canvas_needs_two_frames() -> None:
    with pytest.raises(ValueError, match="The canvas needs at least 2 pixel frames, got 1"):
        canvas_of(1)


@pytest.mark.parametrize(
    ("played", "told"), [("24", 24), ("30", 30), ("30000/1001", Fraction(30000, 1001)), ("48", 60), ("96", 60)]
)
def test_rates(played: str, told: int | Fraction) -> None:
    assert conditioning_rate(Fraction(played)) == told


def parts(frames: int, rounds: int) -> list[tuple[Part, ...]]:
    """Of every round."""
    planes, found = canvas_of(frames).slots, []
    for number in range(1, rounds + 1):
        seams = tuple(2 * plane for plane in planes)
        found.append(parts_of_round(seams, number))
        planes = tuple(sorted({*seams, *(slot for part in found[-1] for slot in part.slots)}))
    return found


def test_49_frames_in_one_round() -> None:
    (found,) = parts(49, 1)
    assert found == (Part(0, 7, (48,), (24,)), Part(7, 13, (96,), (72,), Prefix(24, 4, 4, 49)))
    last = found[1]
    assert (last.origin, last.base, last.cells, last.frames, last.given_cells) == (24, 3, 10, 73, 4)


def test_121_frames_in_two_rounds() -> None:
    first, second = parts(121, 2)
    assert [(part.start, part.end) for part in first] == [(0, 19), (19, 31)]
    assert [part.slots for part in first] == [(24, 72, 120), (168, 216)]
    assert first[1].prefix == Prefix(120, 16, 4, 145)
    assert [(part.start, part.end) for part in second] == [(0, 19), (19, 37), (37, 49), (49, 61)]
    assert [part.prefix and part.prefix.keyframe for part in second] == [None, 120, 264, 360]
    assert second[0].anchors == (48, 96, 144)


def test_segments_that_do_not_come_out_even_go_to_the_first_parts() -> None:
    # Seven segments of 48 frames, six cells each.
    found = parts_of_round(tuple(range(48, 337, 48)), 2)
    assert [(part.end - part.start) // 6 for part in found] == [2, 2, 2, 1]
    assert [part.anchors for part in parts_of_round((48,), 2)] == [(48,)]


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_parts_make_every_cell_once_and_begin_with_cells_that_are_there(rounds: int) -> None:
    for frames in range(9, 600, 8):
        for number, found in enumerate(parts(frames, rounds), 1):
            cells = (doubled(canvas_of(frames).frames, number) - 1) // 8 + 1
            assert [cell for part in found for cell in range(part.start, part.end)] == list(range(cells))
            assert len(found) <= 2**number
            for before, part in zip((None, *found), found, strict=False):
                assert part.slots
                assert all(slot % 8 == 0 and part.origin < slot <= part.last_frame for slot in part.slots)
                if before is None or part.prefix is None:
                    assert part is found[0]
                    continue
                # The key frame and the cells that follow it, all of which the part before has.
                assert part.given_cells == 1 + part.start - part.prefix.video_start
                assert before.base < part.prefix.video_start < part.start
                assert part.prefix.keyframe % 8 == 0
                assert part.resume == 8 * (part.start - 1) + 1


@pytest.mark.parametrize("seams", [(), (48, 32), (0, 48), (48, 48), (24, 48), (8, 16)])
def test_seams_that_cannot_be(seams: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="boundaries must start at 0 and hold at least one segment"):
        parts_of_round(seams, 1)


def test_a_clip_as_one_part() -> None:
    part = whole(49)
    assert (part.start, part.end, part.cells, part.frames, part.resume, part.last_frame) == (0, 7, 7, 49, 0, 48)


def test_the_sound_of_a_part() -> None:
    places = np.arange(41, dtype=np.float32)
    sound = np.broadcast_to(places[None, :, None], (1, 41, 2))
    # 49 frames at 30 a second lie below 41 tokens; 97 of them at 60 take a little less.
    window = sound_of_part(sound, 24, 73, Fraction(60), Fraction(49, 30), 30)
    first, last = (frame / 60 / (49 / 30) * 41 for frame in (24, 97))
    expected = [min(first + (last - first) / 30 * index, 40) for index in range(30)]
    np.testing.assert_allclose(window[0, :, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(window[..., 0], window[..., 1])
    # What is longer than the sound keeps its last token.
    longer = sound_of_part(sound, 0, 97, Fraction(30), Fraction(49, 30), 81)
    np.testing.assert_array_equal(longer[0, 50:, 0], 40)

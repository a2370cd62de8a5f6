"""Colours of clips the whole way, file to file: tags, ranges, untagged sizes, HDR, wide gamuts, and the override."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from made_clips import (
    BT601,
    BT709,
    GREY,
    QUARTERS,
    UNTAGGED,
    card,
    hlg_signal,
    linear_bt2020,
    pq_signal,
    spots,
    write_clip,
    write_hdr,
)

from ltx2rt.errors import UsageError
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.colour import SOURCE_COLOR_CHOICES
from ltx2rt.media.video_writer import VideoWriter

CARD = np.array([*QUARTERS.values(), GREY])
Signal = Callable[[np.ndarray], np.ndarray]


def there_and_back(path: Path, codec: str = "h264", source_color: str | None = None) -> tuple[np.ndarray, ClipReader]:
    """The colours of a clip's card after it was read, written and read again; and its reader."""
    reader = ClipReader(path, source_color=source_color)
    (picture,) = reader.frames(1)
    copy = path.with_name("copy.mp4")
    with VideoWriter(copy, reader.width, reader.height, 24, codec=codec, crf=4) as writer:
        writer.write(picture[None])
    again = ClipReader(copy)
    assert again.notes == []
    (shown,) = again.frames()
    return np.array(spots(shown)), reader


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tags", [BT709, BT601, (5, 6, 5), (1, 1, 6), (2, 2, 1), (2, 2, 6), (1, 13, 1), (7, 7, 7)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_matrices_and_ranges(tmp_path: Path, tags: tuple[int, int, int], full: bool, pix_fmt: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", [card()] * 2, tags=tags, full=full, pix_fmt=pix_fmt)
    found, reader = there_and_back(path)
    assert np.abs(found - CARD).max() <= 6
    assert (reader.notes, reader.filtered) == ([], False)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_writer_says_what_it_writes(tmp_path: Path, codec: str) -> None:
    found, _ = there_and_back(write_clip(tmp_path / "clip.mp4", [card()] * 2), codec)
    assert np.abs(found - CARD).max() <= 6


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        pytest.param((1280, 720), 1, marks=pytest.mark.slow),
        pytest.param((1280, 704), 1, marks=pytest.mark.slow),
        ((640, 720), 1),
        ((720, 1280), 1),
        ((720, 576), 6),
        pytest.param((720, 480), 6, marks=pytest.mark.slow),
        ((96, 64), 6),
    ],
)
def test_untagged_clips_are_what_players_take_them_for(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", [card(*size)] * 2, tags=UNTAGGED, matrix=matrix)
    found, reader = there_and_back(path)
    assert np.abs(found - CARD).max() <= 6
    assert reader.notes == []


@pytest.mark.parametrize(("transfer", "signal_of", "name"), [(18, hlg_signal, "HLG"), (16, pq_signal, "PQ")])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int, signal_of: Signal, name: str) -> None:
    found, reader = there_and_back(write_hdr(tmp_path / "hdr.mp4", signal_of(card()), transfer))
    assert np.abs(found - CARD).max() <= 12
    assert np.ptp(found[3:], axis=1).max() <= 4
    assert len(reader.notes) == 1
    assert f"is HDR ({name}), BT.2020; it is tone-mapped to BT.709" in reader.notes[0]


@pytest.mark.parametrize(("transfer", "signal_of"), [(18, hlg_signal), (16, pq_signal)])
def test_hdr_up_to_reference_white_keeps_its_values(tmp_path: Path, transfer: int, signal_of: Signal) -> None:
    steps = np.linspace(0, 255, 16)
    strips = np.zeros((64, 256, 3))
    for index, level in enumerate(steps):
        strips[:16, index * 16 : index * 16 + 16] = level
        strips[16:32, index * 16 : index * 16 + 16, 0] = level
        strips[32:48, index * 16 : index * 16 + 16, 1] = level
        strips[48:, index * 16 : index * 16 + 16, 2] = level
    (shown,) = ClipReader(write_hdr(tmp_path / "hdr.mp4", signal_of(strips), transfer)).frames(1)
    centres = shown[8::16, 8::16].astype(int)
    for row, channels in enumerate(([0, 1, 2], [0], [1], [2])):
        assert np.abs(centres[row][:, channels] - steps[:, None]).max() <= 12, row
    assert np.ptp(centres[0], axis=1).max() <= 4
    assert (np.diff(centres[0].mean(axis=1)) > 0).all()


def test_highlights_are_rolled_off_and_stay_neutral(tmp_path: Path) -> None:
    nits = np.repeat([0, 100, 203, 400, 1000, 4000], 16)
    light = np.broadcast_to((nits / 203)[None, :, None], (32, 96, 3))
    power = (light * 203 / 10000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    signal = ((c1 + c2 * power) / (1 + c3 * power)) ** (2523 / 4096 * 128)
    (shown,) = ClipReader(write_hdr(tmp_path / "bright.mp4", signal, 16)).frames(1)
    levels = shown[16, 8::16].astype(int)
    assert np.ptp(levels, axis=1).max() <= 4
    assert (np.diff(levels[:, 1]) > 0).all()
    assert 243 <= levels[2, 1] < levels[3, 1] < levels[4, 1] < levels[5, 1] <= 255


def test_colours_beyond_bt709_stay_in_order(tmp_path: Path) -> None:
    """Pure BT.2020 green cannot be shown; it becomes the purest green there is, not another hue."""
    signal = np.zeros((64, 96, 3))
    signal[..., 1] = 0.6
    (shown,) = ClipReader(write_hdr(tmp_path / "green.mp4", signal, 18)).frames(1)
    red, green, blue = (int(v) for v in shown[32, 48])
    assert green > 150
    assert max(red, blue) < 0.6 * green


def wide(picture: np.ndarray, to_wide: np.ndarray) -> np.ndarray:
    """The signal of an sRGB picture in wider primaries, with the curve of sRGB."""
    encoded = picture / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = np.clip(linear @ to_wide.T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


TO_P3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])


def test_wide_gamuts_come_to_bt709(tmp_path: Path) -> None:
    p3 = write_clip(tmp_path / "p3.mp4", [wide(card(), TO_P3)] * 2, tags=(12, 13, 1), signals=True)
    found, reader = there_and_back(p3)
    assert np.abs(found - CARD).max() <= 6
    assert "is Display P3; it is converted to BT.709" in reader.notes[0]
    light = linear_bt2020(card(), 1.0)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    sdr = write_clip(tmp_path / "2020.mp4", [signal] * 2, tags=(9, 14, 9), signals=True, pix_fmt="yuv420p10le")
    found, reader = there_and_back(sdr)
    assert np.abs(found - CARD).max() <= 6
    assert "is BT.2020; it is converted" in reader.notes[0]


def test_linear_light_is_encoded(tmp_path: Path) -> None:
    encoded = card() / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    path = write_clip(tmp_path / "linear.mkv", [linear] * 2, tags=(1, 8, 1), signals=True, pix_fmt="yuv420p10le")
    found, reader = there_and_back(path)
    assert np.abs(found - CARD)[[0, 3, 4]].max() <= 16  # dark values of linear light have few steps
    assert "linear light" in reader.notes[0]


@pytest.mark.parametrize(
    ("given", "tags", "matrix", "full"),
    [
        ("bt601", BT709, 6, False),
        ("bt709", BT601, 1, False),
        ("bt709", UNTAGGED, 1, False),
        ("bt601-full", UNTAGGED, 6, True),
        ("bt709-full", BT709, 1, True),
    ],
)
def test_the_override_stands_in_place_of_the_tags(
    tmp_path: Path, given: str, tags: tuple[int, int, int], matrix: int, full: bool
) -> None:
    # The range is left untagged, as capture cards do it.
    path = tmp_path / "clip.mkv"
    options = {"x264-params": "range=tv"} if full else {}
    write_clip(path, [card()] * 2, tags=tags, matrix=matrix, full=full, options=options)
    found, reader = there_and_back(path, source_color=given)
    assert np.abs(found - CARD).max() <= 6
    assert reader.notes == []


def test_hdr_without_tags_can_be_stated(tmp_path: Path) -> None:
    for name, signal in (("hlg", hlg_signal(card())), ("pq", pq_signal(card()))):
        path = write_clip(
            tmp_path / f"{name}.mp4", [signal] * 2, tags=UNTAGGED, matrix=9, signals=True, pix_fmt="yuv420p10le"
        )
        found, reader = there_and_back(path, source_color=name)
        assert np.abs(found - CARD).max() <= 12
        assert "tone-mapped" in reader.notes[0]
    # And what is wrongly tagged as HDR can be taken as it is.
    path = write_clip(tmp_path / "sdr.mp4", [card()] * 2, tags=(9, 18, 9), matrix=1)
    found, reader = there_and_back(path, source_color="bt709")
    assert np.abs(found - CARD).max() <= 6
    assert reader.notes == []


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [card()] * 2)
    with pytest.raises(UsageError, match="unknown source colour 'rec709'; use one of bt601, bt709"):
        ClipReader(path, source_color="rec709")


@pytest.mark.slow
def test_every_name_is_taken(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [card()] * 2)
    for name in SOURCE_COLOR_CHOICES:
        assert len(list(ClipReader(path, source_color=name).frames())) == 2


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "container"), [("bgr0", "ffv1", "mkv"), ("rgb24", "png", "mov"), ("gray", "ffv1", "mkv")]
)
def test_clips_that_are_stored_as_rgb_or_grey(tmp_path: Path, pix_fmt: str, codec: str, container: str) -> None:
    path = write_clip(
        tmp_path / f"clip.{container}",
        [card()] * 2,
        codec=codec,
        pix_fmt=pix_fmt,
        tags=UNTAGGED if pix_fmt == "gray" else (1, 13, 0),
    )
    found, reader = there_and_back(path)
    if pix_fmt == "gray":
        assert np.abs(found[3:] - CARD[3:]).max() <= 6
    else:
        assert np.abs(found - CARD).max() <= 6
    assert reader.notes == []


def test_several_traits_at_once(tmp_path: Path) -> None:
    """HLG, anamorphic, of variable rate."""
    params = "log-level=error:colorprim=9:transfer=18:colormatrix=9:range=limited"
    path = write_clip(
        tmp_path / "phone.mov",
        [hlg_signal(card())] * 6,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": params},
        tags=(9, 18, 9),
        signals=True,
        times=[0, 1 / 30, 3 / 30, 4 / 30, 6 / 30, 7 / 30],
        aspect=Fraction(4, 3),
    )
    reader = ClipReader(path)
    shown = list(reader.frames())
    assert len(shown) == reader.num_frames
    assert (reader.frame_rate, shown[0].shape) == (30, (64, 128, 3))
    assert np.abs(np.array(spots(shown[-1])) - CARD).max() <= 12
    assert len(reader.notes) == 3

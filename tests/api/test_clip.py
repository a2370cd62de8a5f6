"""A clip gives its frames once: reading or saving them again is an error and never an empty or shortened clip."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2rt import api
from ltx2rt.errors import OutOfSpace, UsageError

SMALL = {"height": 64, "width": 64, "num_frames": 9}
AGAIN = "the frames of this clip have been read already"


@pytest.fixture
def clip() -> api.Clip:
    return api.load()("a red circle", **SMALL)


def test_saving_twice(clip: api.Clip, tmp_path: Path) -> None:
    clip.save(tmp_path / "a.mp4")
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        with pytest.raises(UsageError, match=AGAIN):
            clip.save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.mp4.json"]


def test_iterating_twice(clip: api.Clip, tmp_path: Path) -> None:
    assert sum(len(chunk) for chunk in clip.frames) == 9
    with pytest.raises(UsageError, match=AGAIN):
        list(clip.frames)
    with pytest.raises(UsageError, match=AGAIN):
        clip.save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_loop_may_stop_and_go_on_but_what_it_took_is_missing_from_a_file(clip: api.Clip, tmp_path: Path) -> None:
    first = len(next(clip.frames))
    with pytest.raises(UsageError, match=AGAIN):
        clip.save(tmp_path / "a.mp4")
    assert first + sum(len(chunk) for chunk in clip.frames) == 9


def test_the_sound_can_be_saved_as_often_as_one_likes(clip: api.Clip, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "c.mp4", "d.wav"):
        clip.save(tmp_path / name, sidecar=False)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "d.wav").read_bytes()
    assert (tmp_path / "c.mp4").stat().st_size > 0


def test_a_save_that_failed_half_way_is_not_repeated_with_what_is_left(
    clip: api.Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    with monkeypatch.context() as patch:
        patch.setattr("ltx2rt.api.clip.VideoWriter.write", full)
        with pytest.raises(OutOfSpace):
            clip.save(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=AGAIN):
        clip.save(tmp_path / "a.mp4")

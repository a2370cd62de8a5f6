"""A clip can be read, left half-way and saved as often as one likes; it always has the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from noisy_decoder import noisy_checkpoint

import ltx2rt
from ltx2rt import api, embedded
from ltx2rt.errors import OutOfSpace, UsageError
from ltx2rt.graph.stages.run import Run
from ltx2rt.media.clip_reader import ClipReader

SMALL = {"height": 64, "width": 64, "num_frames": 9}


@pytest.fixture(scope="module")
def clip() -> api.Clip:
    return api.load()("a red circle", **SMALL)


def pixels(clip: api.Clip) -> np.ndarray:
    return np.concatenate(list(clip.frames))


def test_every_loop_gives_the_same_bits(clip: api.Clip) -> None:
    first = pixels(clip)
    assert first.shape == (9, 64, 64, 3)
    assert np.array_equal(pixels(clip), first)


def test_saving_twice_writes_the_same_files(clip: api.Clip, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "a.mp4"):
        clip.save(tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_loop_that_stops_takes_nothing_from_a_file(clip: api.Clip, tmp_path: Path) -> None:
    reader = iter(clip.frames)
    started = next(reader)
    clip.save(tmp_path / "a.mp4", save_first_frame=tmp_path / "a.png")
    rest = list(reader)
    assert np.array_equal(np.concatenate([started, *rest]), pixels(clip))
    assert len(list(ClipReader(tmp_path / "a.mp4").frames())) == 9


def test_what_a_loop_leaves_behind_is_freed(clip: api.Clip) -> None:
    before = len(clip.report)
    reader = iter(clip.frames)
    next(reader)
    assert len(clip.report) == before
    del reader
    assert len(clip.report) == before + 1


def test_a_save_that_failed_can_be_repeated(clip: api.Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    with monkeypatch.context() as patch:
        patch.setattr("ltx2rt.api.clip.VideoWriter.write", full)
        with pytest.raises(OutOfSpace):
            clip.save(tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()
    clip.save(tmp_path / "a.mp4")
    assert len(list(ClipReader(tmp_path / "a.mp4").frames())) == 9


@pytest.mark.slow
def test_a_second_save_leaves_the_state_of_another_run_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    pipeline = api.load()
    first = pipeline("a red circle", **SMALL, state_folder=state)
    first.save(tmp_path / "a.mp4")
    pipeline("a blue square", **SMALL, state_folder=state)
    first.save(tmp_path / "b.mp4")
    assert any(state.glob("*.safetensors"))


@pytest.mark.slow
def test_a_decoder_that_adds_noise_adds_the_same_each_time(tmp_path: Path) -> None:
    checkpoint = noisy_checkpoint(tmp_path / "noisy-distilled.safetensors")
    pipeline = api.load(
        checkpoint=checkpoint, text_encoder=embedded.TEXT_ENCODER, spatial_upscaler=embedded.SPATIAL_UPSCALER
    )
    clip = pipeline("a red circle", **SMALL)
    first = pixels(clip)
    next(iter(clip.frames))
    assert np.array_equal(pixels(clip), first)
    inputs, _ = pipeline._prepare({"prompt": "a red circle", **SMALL}, pipeline._files)
    moved = Run(pipeline._files, inputs)
    moved.noise.normal((1, 64, 128))
    other = pipeline.entry.generate(moved).frames
    assert other is not None
    assert not np.array_equal(np.concatenate(list(other())), first)  # its noise is not constant


def test_wrong_arguments_of_save(clip: api.Clip) -> None:
    with pytest.raises(UsageError, match="a clip is saved to a path, got 3"):
        clip.save(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="options must be OutputOptions, got 'h264'"):
        clip.save("a.mp4", "h264")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"unknown setting 'codek'; did you mean codec\?"):
        clip.save("a.mp4", codek="h264")


def test_a_clip_says_what_it_is(clip: api.Clip) -> None:
    assert repr(clip).startswith("<Clip: 9 frames of 64x64 at ")
    assert f"s of sound at {clip.sample_rate} Hz>" in repr(clip)
    assert repr(api.load("retake")) == f"<Pipeline retake: {embedded.CHECKPOINT}>"


def test_latents_alone_have_no_frames() -> None:
    clip = ltx2rt.load()("a red circle", **SMALL, latents_only=True)
    with pytest.raises(UsageError, match="this clip has no frames"):
        clip.frames  # noqa: B018

"""How what is kept and what was made anew are put together: weights, samples, and which frames the model is given."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import greys, tone, write_clip

from ltx2rt import embedded
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.conditioning import RegenerateTimeRange
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape, VideoScale, frames_shown
from ltx2rt.graph.diffusion.latent_state import VideoTarget
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.edited_clips import OwnClip, retake_of
from ltx2rt.graph.stages.inputs import SoundInput
from ltx2rt.graph.stages.kept_media import own_weight, with_new_samples
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.grid_fit import GridFit


def test_the_clips_own_share_falls_from_each_border_to_what_is_kept() -> None:
    inside = [round(own_weight(index, range(9, 17), 30), 3) for index in range(9, 17)]
    assert inside == [0.667, 0.333, 0, 0, 0, 0, 0.333, 0.667]
    # Nothing is kept beyond the ends of a clip.
    assert [own_weight(index, range(8), 30) for index in range(3)] == [0, 0, 0]
    assert [round(own_weight(index, range(22, 30), 30), 3) for index in (22, 23, 28, 29)] == [0.667, 0.333, 0, 0]
    # The first latent frame is a single picture, which stays new.
    assert own_weight(0, range(1), 30) == 0


def test_samples_outside_the_range_are_the_clips_own() -> None:
    rng = np.random.default_rng(0)
    own, new = (rng.uniform(-1, 1, (200, 2)).astype(np.float32) for _ in range(2))
    made = with_new_samples(own, new, range(50, 120), 10)
    np.testing.assert_array_equal(made[:50], own[:50])
    np.testing.assert_array_equal(made[120:], own[120:])
    np.testing.assert_array_equal(made[60:110], new[60:110])
    share = np.arange(10, 0, -1, dtype=np.float32)[:, None] / 11
    np.testing.assert_allclose(made[50:60], share * own[40:50][::-1] + (1 - share) * new[50:60], rtol=1e-6)
    np.testing.assert_allclose(
        made[110:120], share[::-1] * own[120:130][::-1] + (1 - share[::-1]) * new[110:120], rtol=1e-6
    )


@pytest.mark.parametrize("anew", [range(200), range(100, 100), range(3, 8), range(190, 200)])
def test_ranges_at_the_ends_and_shorter_than_a_blend(anew: range) -> None:
    own, new = np.zeros((200, 2), np.float32), np.ones((200, 2), np.float32)
    made = with_new_samples(own, new, anew, 10)
    outside = np.ones(200, bool)
    outside[anew.start : anew.stop] = False
    assert (made[outside] == 0).all()
    assert not len(anew) or made[list(anew)].mean() > 0.4
    if anew == range(200):
        assert (made == 1).all()


def test_a_clip_that_ends_at_the_border_goes_on_as_its_mirror_image() -> None:
    """The sound of `extend`: no jump where the old sound ends."""
    own = np.concatenate([np.full((100, 1), 0.5), np.zeros((100, 1))]).astype(np.float32)
    made = with_new_samples(own, np.full((200, 1), 0.25, np.float32), range(100, 200), 20)
    assert np.abs(np.diff(made[:, 0])).max() < 0.02


@pytest.mark.parametrize(
    ("start", "end", "shown"), [(0.9, 1.3, range(17, 33)), (0, 0.01, range(1)), (0.05, 0.06, range(1, 9))]
)
def test_latent_frames_and_the_frames_they_stand_for(start: float, end: float, shown: range) -> None:
    target = VideoTarget(VideoLatentShape(7, 2, 3), 24.0, VideoScale(8, 32, 32))
    inside = RegenerateTimeRange(start, end).inside(target)[0].reshape(7, 6)
    assert (inside.all(axis=1) == inside.any(axis=1)).all()
    latents = inside.any(axis=1).nonzero()[0]
    assert frames_shown(int(latents[0]), int(latents[-1]), target.scale) == shown


def own_clip(count: int, height: int = 64, width: int = 64) -> tuple[OwnClip, list[int]]:
    """A clip whose picture i is of the value i, and how often each of its pictures was read."""
    read: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for index in range(count):
            read.append(index)
            yield np.full((height, width, 3), index, np.uint8)

    sound = SoundInput(np.zeros((48000 * count // 24, 2), np.float32), 48000)
    fit = GridFit.of(height, width, 32, "pad", "clip")
    return OwnClip("clip", count, Fraction(24), pictures, fit, sound), read


def seen(media: Any) -> list[int]:
    """Which pictures the model is given."""
    return [int(picture[0, 0, 0]) for picture in media.source.frames.read()]


VAE = WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT)).config(VIDEO_VAE)


@pytest.mark.parametrize(
    ("count", "end", "kept_from", "given"),
    [
        (17, 0.4, "source", [*range(17)]),
        (20, 0.4, "source", [*range(17)]),  # three frames too many, which nothing touches
        (20, 0.8, "source", [*range(20), 19, 19, 19, 19, 19]),  # the range reaches them
        (20, 0.4, "vae", [*range(20), 19, 19, 19, 19, 19]),  # all that is shown has to be decoded
        (5, 0.1, "source", [*range(5), 4, 4, 4, 4]),
    ],
)
def test_which_frames_of_a_retake_the_model_sees(count: int, end: float, kept_from: str, given: list[int]) -> None:
    own, read = own_clip(count)
    media = retake_of(own, Settings(start_time=0.05, end_time=end, kept_from=kept_from), VAE)
    assert seen(media) == given
    assert media.source is not None
    assert media.source.frames.shape == (len(given), 64, 64, 3)
    assert media.source.edit.num_frames == count
    assert read == [*range(max(given) + 1)]  # one by one, and none twice


def test_sound_behind_the_pictures_is_said_to_be_left_out(tmp_path: Path) -> None:
    notes = []
    for seconds in (12 / 24 + 0.05, 12 / 24 + 1.5):
        clip = write_clip(tmp_path / "in.mov", greys(12), sounds=[tone(seconds)], sound_codec="pcm_s16le")
        notes.append(OwnClip.open(clip, Settings(), VAE).notes)
    assert notes[0] == ()
    assert notes[1] == (f"{clip}: its sound goes on for 1.50 s after the pictures, which is left out",)

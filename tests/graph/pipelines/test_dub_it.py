"""Dub-It: references of both stages, the voice before the clip, sound that is kept; and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ltx25_pack import write_lora, write_pack
from PIL import Image

from ltx2rt import api, embedded
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.graph.pipelines import refinement
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.events import AudioDecoded, Event, Noised, SoundEncoded, StepDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.types import Array

RATE = Fraction(30000, 1001)
SIZE: dict[str, Any] = {"height": 64, "width": 64}


def moving(frames: int) -> Array:
    clip = np.full((frames, 48, 48, 3), 40, np.uint8)
    for index in range(frames):
        clip[index, 8:24, 2 * index : 2 * index + 16] = (220, 60, 40)
    return clip


def write(path: Path, frames: int, sound: float) -> Path:
    """A clip with so many seconds of sound."""
    with VideoWriter(path, 48, 48, RATE, sample_rate=16000 if sound else None) as writer:
        writer.write(moving(frames))
        if sound:
            time = np.arange(round(sound * 16000)) / 16000
            writer.write_audio(np.repeat(0.4 * np.sin(2 * np.pi * 330 * time)[:, None], 2, axis=1).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 29.97 frames/s with 0.2 s of sound, half of that of the pictures."""
    return write(tmp_path_factory.mktemp("clip") / "speech.mov", 12, 0.2)


@pytest.fixture(scope="module")
def run(clip: Path) -> tuple[api.Clip, list[Event], list[Sampling]]:
    """A dubbed clip, its events, and how each stage sampled."""
    events: list[Event] = []
    samplings: list[Sampling] = []
    denoise = refinement.denoise

    def noted(run: Any, name: str, sampling: Sampling, *states: Any) -> Any:
        if not run.planning:
            samplings.append(sampling)
        return denoise(run, name, sampling, *states)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "denoise", noted)
        made = api.load("dub-it", dtype="float32")("a red square", reference_video=clip, observer=events.append, **SIZE)
    return made, events, samplings


def noised(events: list[Event], modality: str) -> list[Noised]:
    return [event for event in events if isinstance(event, Noised) and event.modality == modality]


def test_length_and_rate_are_those_of_the_clip(run: tuple[api.Clip, list[Event], list[Sampling]]) -> None:
    made, _, _ = run
    assert (made.num_frames, made.frame_rate, made.height, made.width) == (9, RATE, 64, 64)
    assert "num_frames" not in made.settings


def test_the_voice_lies_before_the_clip(run: tuple[api.Clip, list[Event], list[Sampling]]) -> None:
    _, events, _ = run
    first, second = noised(events, "audio")
    (encoded,) = [np.array(event.tokens) for event in events if isinstance(event, SoundEncoded)]
    tokens = round(9 / float(RATE) * 25)
    assert encoded.shape[1] < tokens < 9
    for event in (first, second):
        assert event.before.tokens == 2 * tokens
        assert (event.state.denoise_mask[:, tokens:] == 0).all()
        # 0, 10, 50, 90 ms ... of the published audio VAE, shifted to end at -40 ms.
        edges = np.array([0, *(0.01 + 0.04 * np.arange(tokens))])
        wanted = np.stack([edges[:-1], edges[1:]], axis=-1) - edges[-1] - 0.04
        np.testing.assert_allclose(event.before.positions[0, 0, tokens:], wanted, atol=1e-6)
        np.testing.assert_array_equal(event.before.positions[0, 0, 0], np.float32([0, 0.01]))
    # The whole track is encoded, and zeros stand for what it lacks.
    voice = first.state.latent[:, tokens:]
    np.testing.assert_array_equal(voice[:, : encoded.shape[1]], encoded)
    assert not voice[:, encoded.shape[1] :].any()
    assert (first.noise_scale, second.noise_scale) == (1.0, 0.0)
    assert (first.state.denoise_mask[:, :tokens] == 1).all()


def test_the_second_stage_keeps_and_hears_the_sound_of_the_first(
    run: tuple[api.Clip, list[Event], list[Sampling]],
) -> None:
    made, events, _ = run
    steps = [event for event in events if isinstance(event, StepDone)]
    tokens = noised(events, "audio")[0].before.tokens // 2
    (last,) = [event.audio for event in steps if event.stage == "denoise 1" and event.index == event.steps - 1]
    assert last is not None
    first_sound = last[:, :tokens]
    second = noised(events, "audio")[1]
    np.testing.assert_array_equal(second.state.latent[:, :tokens], first_sound)
    np.testing.assert_array_equal(second.state.latent[:, tokens:], first_sound)
    (decoded,) = [np.array(event.tokens) for event in events if isinstance(event, AudioDecoded)]
    np.testing.assert_array_equal(decoded, first_sound)
    assert made.audio is not None
    assert len(made.audio) > 0


def test_both_stages_see_the_clip_at_their_size_and_have_the_lora(
    run: tuple[api.Clip, list[Event], list[Sampling]],
) -> None:
    _, events, samplings = run
    for event, cells in zip(noised(events, "video"), (1, 4), strict=True):
        assert event.before.tokens == 2 * 2 * cells
        assert (event.state.denoise_mask[:, 2 * cells :] == 0).all()
        # As a reference of the same size and rate: the positions of the clip itself.
        own, reference = np.split(event.before.positions, 2, axis=2)
        np.testing.assert_array_equal(own, reference)
    assert [len(sampling.loras) for sampling in samplings] == [1, 1]
    assert [sampling.steps for sampling in samplings] == [8, 3]


@pytest.mark.slow
def test_key_frames_follow_the_reference(clip: Path, tmp_path: Path) -> None:
    pack = write_pack(tmp_path)
    lora = write_lora(tmp_path / "lora.safetensors", reference_downscale_factor="1")
    events: list[Event] = []
    api.load("dub-it", **pack, loras=[lora])(
        "a dog", reference_video=clip, num_generated_keyframes=1, latents_only=True, observer=events.append, **SIZE
    )
    for event, cells in zip(noised(events, "video"), (1, 4), strict=True):
        slots = event.state.keyframe_slots
        assert slots is not None
        assert slots.pixel_frames == (4,)
        assert (slots.first_token, slots.stop_token) == (4 * cells, 5 * cells)


def prepared(clip: Path, loras: list[Path] | None = None, **settings: Any) -> GenerationInputs:
    pipeline = api.load("dub-it", loras=loras or [])
    asked = {"prompt": "a dog", "reference_video": clip, **SIZE, **settings}
    return pipeline._prepare(asked, pipeline._files)[0]


def test_a_plan_has_the_stages_of_the_run(run: tuple[api.Clip, list[Event], list[Sampling]], clip: Path) -> None:
    made, _, _ = run
    planned, _ = api.load("dub-it", dtype="float32").plan("a red square", reference_video=clip, **SIZE)
    assert [stage.need.name for stage in planned.stages] == [*(stage.name for stage in made.report), "video decoder"]


def test_the_strength_reaches_the_reference(clip: Path) -> None:
    assert prepared(clip).media.references[0].strength == 1.0
    assert prepared(clip, reference_strength=0.25).media.references[0].strength == 0.25


def test_what_is_cut_of_a_clip_is_said(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prepared(clip).num_frames == 9
    assert "speech.mov has 12 frames, of which the first 9 are dubbed (8*k + 1)" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "picture", "exr", "silent", "missing"])
def test_clips_that_cannot_be_dubbed(kind: str, tmp_path: Path) -> None:
    path = {"folder": tmp_path, "picture": tmp_path / "a.png", "exr": tmp_path / "a.exr"}.get(kind, tmp_path / "a.mp4")
    if kind == "picture":
        Image.new("RGB", (64, 64)).save(path)
    if kind == "silent":
        write(path, 9, 0)
    said = {"silent": "no audio stream found in", "missing": "cannot"}.get(
        kind, "must be a video file with an audio track"
    )
    with pytest.raises((UsageError, MediaError), match=said):
        prepared(path)


def test_what_cannot_work(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs exactly one LoRA, that of Dub-It, got 2; give it with loras"):
        prepared(clip, [embedded.IC_LORA, embedded.DISTILLED_LORA])
    with pytest.raises(UsageError, match="there is no clip to dub; give reference_video=FILE"):
        prepared(clip, reference_video=None)
    with pytest.raises(UsageError, match=r"reference_strength must be 0 to 1, got 1\.5"):
        prepared(clip, reference_strength=1.5)
    with pytest.raises(UsageError, match="height must be a multiple of 64, got 96"):
        prepared(clip, height=96)
    with pytest.raises(
        UsageError, match=r"takes references at 1/2 of the size of each stage: .* multiples of 128, got 64x64"
    ):
        prepared(clip, reference_downscale_factor=2)
    for name, value in {"num_frames": 9, "frame_rate": 24, "images": ["a.png"], "num_inference_steps": 4}.items():
        with pytest.raises(UsageError, match=name):
            prepared(clip, **{name: value})


@pytest.mark.slow
def test_windows_have_their_part_of_pictures_and_voice(tmp_path: Path) -> None:
    clip = write(tmp_path / "long.mov", 34, 1.0)
    events: list[Event] = []
    made = api.load("dub-it", dtype="float32")(
        "a red square",
        reference_video=clip,
        chunk_pixel_frames=25,
        chunk_blend_frames=0,
        chunk_carry_frames=17,
        state_folder=tmp_path / "state",
        observer=events.append,
        **SIZE,
    )
    assert made.num_frames == 33
    assert np.concatenate(list(made.frames)).shape == (33, 64, 64, 3)
    (track,) = [np.array(event.tokens) for event in events if isinstance(event, SoundEncoded)]
    videos, sounds = noised(events, "video"), noised(events, "audio")
    assert [len(videos), len(sounds)] == [4, 4]
    lengths = [round(25 / float(RATE) * 25)] * 2
    starts = [0, round(8 / float(RATE) * 25)]
    for window, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        first, second = sounds[2 * window : 2 * window + 2]
        wanted = np.zeros((1, length, 128), np.float32)
        part = track[:, start : start + length]
        wanted[:, : part.shape[1]] = part
        np.testing.assert_array_equal(first.state.latent[:, length:], wanted)
        np.testing.assert_array_equal(second.state.latent[:, :length], second.state.latent[:, length:])
        assert first.before.positions[0, 0, length:].max() == pytest.approx(-0.04, abs=1e-6)
    # The second window has four cells; of its reference, three reach into what it has from the first one.
    for event, cells in zip(videos, (1, 4, 1, 4), strict=True):
        tokens = 4 * cells
        own, reference = event.before.positions[:, :, :tokens], event.before.positions[:, :, tokens:]
        skipped = 0 if event in videos[:2] else 3 * cells
        np.testing.assert_array_equal(reference, own[:, :, skipped:])
        carried = (event.state.denoise_mask[0, :tokens] == 0).sum()
        assert carried == (0 if event in videos[:2] else 3 * cells)

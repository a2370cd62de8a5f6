"""Audio-to-video: how long the clip is, which sound drives it in both stages, and which sound it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt import api
from ltx2rt.errors import UsageError
from ltx2rt.graph.stages.events import Event, Noised, SoundEncoded
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.media.pcm import write_wav

RATE = 16000
SIZE: dict[str, Any] = {"height": 64, "width": 64}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of a tone."""
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    time = np.arange(RATE) / RATE
    write_wav(path, np.repeat(0.5 * np.sin(2 * np.pi * 440 * time)[:, None], 2, axis=1).astype(np.float32), RATE)
    return path


def prepared(sound: Path, **settings: Any) -> GenerationInputs:
    pipeline = api.load("audio-to-video")
    return pipeline._prepare({"prompt": "a dog", "audio_path": sound, **SIZE, **settings}, pipeline._files)[0]


@pytest.mark.parametrize(
    ("settings", "frames", "samples"),
    [
        ({}, 25, RATE),  # the embedded model's own length, of which the sound covers a part
        pytest.param({"num_frames": 17}, 17, round(17 / 24 * RATE), marks=pytest.mark.slow),
        ({"num_frames": None}, 17, RATE),  # 24 frames, rounded down
        ({"num_frames": None, "audio_start_time": 0.5}, 9, RATE // 2),
        ({"num_frames": None, "frame_rate": 48}, 41, RATE),
        pytest.param({"num_frames": None, "duration": 1}, 25, RATE, marks=pytest.mark.slow),
        ({"audio_max_duration": 0.4}, 9, round(0.4 * RATE)),
        pytest.param({"audio_max_duration": 5.0}, 17, RATE, marks=pytest.mark.slow),
        ({"audio_max_duration": 0.01}, 1, round(0.01 * RATE)),
        ({"audio_start_time": 0.75, "num_frames": 9}, 9, round(0.25 * RATE)),
    ],
)
def test_lengths(settings: dict[str, Any], frames: int, samples: int, sound: Path) -> None:
    inputs = prepared(sound, **settings)
    assert inputs.num_frames == frames
    assert inputs.media.sound is not None
    assert len(inputs.media.sound.waveform) == samples


def test_no_clip_is_longer_than_1024_frames(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    write_wav(path, np.zeros((60 * 1000, 2), np.float32), 1000)
    inputs = prepared(path, num_frames=None)
    assert inputs.num_frames == 1017  # 1024, rounded down
    assert inputs.media.sound is not None
    assert len(inputs.media.sound.waveform) == round(1024 / 24 * 1000)


def test_a_record_of_all_the_sound_repeats_it(sound: Path) -> None:
    pipeline = api.load("audio-to-video")
    record = pipeline.record_for("a dog", audio_path=sound, num_frames=None, **SIZE)
    stored = {name: record.settings[name] for name in ("audio_max_duration", "audio_path", "height", "width")}
    assert "num_frames" not in record.settings
    assert pipeline._prepare({"prompt": "a dog", **stored}, pipeline._files)[0].num_frames == 17


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_frames": 9, "audio_max_duration": 1.0}, "num_frames and audio_max_duration contradict each other"),
        ({"duration": 1.0, "audio_max_duration": 1.0}, "duration and audio_max_duration both say how long"),
        ({"audio_start_time": -1.0}, "audio start time must be 0 or more, got -1"),
        ({"audio_max_duration": 0.0}, r"audio duration must be positive, got 0\.0"),
        ({"audio_path": None}, "there is no sound to make pictures for; give audio_path=FILE"),
        ({"num_frames": 12}, r"num_frames must be 8\*k \+ 1, got 12"),
        ({"audio_cfg_guidance_scale": 3.0}, "audio_cfg_guidance_scale has no meaning"),
    ],
)
def test_what_cannot_work(settings: dict[str, Any], said: str, sound: Path) -> None:
    with pytest.raises(UsageError, match=said):
        prepared(sound, **settings)


def test_the_sound_is_kept_in_both_stages_and_filled_with_zeros(sound: Path) -> None:
    events: list[Event] = []
    clip = api.load("audio-to-video", dtype="float32")(
        "a dog",
        audio_path=sound,
        audio_start_time=0.8,
        num_frames=17,
        num_inference_steps=2,
        observer=events.append,
        **SIZE,
    )
    (encoded,) = [np.array(event.tokens) for event in events if isinstance(event, SoundEncoded)]
    states = [event for event in events if isinstance(event, Noised) and event.modality == "audio"]
    assert len(states) == 2
    for event in states:
        assert event.noise_scale == 0
        assert event.state.tokens == round(17 / 24 * 25)
        known = encoded.shape[1]
        np.testing.assert_array_equal(event.state.latent[:, :known], encoded)
        assert known < event.state.tokens
        assert not event.state.latent[:, known:].any()
    # The samples of the file, which ends before the pictures do.
    assert clip.audio is not None
    assert len(clip.audio) == round(0.2 * RATE)


def test_what_goes_beyond_the_last_frame_is_encoded_and_not_heard(sound: Path) -> None:
    events: list[Event] = []
    clip = api.load("audio-to-video", dtype="float32")(
        "a dog", audio_path=sound, audio_max_duration=0.5, num_inference_steps=1, observer=events.append, **SIZE
    )
    assert clip.num_frames == 9  # 12 frames, rounded down
    (encoded,) = [np.array(event.tokens) for event in events if isinstance(event, SoundEncoded)]
    assert encoded.shape[1] == 13  # of 0.5 s
    (first, _) = [event.state for event in events if isinstance(event, Noised) and event.modality == "audio"]
    np.testing.assert_array_equal(first.latent, encoded[:, : round(9 / 24 * 25)])
    assert clip.audio is not None
    assert len(clip.audio) == round(9 / 24 * RATE)

"""The length that LTX-2.5 predicts from the prompt: what becomes of it, and where it is not predicted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ltx25_pack import write_duration_head, write_pack
from PIL import Image

from ltx2rt import api
from ltx2rt.errors import Cancelled, MemoryBudgetError, UsageError
from ltx2rt.graph.models.text.duration_head import DurationHeadConfig
from ltx2rt.graph.stages.events import Event, LengthPredicted, StageRestored, StepDone
from ltx2rt.graph.stages.inputs import DurationRange

SMALL: dict[str, Any] = {"height": 64, "width": 64, "seed": 3}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def dev_pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pack(tmp_path_factory.mktemp("dev"), "dev")


@pytest.mark.parametrize(
    ("seconds", "rate", "shortest", "longest", "frames"),
    [
        (5.0, 24, 1, 20, 113),  # 120 rounded down
        (5.05, 24, 1, 20, 121),
        (0.2, 24, 1, 20, 25),  # 24 would be 17: too short
        (1.0, 25, 1, 20, 25),
        (99.0, 24, 1, 20, 473),
        (3.0, 24, 2, 2, 49),
        (0.001, 24, 0.001, 1, 1),
        (2.0, Fraction(30000, 1001), 1, 20, 57),
        (5.0, 24, 4.9, 5.0, 121),  # 113 is below 117.6
    ],
)
def test_frames(seconds: float, rate: Any, shortest: float, longest: float, frames: int) -> None:
    assert DurationRange(shortest, longest, 8).frames(seconds, Fraction(rate)) == frames


def predicted(pipeline: api.Pipeline, **settings: Any) -> tuple[api.Clip, list[LengthPredicted]]:
    events: list[Event] = []
    clip = pipeline("a dog", observer=events.append, latents_only=True, **SMALL, **settings)
    return clip, [event for event in events if isinstance(event, LengthPredicted)]


def test_a_length_that_is_left_out(pack: dict[str, Path]) -> None:
    clip, (event,) = predicted(api.load("distilled", **pack))
    assert event.seconds == pytest.approx(0.7, rel=1e-2)
    assert clip.num_frames == event.frames == 25
    assert clip.audio_latent is not None
    assert clip.audio_latent.shape[1] == 26  # 25 / 24 s
    assert clip.settings["auto_duration"] == [1.0, 20.0]
    assert "num_frames" not in clip.settings


def test_a_range(pack: dict[str, Path]) -> None:
    clip, _ = predicted(api.load("distilled", **pack), auto_duration=(0.1, 0.5))
    assert clip.num_frames == 9
    # The same clip as with that length from the start.
    told, events = predicted(api.load("distilled", **pack), num_frames=9)
    assert not events
    assert clip.video_latent is not None
    assert told.video_latent is not None
    np.testing.assert_array_equal(clip.video_latent, told.video_latent)


@pytest.mark.parametrize("name", [pytest.param("one-stage", marks=pytest.mark.slow), "text-to-audio"])
def test_guided_pipelines(dev_pack: dict[str, Path], name: str) -> None:
    settings: dict[str, Any] = {"auto_duration": (0.1, 0.5), "num_inference_steps": 1}
    pipeline = api.load(name, **dev_pack)
    size: dict[str, Any] = SMALL if name == "one-stage" else {"seed": 3}
    clip = pipeline("a dog", negative_prompt="blurry", latents_only=True, **size, **settings)
    told = pipeline("a dog", negative_prompt="blurry", latents_only=True, num_inference_steps=1, num_frames=9, **size)
    assert clip.audio_latent is not None
    assert told.audio_latent is not None
    np.testing.assert_array_equal(clip.audio_latent, told.audio_latent)


def test_a_number_of_frames_wins(pack: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    record = api.load("distilled", **pack).record_for("a dog", num_frames=9, auto_duration=(1, 2), **SMALL)
    assert record.settings["num_frames"] == 9
    assert "auto_duration" not in record.settings
    assert "auto_duration has no effect: num_frames says how long the clip is" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auto_duration": (8, 2)}, r"the shortest clip comes first, got 8 s and 2 s; exchange them"),
        ({"auto_duration": (8, 2), "num_frames": 9}, r"the shortest clip comes first"),
        ({"auto_duration": (0, 2)}, r"auto_duration must be two numbers of seconds above 0, the shortest first"),
        ({"auto_duration": (1,)}, r"auto_duration must be two numbers"),
        ({"auto_duration": 4}, r"auto_duration must be two numbers"),
        ({"auto_duration": (1, 2), "zero_text": True}, r"zero_text stands in its place; give num_frames"),
        ({"auto_duration": (1, 2), "latents": np.zeros((1, 2, 1, 1, 128))}, r"latents are for one length"),
    ],
)
def test_ranges_that_cannot_work(pack: dict[str, Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.load("distilled", **pack).record_for("a dog", **SMALL, **settings)


def test_without_a_head_the_usual_number_of_frames_is_taken(pack: dict[str, Path], tmp_path: Path) -> None:
    without = {name: path for name, path in pack.items() if name != "duration_head"}
    pipeline = api.load("distilled", **without)
    assert pipeline.record_for("a dog", **SMALL).settings["num_frames"] == 121
    with pytest.raises(UsageError, match=r"duration head, which duration_head=FILE names, is missing; give num_frames"):
        pipeline.record_for("a dog", auto_duration=(1, 2), **SMALL)


def test_other_generations_predict_nothing() -> None:
    pipeline = api.load("distilled")
    assert pipeline.record_for("a dog", **SMALL).settings["num_frames"] == 25
    with pytest.raises(UsageError, match=r"LTX-2\.5 alone predicts the length, and this model is of 19b; give num_fr"):
        pipeline.record_for("a dog", auto_duration=(1, 2), **SMALL)


def test_pipelines_that_take_their_length_from_elsewhere(pack: dict[str, Path]) -> None:
    pipeline = api.load("keyframe-interpolation", **pack)
    with pytest.raises(UsageError, match="auto_duration has no meaning for the pipeline keyframe-interpolation"):
        pipeline.record_for("a dog", auto_duration=(1, 2), **SMALL)


def test_an_image_behind_the_end(pack: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    image = api.ImageInput(Image.new("RGB", (64, 64)), frame_index=40)
    with pytest.raises(UsageError, match=r"image frame index must be 0 to 24 for this clip, got 40"):
        predicted(api.load("distilled", **pack), images=[image])
    with pytest.raises(UsageError, match=r"image frame index must be 0 to 24 for this clip, got 40"):
        api.load("distilled", **pack).record_for("a dog", images=[image], auto_duration=(1, 1), **SMALL)


def test_the_plan_is_for_the_longest(pack: dict[str, Path]) -> None:
    pipeline = api.load("distilled", **pack)
    plan, told = pipeline.plan("a dog", auto_duration=(0.5, 1), **SMALL)
    assert [stage.need.name for stage in plan.stages][2:5] == ["connectors", "duration head", "denoise 1"]
    assert told == ["length: 17 frames, the longest that may be predicted; num_frames=N plans another"]
    same, _ = pipeline.plan("a dog", num_frames=17, **SMALL)
    peaks = {stage.need.name: stage.need.total for stage in plan.stages}
    assert all(abs(peaks[stage.need.name] / stage.need.total - 1) < 0.01 for stage in same.stages)


def test_what_cannot_fit_even_at_its_shortest_is_refused_at_once(
    pack: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx2rt.memory.ledger._process_bytes", lambda: 100_000_000)
    events: list[Event] = []
    with pytest.raises(MemoryBudgetError):
        api.load("distilled", **pack)("a dog", observer=events.append, memory=103_000_000, latents_only=True, **SMALL)
    assert not events


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_length(pack: dict[str, Path], tmp_path: Path) -> None:
    pipeline = api.load("distilled", **pack)
    expected, _ = predicted(pipeline)

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline("a dog", observer=stop, state_folder=tmp_path / "state", latents_only=True, **SMALL)
    events: list[Event] = []
    clip = pipeline(
        "a dog",
        observer=events.append,
        state_folder=tmp_path / "state",
        resume=True,
        latents_only=True,
        **SMALL,
    )
    assert clip.video_latent is not None
    assert expected.video_latent is not None
    np.testing.assert_array_equal(clip.video_latent, expected.video_latent)
    restored = [event for event in events if isinstance(event, (StageRestored, LengthPredicted))]
    assert any(isinstance(event, LengthPredicted) for event in restored)
    assert clip.report[0].name == "denoise 1"


@pytest.mark.slow
def test_an_embedding_has_a_length_as_well(pack: dict[str, Path]) -> None:
    embedding = api.encode(
        "a dog",
        transformer=pack["transformer"],
        text_encoder=pack["text_encoder"],
    )
    pipeline = api.load("distilled", **{name: path for name, path in pack.items() if name != "text_encoder"})
    clip = pipeline(embedding=embedding, latents_only=True, **SMALL)
    assert clip.num_frames == 25


def test_a_head_of_another_model(pack: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = write_duration_head(tmp_path, config=DurationHeadConfig(32, 16, 16, 8))
    pipeline = api.load("distilled", **{**pack, "duration_head": head})
    with pytest.raises(UsageError, match=r"reads contexts of 32 and 16 channels, this model has 64 and 32"):
        pipeline.record_for("a dog", auto_duration=(1, 2), **SMALL)
    caplog.clear()
    assert pipeline.record_for("a dog", **SMALL).settings["num_frames"] == 121
    assert "the length is not predicted: the duration head ltx-2.5-duration-head-bf16.safetensors reads" in caplog.text
    caplog.clear()
    pipeline.record_for("a dog", num_frames=9, **SMALL)
    assert not caplog.text

"""Key frames that LTX-2.5 generates besides the clip: where they stand, both stages, and what refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ltx25_pack import write_diffusion_vae, write_pack

from ltx2rt import api
from ltx2rt.errors import Cancelled, CheckpointError, UsageError
from ltx2rt.graph.stages.events import Event, LatentUpscaled, Noised, StepDone

SMALL: dict[str, Any] = {"height": 64, "width": 128, "num_frames": 17, "seed": 3, "latents_only": True}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pack(tmp_path_factory.mktemp("pack"))


def video_states(pipeline: api.Pipeline, **settings: Any) -> tuple[list[Noised], list[Event]]:
    events: list[Event] = []
    pipeline("a dog", observer=events.append, **SMALL, **settings)
    return [event for event in events if isinstance(event, Noised) and event.modality == "video"], events


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        *((1, (8,)), (2, (5, 11)), ([11, 4, 11], (4, 11)), (0, ())),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (([0, 16], (0, 16)), ((8,), (8,)), ([], ()))),
    ],
)
def test_places(pack: dict[str, Path], asked: object, places: tuple[int, ...]) -> None:
    pipeline = api.load("distilled", **pack)
    inputs, record = pipeline._prepare({"prompt": "a dog", **SMALL, "num_generated_keyframes": asked}, pipeline._files)
    assert inputs.keyframe_positions == places
    # A record asks for the same.
    stored = {"num_generated_keyframes": record.settings.get("num_generated_keyframes", 0)}
    again, _ = pipeline._prepare({"prompt": "a dog", **SMALL, **stored}, pipeline._files)
    assert again.keyframe_positions == places


def test_both_stages_have_slots_and_the_second_starts_from_the_enlarged_ones(pack: dict[str, Path]) -> None:
    states, events = video_states(api.load("distilled", **pack), num_generated_keyframes=[4, 11])
    assert [event.state.keyframe_slots.pixel_frames for event in states if event.state.keyframe_slots] == [(4, 11)] * 2
    first, second = (event.before for event in states)
    assert (first.tokens, second.tokens) == (3 * 2 + 2 * 2, 3 * 8 + 2 * 8)
    assert not first.latent[:, 6:].any()
    assert second.latent[:, 24:].any()
    # The key frames go through the upscaler as a clip of their own.
    assert [event.after.shape[1:4] for event in events if isinstance(event, LatentUpscaled)] == [(3, 2, 4), (2, 2, 4)]
    marks = second.keyframes_mask
    assert marks is not None
    np.testing.assert_array_equal(marks[0], [1] * 8 + [0] * 16 + [1] * 16)
    # The noise level of the slots is that of the video.
    assert (second.denoise_mask == 1).all()


@pytest.mark.slow
def test_an_interrupted_run_goes_on(pack: dict[str, Path], tmp_path: Path) -> None:
    pipeline = api.load("distilled", **pack)
    settings: dict[str, Any] = {**SMALL, "num_generated_keyframes": 2}
    expected = pipeline("a dog", **settings)
    steps: list[StepDone] = []

    def stop(event: Event) -> None:
        steps.extend([event] if isinstance(event, StepDone) else [])
        if len(steps) == 9:  # in the second stage
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline("a dog", observer=stop, state_folder=tmp_path / "state", **settings)
    clip = pipeline("a dog", state_folder=tmp_path / "state", resume=True, **settings)
    assert [stage.name for stage in clip.report] == ["denoise 2"]
    np.testing.assert_array_equal(clip.video_latent, expected.video_latent)


def test_slots_change_the_clip(pack: dict[str, Path]) -> None:
    pipeline = api.load("distilled", **pack)
    plain, _ = video_states(pipeline)
    with_slots, events = video_states(pipeline, num_generated_keyframes=1)
    assert plain[0].state.keyframe_slots is None
    assert with_slots[1].before.tokens == plain[1].before.tokens + 8
    assert sum(isinstance(event, StepDone) for event in events) == 8 + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode_with_keyframes": True}, r"decode_with_keyframes needs key frames to look at; give num_generated_key"),
        ({"decode_with_keyframes": True, "num_generated_keyframes": []}, "decode_with_keyframes needs key frames"),
        ({"num_generated_keyframes": [4, 17]}, r"frame 17 is outside the clip of 17 frames; use 0 to 16"),
        ({"num_generated_keyframes": 16}, "16 between the first and the last frame need at least 18 frames"),
        ({"num_generated_keyframes": -1}, r"num_generated_keyframes must be how many key frames, 0 or more, or a list"),
        ({"num_generated_keyframes": [-1]}, "num_generated_keyframes must be"),
        ({"num_generated_keyframes": 1.5}, "num_generated_keyframes must be"),
        ({"num_generated_keyframes": True}, "num_generated_keyframes must be"),
        (
            {"num_generated_keyframes": 1, "decode_with_keyframes": True, "upscale_spatial": True},
            r"upscale_spatial changes the latent that decode_with_keyframes decodes",
        ),
    ],
)
def test_what_cannot_work(pack: dict[str, Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.load("distilled", **pack).record_for("a dog", **SMALL, **settings)


def test_models_of_other_generations_have_none() -> None:
    for name in ("distilled", "one-stage", "two-stage", "two-stage-hq"):
        pipeline = api.load(name, model_variant=None if name == "distilled" else "dev")
        with pytest.raises(UsageError, match=r"\(19b\) was not made to generate key frames, only LTX-2\.5 was"):
            pipeline.record_for("a dog", **SMALL, num_generated_keyframes=1)


def test_pipelines_without_slots() -> None:
    with pytest.raises(UsageError, match="no meaning for the pipeline keyframe-interpolation"):
        api.load("keyframe-interpolation").record_for("a dog", **SMALL, num_generated_keyframes=1)


def test_a_convolutional_decoder_does_not_look_at_them(pack: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"num_generated_keyframes": 1, "decode_with_keyframes": True}
    api.load("distilled", **pack).record_for("a dog", **SMALL, **settings)
    assert "its convolutional decoder does not look at key frames; decode_with_keyframes has no effect" in caplog.text


def test_latents_alone_are_not_decoded_with_them(pack: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {**SMALL, "num_generated_keyframes": 1, "decode_with_keyframes": True}
    api.load("distilled", **pack).record_for("a dog", **{**settings, "latents_only": False})
    assert "decodes nothing" not in caplog.text
    api.load("distilled", **pack).record_for("a dog", **{**settings, "latents_only": True})
    assert "decode_with_keyframes has no effect: latents_only decodes nothing" in caplog.text


@pytest.mark.parametrize(("mark", "lacking"), [(None, "is missing"), (0.0, "is zero")])
def test_a_decoder_that_was_not_trained_to_look_at_them(
    mark: float | None, lacking: str, pack: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = api.load("distilled", **{**pack, "video_vae": write_diffusion_vae(tmp_path, mark=mark)})
    settings: dict[str, Any] = {**SMALL, "num_generated_keyframes": 1}
    pipeline.record_for("a dog", **settings)
    with pytest.raises(CheckpointError, match=rf"decoder\.type_emb {lacking}: .* \(the official code goes on"):
        pipeline.record_for("a dog", decode_with_keyframes=True, **settings)


def test_a_diffusion_decoder_looks_at_them(pack: dict[str, Path], tmp_path: Path) -> None:
    pipeline = api.load("distilled", **{**pack, "video_vae": write_diffusion_vae(tmp_path)})
    settings: dict[str, Any] = {**SMALL, "num_generated_keyframes": [4, 11], "latents_only": False}
    blind, seeing = (pipeline("a dog", decode_with_keyframes=looks, **settings) for looks in (False, True))
    np.testing.assert_array_equal(blind.video_latent, seeing.video_latent)
    frames = [np.concatenate(list(clip.frames)) for clip in (blind, seeing)]
    assert frames[0].shape == (17, 64, 128, 3)
    assert np.abs(frames[0] - frames[1]).max() > 1e-3

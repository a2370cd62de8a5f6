"""Alpha-gen: one stage without sound, references behind the images, its own defaults; and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ltx25_pack import write_lora, write_pack

from ltx2rt import api, embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.models.text.duration_head import DurationHead
from ltx2rt.graph.stages.events import AudioDecoded, Evaluated, Event, LengthPredicted, Noised
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text import stage as text
from ltx2rt.types import Array

SIZE: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture
def reference() -> Array:
    frames = np.full((9, 64, 64, 3), 30, np.uint8)
    frames[:, 20:40, 20:40] = 200
    return frames


def test_a_silent_clip_of_one_stage(reference: Array, tmp_path: Path) -> None:
    events: list[Event] = []
    picture = np.full((64, 64, 3), 90, np.uint8)
    settings = {"video_conditioning": [api.VideoInput(reference, 0.75)], "images": [api.ImageInput(picture, 8)]}
    clip = api.load("alpha-gen", dtype="float32")("", observer=events.append, **settings, **SIZE)
    assert clip.audio is None
    assert clip.audio_latent is None
    assert [stage.name for stage in clip.report][-3:] == ["image encoder", "reference encoder", "denoise"]
    (start,) = [event for event in events if isinstance(event, Noised)]
    assert (start.modality, start.noise_scale) == ("video", 1.0)
    # The clip's 8 tokens, the image's 4, the reference's 8.
    np.testing.assert_array_equal(start.state.denoise_mask[0], [1] * 8 + [0] * 4 + [0.25] * 8)
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert len(evaluations) == 2
    assert all(event.audio is None and event.audio_denoised is None for event in evaluations)
    assert not any(isinstance(event, AudioDecoded) for event in events)
    clip.save(tmp_path / "matte.mp4")
    with pytest.raises(UsageError, match=r"must end in \.mp4"):
        clip.save(tmp_path / "matte.wav")


def test_defaults() -> None:
    pipeline = api.load("alpha-gen")
    reference = np.zeros((9, 64, 64, 3), np.uint8)
    inputs, record = pipeline._prepare({"prompt": "", "video_conditioning": [reference]}, pipeline._files)
    guider = inputs.video_guider
    assert (guider.cfg_scale, guider.stg_scale, guider.rescale_scale, guider.modality_scale) == (1, 0, 0.7, 1)
    assert record.settings["negative_prompt"] == "worst quality, inconsistent motion, blurry, jittery, distorted"
    assert api.load("one-stage", model_variant="dev").defaults.negative_prompt != record.settings["negative_prompt"]


@pytest.mark.slow
def test_guidance_needs_the_negative_prompt_alone_where_it_is_on(
    reference: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[list[str]] = []
    encode = text.encode_prompts

    def noted(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
        if not run.planning:
            encoded.append([*prompts])
        return encode(run, prompts)

    monkeypatch.setattr(text, "encode_prompts", noted)
    pipeline = api.load("alpha-gen")
    latents = [
        pipeline("a dog", video_conditioning=[reference], latents_only=True, **SIZE, **more).video_latent
        for more in ({}, {"video_rescale_scale": 0.0}, {"video_cfg_guidance_scale": 3.0, "negative_prompt": "cats"})
    ]
    assert encoded == [["a dog"], ["a dog"], ["a dog", "cats"]]
    # Without guidance there is nothing to rescale.
    np.testing.assert_allclose(latents[0], latents[1], atol=2e-2)
    assert np.abs(latents[0] - latents[2]).max() > 0.05


def test_the_length_is_predicted_from_the_context_of_the_video(
    reference: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = write_pack(tmp_path, "dev")
    lora = write_lora(tmp_path / "lora.safetensors", reference_downscale_factor="1")
    pack["loras"] = [lora]  # type: ignore[assignment]  # the others are paths
    read: list[int] = []
    call = DurationHead.__call__
    monkeypatch.setattr(
        DurationHead, "__call__", lambda self, *streams: read.append(len(streams)) or call(self, *streams)
    )
    events: list[Event] = []
    settings = {**SIZE, "num_frames": None, "auto_duration": (0.1, 0.4), "latents_only": True}
    for name in ("alpha-gen", "one-stage"):
        more = {"video_conditioning": [reference]} if name == "alpha-gen" else {}
        api.load(name, **pack)("a dog", observer=events.append, **settings, **more)
    assert read == [1, 2]
    assert [event.frames for event in events if isinstance(event, LengthPredicted)] == [9, 9]


def asked(reference: Array, **settings: Any) -> None:
    load = {name: settings.pop(name) for name in ("checkpoint", "text_encoder", "loras") if name in settings}
    values = {"video_conditioning": [reference], **SIZE, **settings}
    api.load("alpha-gen", **load).record_for("a dog", **values)


def test_what_cannot_work(reference: Array, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="alpha-gen needs at least one reference video; give video_conditioning=FILE"):
        asked(reference, video_conditioning=[])
    for variant, said in (
        ("dev", "alpha-gen needs its IC-LoRA; give loras"),
        ("distilled", "runs on a dev checkpoint"),
    ):
        checkpoint = tmp_path / f"ltx-2-19b-{variant}.safetensors"
        checkpoint.symlink_to(embedded.CHECKPOINT)
        with pytest.raises(UsageError, match=said):
            asked(reference, checkpoint=checkpoint, text_encoder=embedded.TEXT_ENCODER)
    with pytest.raises(UsageError, match="height must be a multiple of 32, got 80"):
        asked(reference, height=80)
    with pytest.raises(UsageError, match=r"num_frames must be 8\*k \+ 1, got 12"):
        asked(reference, num_frames=12)
    for name, value in {
        "audio_cfg_guidance_scale": 3.0,
        "num_generated_keyframes": 1,
        "control_type": "canny",
        "skip_stage_2": True,
    }.items():
        with pytest.raises(UsageError, match=f"{name} has no meaning for the pipeline alpha-gen"):
            asked(reference, **{name: value})
    asked(reference)
    assert "described for up to" not in caplog.text
    asked(reference, num_frames=153)
    assert (
        "alpha-gen is described for up to 1920x1088 pixels and 145 frames; this clip is 64x64 with 153" in caplog.text
    )

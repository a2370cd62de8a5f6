"""Settings: names, stored forms, JSON values, meaning per pipeline; and what `load` refuses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

import ltx2rt
from ltx2rt import api, embedded
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.setting import settings_of
from ltx2rt.graph.settings.settings import Settings


def test_values_are_stored_in_one_form() -> None:
    settings = Settings.of({"embedding": "a.npz", "video_stg_blocks": [1, 2], "images": [api.ImageInput("b.png")]})
    assert settings.embedding == Path("a.npz")
    assert settings.video_stg_blocks == (1, 2)
    assert settings.images == (api.ImageInput(Path("b.png")),)
    assert Settings.of({"seed": None}) == Settings()


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown setting .sed.; did you mean seed\?"):
        Settings.of({"sed": 1})
    with pytest.raises(UsageError, match="unknown setting 'xyz'; the settings are prompt, prompt_file"):
        Settings.of({"xyz": 1})


def test_json_values() -> None:
    settings = Settings.of(
        {
            "prompt": "x",
            "frame_rate": Fraction(24000, 1001),
            "images": [api.ImageInput("/b.png", 8, 0.5, 20)],
            "tiling": Tiling.of(spatial=(512, 64), temporal=(64, 24)),
            "embedding": Path("a.npz"),
        }
    )
    values = settings.as_dict(PIPELINES["distilled"].topics)
    assert values["frame_rate"] == "24000/1001"
    assert values["images"] == [["/b.png", 8, 0.5, 20]]
    assert values["tiling"] == "512/64,64/24"
    assert values["embedding"] == str(Path.cwd() / "a.npz")
    assert "video_path" not in values
    assert "max_batch_size" not in values


def test_every_topic_belongs_to_settings_and_is_taken_by_a_pipeline() -> None:
    of_settings = {said.topic for _, said in settings_of(Settings).values() if said.topic}
    taken = {topic for entry in PIPELINES.values() for topic in entry.topics}
    assert of_settings == taken


def test_a_setting_without_meaning_is_refused() -> None:
    with pytest.raises(UsageError, match="audio_path has no meaning for the pipeline distilled"):
        api.load("distilled").record_for("x", audio_path="a.wav")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": "256"}, "height must be a whole number, 32 or more, got '256'"),
        ({"prompt": ["a", "b"]}, r"prompt must be a text, got \['a', 'b'\]"),
        ({"seed": 1.5}, "seed must be a whole number, or random, got 1.5"),
        ({"images": [3]}, r"images must be a list of images: .*, got \[3\]"),
        ({"zero_text": 1}, "zero_text must be True or False, got 1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, got 0"),
        ({"control_type": "cany"}, "got 'cany'; did you mean canny"),
        ({"frame_rate": 0}, "frame rate must be positive, got 0"),
        ({"video_stg_blocks": 3}, "video_stg_blocks must be a list of block numbers, got 3"),
        ({"tiling": "512"}, "tiling must be auto, none or like 512/64,64/24"),
    ],
)
def test_values_of_another_kind_are_refused_in_one_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings.of(values)


def test_the_package_offers_the_interface() -> None:
    assert ltx2rt.load is api.load
    assert ltx2rt.api is api
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ltx2rt.lode  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pipeline": "two"}, UsageError, "unknown pipeline 'two'; use one of text-to-video, distilled"),
        ({"dtype": "int8"}, UsageError, "dtype must be one of its choices, got 'int8'"),
        ({"model_variant": "big"}, UsageError, "model_variant must be one of its choices, got 'big'"),
        ({"text_encoder": "gemma"}, UsageError, "goes with checkpoint=FILE, which is missing"),
        ({"checkpoint": "none.safetensors"}, CheckpointError, r"none\.safetensors: cannot open"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    arguments: dict[str, str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        api.load(**arguments)


def test_other_spellings_of_pipelines() -> None:
    assert api.load("ti2vid_one_stage").name == "one-stage"
    assert api.load("a2v").name == "audio-to-video"
    assert api.load().name == "distilled"
    assert api.load(model_variant="dev").name == "one-stage"


@pytest.mark.parametrize(
    ("name", "pipeline", "variant", "said"),
    [
        ("model.safetensors", "text-to-video", None, True),
        ("model.safetensors", "retake", None, True),
        ("model.safetensors", "distilled", None, False),
        ("model.safetensors", "text-to-video", "dev", False),
        ("model.safetensors", "text-to-video", "distilled", False),
        ("model-dev.safetensors", "text-to-video", None, False),
    ],
)
def test_a_variant_that_nothing_tells_is_said(
    name: str, pipeline: str, variant: str | None, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).symlink_to(embedded.CHECKPOINT)
    loaded = api.load(pipeline, checkpoint=tmp_path / name, text_encoder=embedded.TEXT_ENCODER, model_variant=variant)
    warning = f"the file name of {tmp_path / name} says neither dev nor distilled: it is taken as distilled"
    assert (warning in caplog.text) == said
    assert ("model_variant=dev" in caplog.text) == said
    if said:
        assert loaded.has_fixed_schedule

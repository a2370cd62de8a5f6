"""Settings: names, stored forms, JSON values, meaning per pipeline; and what `load` refuses."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

import ltx2rt
from ltx2rt import api
from ltx2rt.api.settings import Settings, pipelines_of
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines import PIPELINES


def test_values_are_stored_in_one_form() -> None:
    settings = Settings.of({"embedding": "a.npz", "video_stg_blocks": [1, 2], "images": [api.ImageInput("b.png")]})
    assert settings.embedding == Path("a.npz")
    assert settings.video_stg_blocks == (1, 2)
    assert settings.images == (api.ImageInput(Path("b.png")),)
    assert Settings.of({"seed": None}) == Settings()


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown setting .sed.; did you mean seed\?"):
        Settings.of({"sed": 1})
    with pytest.raises(UsageError, match="unknown setting 'xyz'; the settings are prompt, negative_prompt"):
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
    values = settings.as_dict("distilled")
    assert values["frame_rate"] == "24000/1001"
    assert values["images"] == [["/b.png", 8, 0.5, 20]]
    assert values["tiling"] == "512/64,64/24"
    assert values["embedding"] == str(Path.cwd() / "a.npz")
    assert "video_path" not in values
    assert "max_batch_size" not in values


def test_every_setting_names_pipelines_that_exist() -> None:
    for entry in fields(Settings):
        assert set(pipelines_of(entry.name)) <= set(PIPELINES), entry.name


def test_a_setting_without_meaning_is_refused() -> None:
    with pytest.raises(UsageError, match="audio_path has no meaning for the pipeline distilled"):
        Settings.of({"audio_path": "a.wav"}).require_meaning("distilled")


def test_the_package_offers_the_interface() -> None:
    assert ltx2rt.load is api.load
    assert ltx2rt.api is api
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ltx2rt.lode  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pipeline": "two"}, UsageError, "unknown pipeline 'two'; use one of text-to-video, distilled"),
        ({"dtype": "int8"}, UsageError, "unknown dtype 'int8'"),
        ({"model_variant": "big"}, UsageError, "unknown model variant 'big'"),
        ({"text_encoder": "gemma"}, UsageError, "need a checkpoint"),
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

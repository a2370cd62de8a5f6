"""What a user who names nothing gets, by generation and pipeline: the official values."""

from __future__ import annotations

from pathlib import Path

import pytest
from ltx25_pack import write_lora, write_pack
from PIL import Image

from ltx2rt import api
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.defaults import defaults_for, high_quality
from ltx2rt.weights.generations import LTX_2, LTX_2_3, LTX_2_5, Generation, stated_generation


@pytest.mark.parametrize(
    ("generation", "steps", "block", "crf"), [(LTX_2, 40, 29, 33), (LTX_2_3, 30, 28, 33), (LTX_2_5, 30, 28, 18)]
)
def test_by_generation(generation: Generation, steps: int, block: int, crf: int) -> None:
    defaults = defaults_for(generation)
    assert (defaults.num_inference_steps, defaults.image_crf) == (steps, crf)
    assert defaults.video_guider.stg_blocks == defaults.audio_guider.stg_blocks == (block,)
    assert (defaults.height, defaults.width, defaults.num_frames, defaults.frame_rate, defaults.seed) == (
        *(512, 768, 121, 24),
        10,
    )
    fine = high_quality(defaults)
    assert (fine.height, fine.width, fine.num_inference_steps, fine.image_crf) == (544, 960, 15, crf)
    assert fine.video_guider.stg_blocks == ()


@pytest.mark.parametrize(
    ("version", "crf"), [("2.0", 33), ("2.3.0", 33), ("2.4.0", 18), ("2.5.0", 18), ("2.5-rc1", 18), ("", 33)]
)
def test_the_quality_of_images_follows_the_version(version: str, crf: int) -> None:
    generation = stated_generation({"model_version": version}) or LTX_2
    assert defaults_for(generation).image_crf == crf


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("packs")
    lora = write_lora(folder / "lora.safetensors")
    dev = write_pack(folder, "dev", head=False)
    return {"distilled": write_pack(folder), "dev": dev | {"distilled_lora": lora}}


@pytest.mark.parametrize("name", ["distilled", "one-stage", "two-stage", "two-stage-hq", "keyframe-interpolation"])
def test_by_pipeline_of_2_5(name: str, packs: dict[str, dict[str, Path]]) -> None:
    entry = PIPELINES[name]
    files = packs[entry.variant or "dev"]
    if "distilled_lora" not in entry.files:
        files = {part: path for part, path in files.items() if part != "distilled_lora"}
    image = api.ImageInput(Image.new("RGB", (64, 64)), frame_index=8)
    settings = api.load(name, **files).record_for("a dog", images=[image]).settings
    sizes = {"one-stage": (512, 768), "two-stage-hq": (1088, 1920)}
    assert (settings["height"], settings["width"]) == sizes.get(name, (1024, 1536))
    assert settings["images"][0][1:] == [8, 1.0, 18]
    if name == "distilled":
        assert settings["auto_duration"] == [1.0, 20.0]
        return
    assert settings["num_frames"] == 121
    assert settings["num_inference_steps"] == (15 if name == "two-stage-hq" else 30)
    assert settings["video_cfg_guidance_scale"] == 3.0
    assert settings["audio_cfg_guidance_scale"] == 7.0
    assert settings["video_rescale_scale"] == (0.45 if name == "two-stage-hq" else 0.7)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (0, "num_frames must be 1 or more, got 0"),
        (-7, "num_frames must be 1 or more, got -7"),
        (96, r"num_frames must be 8\*k \+ 1, got 96; use 97 or 89"),
        (240, r"num_frames must be 8\*k \+ 1, got 240; use 241 or 233"),
    ],
)
def test_numbers_of_frames_off_the_grid_are_refused(frames: int, said: str, packs: dict[str, dict[str, Path]]) -> None:
    with pytest.raises(UsageError, match=said):
        api.load("distilled", **packs["distilled"]).record_for("a dog", num_frames=frames)


def test_the_seed_of_the_enhancement_is_the_users_but_where_the_official_code_has_its_own() -> None:
    own = {name for name, entry in PIPELINES.items() if entry.enhancement_seed == 42}
    assert own == {"distilled", "audio-to-video", "dfr", "dub-it"}
    for name, seed in (("distilled", 42), ("one-stage", 7)):
        record = api.load(name).record_for("a dog", seed=7, enhance_prompt=True)
        assert record.settings["enhance_seed"] == seed

"""Options from TOML files and sidecars: they give the same run, and other weights or inputs are noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_inputs import lora_file

from ltx2rt import embedded
from ltx2rt.cli.main import run

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9"]
QUICK = [*SMALL, "--pipeline", "one-stage", "--steps", "1"]


def generate(folder: Path, *arguments: str, name: str = "clip.mp4") -> bytes:
    folder.mkdir(exist_ok=True)
    assert run(["generate", "--quiet", *arguments, "-o", str(folder / name)]) == 0
    return (folder / name).read_bytes()


def test_a_printed_configuration_repeats_the_run(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prompt", 'a "red"\ncircle', *QUICK, "--seed", "4", "--image", str(media / "photo.jpg"), "8", "0.5"]
    direct = generate(tmp_path / "a", *options)
    capsys.readouterr()
    assert run(["generate", *options, "--print-config"]) == 0
    printed = capsys.readouterr().out
    config = tmp_path / "run.toml"
    config.write_text(printed)
    assert generate(tmp_path / "b", "--config", str(config)) == direct
    # A word of the command counts more than the file.
    capsys.readouterr()
    assert run(["generate", "--config", str(config), "--seed", "5", "--print-config"]) == 0
    assert capsys.readouterr().out == printed.replace("seed = 4", "seed = 5")


def test_a_sidecar_repeats_the_run_bit_for_bit(tmp_path: Path, media: Path) -> None:
    options = ["--pipeline", "one-stage", "--prompt", "a red circle", *SMALL, "--steps", "1", "--codec", "hevc"]
    options += ["--fps", "23.976", "--tiling", "none", "--image", str(media / "photo.jpg"), "--cfg", "2.5"]
    direct = generate(tmp_path / "a", *options)
    sidecar = tmp_path / "a" / "clip.mp4.json"
    assert generate(tmp_path / "b", "--from-sidecar", str(sidecar)) == direct
    content = json.loads(sidecar.read_text())
    assert content["settings"]["seed"] == 10
    assert content["settings"]["audio_cfg_guidance_scale"] == 7.0
    assert content["settings"]["images"] == [[str(media / "photo.jpg"), 0, 1.0, 33]]
    assert content["environment"]["mlx"] == "0.32.4"
    assert content["result"]["num_frames"] == 9
    assert str(embedded.CHECKPOINT) in content["weights"]


def test_changed_weights_and_inputs_are_noticed(
    tmp_path: Path, weights: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, image = tmp_path / "style.safetensors", tmp_path / "photo.jpg"
    shutil.copy(media / "photo.jpg", image)
    lora_file(lora)
    files = ["--checkpoint-path", str(weights / "ltx-2-19b-distilled.safetensors"), "--no-gemma", "--lora", str(lora)]
    files += ["--spatial-upsampler-path", str(weights / "ltx-2-spatial-upscaler-x2-1.0.safetensors")]
    generate(tmp_path / "a", *files, *SMALL, "--image", str(image))
    repeat = ["generate", "--quiet", "--from-sidecar", str(tmp_path / "a" / "clip.mp4.json")]
    shutil.copy(media / "other.png", image)
    assert run(repeat) == 2
    assert f"{image} is not the file that the repeated run used" in capsys.readouterr().err
    shutil.copy(media / "photo.jpg", image)
    lora_file(lora, scale=0.03)
    assert run(repeat) == 2
    assert f"{lora} is not the file that the repeated run used" in capsys.readouterr().err


def test_other_programs_are_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generate(tmp_path / "a", "--prompt", "x", *QUICK, "--no-gemma")
    sidecar = tmp_path / "a" / "clip.mp4.json"
    content = json.loads(sidecar.read_text())
    content["environment"]["numpy"] = "1.0"
    sidecar.write_text(json.dumps(content))
    generate(tmp_path / "b", "--from-sidecar", str(sidecar))
    assert "the repeated run used numpy 1.0" in caplog.text


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--config", "sed = 3", "unknown option 'sed'; did you mean seed?"),
        ("--config", "seed = ", "is not TOML"),
        ("--config", "skip-vae = 1", "skip-vae is a switch and must be true or false, got 1"),
        ("--config", "seed = [1, 2]", "seed takes one value, got [1, 2]"),
        ("--config", 'config = "a.toml"', "unknown option 'config'"),
        ("--from-sidecar", "{}", "is not a sidecar file"),
        ("--from-sidecar", "{", "is not JSON"),
        ("--from-sidecar", '{"format": "ltx2rt-sidecar", "format_version": 9}', "has sidecar format 9"),
        ("--from-sidecar", '{"format": "ltx2rt-sidecar", "format_version": 1}', "lacks files, settings"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    option: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert run(["generate", "--prompt", "x", option, str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--from-sidecar"])
def test_missing_files_are_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--prompt", "x", option, str(tmp_path / "none")]) == 2
    assert "none cannot be read" in capsys.readouterr().err

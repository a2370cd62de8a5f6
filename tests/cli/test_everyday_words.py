"""Words and values as people have them from other programs, forms and editors, and what a run says about them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import ltx2rt
from ltx2rt.api.run_state import state_folder
from ltx2rt.cli.main import run
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import topic_of
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.weights.embedding_file import read_embedding

SMALL = ["a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
LATENTS = ["generate", "--no-gemma", *SMALL, "--pipeline", "one-stage", "--steps", "1", "--skip-vae"]
CLIP = {"height": 64, "width": 64, "num_frames": 9}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with red.png and blue.png."""
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(path: str) -> dict[str, Any]:
    found = json.loads(Path(path).read_text())["settings"]
    assert isinstance(found, dict)
    return found


# test_docs.py runs a command of every pipeline.
FROM_PYTHON = ("text-to-audio",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FROM_PYTHON else pytest.mark.slow)
        for name in PIPELINES
        if name != "dfr"  # which needs LTX-2.5
    ],
)
def test_every_pipeline_runs_with_the_files_of_the_package(name: str, place: Path, media: Path) -> None:
    entry = PIPELINES[name]
    settings: dict[str, object] = {name: value for name, value in CLIP.items() if topic_of(name) in entry.topics}
    settings |= {"num_inference_steps": 2} if entry.variant == "dev" else {}
    settings |= {
        "ic-lora": {"video_conditioning": [media / "clip.mp4"]},
        "alpha-gen": {"video_conditioning": [media / "clip.mp4"]},
        "dub-it": {"reference_video": media / "clip.mp4"},
        "keyframe-interpolation": {"images": ["red.png", ltx2rt.ImageInput("blue.png", -1)]},
        "audio-to-video": {"audio_path": media / "music.wav"},
        "retake": {"video_path": media / "clip.mp4", "start_time": 0.1, "end_time": 0.3},
        "extend": {"video_path": media / "clip.mp4", "extend_frames": 8},
        "hdr": {"input": media / "clip.mp4", "zero_text": True, "seam_keyframes": False},
        "text-to-audio": {"num_frames": 9},
    }.get(name, {})
    clip = ltx2rt.load(name)("" if name == "hdr" else "a red circle", **settings)
    assert (clip.audio is None) == entry.silent
    if entry.output == "video":
        frames = np.concatenate(list(clip.frames))
        assert np.isfinite(frames).all()
        assert len(frames) == clip.num_frames


@pytest.mark.slow
def test_the_temporal_upscaler_of_the_package(place: Path) -> None:
    assert run(["generate", "--quiet", *SMALL, "--upscale-temporal", "-o", "o.mp4"]) == 0
    assert ClipReader("o.mp4").num_frames == 17


ZEROS = {
    "--num-frames": "--num-frames must be 1 or more, got 0",
    "--height": "--height must be 32 or more, got 0",
    "--width": "--width must be 32 or more, got 0",
    "--fps": "must be a positive number or ratio such as 24, 23.976 or 30000/1001, got '0'",
    "--duration": "--duration must be more than 0 seconds, got 0",
    "--steps": "--num-inference-steps must be 1 to 1000, got 0",
    "--speed": "--speed must be 0.1 to 10, got 0",
    "--max-batch-size": "--max-batch-size must be 1 to 8, got 0",
    "--enhance-max-tokens": "--enhance-max-tokens must be 1 or more, got 0",
    "--memory": "0",
}


@pytest.mark.parametrize("option", ZEROS)
def test_a_zero_is_refused_with_its_value(option: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a red circle", "--height", "64", "--width", "64"]
    words += ["--pipeline", "one-stage"] if option in ("--steps", "--max-batch-size") else []
    try:
        code = run([*words, option, "0", "-o", "o.mp4"])
    except SystemExit as refused:  # by the parser
        code = int(str(refused.code))
    assert code == 2
    assert ZEROS[option] in capsys.readouterr().err
    assert not list(place.glob("o.*"))


@pytest.mark.parametrize("name", ["num_frames", "height", "width", "frame_rate", "duration"])
def test_a_zero_from_python_is_refused_with_its_value(name: str) -> None:
    with pytest.raises(UsageError, match=r"\b0\b"):
        ltx2rt.load()("a red circle", **{name: 0})


@pytest.mark.parametrize("word", ["-1", pytest.param("random", marks=pytest.mark.slow)])
def test_a_random_seed_is_drawn_shown_and_recorded(word: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = []
    for name in ("a", "b"):
        words = [*LATENTS, "--save-latents", f"{name}.safetensors"]
        assert run([*words, "--seed", word]) == 0
        seeds.append(settings_of(f"{name}.safetensors.json")["seed"])
        assert f"seed={seeds[-1]}," in capsys.readouterr().err
    assert seeds[0] != seeds[1]
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    assert run([*LATENTS, "--save-latents", "c.safetensors", "--seed", str(seeds[0])]) == 0
    assert Path("c.safetensors").read_bytes() == Path("a.safetensors").read_bytes()
    assert Path("b.safetensors").read_bytes() != Path("a.safetensors").read_bytes()


@pytest.mark.slow
def test_a_random_seed_from_python(place: Path, media: Path) -> None:
    pipeline = ltx2rt.load()
    settings = {**CLIP, "zero_text": True, "latents_only": True}
    first, second = (pipeline(**settings, seed=seed) for seed in ("random", -1))
    assert first.settings["seed"] != second.settings["seed"]
    again = pipeline(**settings, seed=first.settings["seed"])
    np.testing.assert_array_equal(again.video_latent, first.video_latent)
    assert ltx2rt.upscale(media / "clip.mp4", seed="random").settings["seed"] >= 0


def test_frames_are_counted_from_the_end_as_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, last in (("a", "-1"), ("b", "8")):
        words = ["--image", "red.png", "0", "--image", "blue.png", last, "--save-latents", f"{name}.safetensors"]
        assert run([*LATENTS, *words]) == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert [image[1] for image in settings_of("a.safetensors.json")["images"]] == [0, 8]
    capsys.readouterr()
    assert run(["generate", *SMALL, "--keyframe", "red.png:-1:1", "--print-config"]) == 0
    assert "8" in capsys.readouterr().out.split("red.png")[1].split("]")[0]
    record = ltx2rt.load().record_for("a red circle", **CLIP, images=[ltx2rt.ImageInput("red.png", -9)])
    assert record.settings["images"][0][1] == 0


@pytest.mark.parametrize(("first", "second", "frame"), [("0", "0", 0), ("8", "-1", 8), ("8", "8", 8)])
@pytest.mark.parametrize("pipeline", ["distilled", "one-stage", "keyframe-interpolation"])
def test_two_pictures_at_one_frame_are_refused(
    pipeline: str, first: str, second: str, frame: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "red.png", first, "--image", "blue.png", second, "--pipeline", pipeline]
    assert run(["generate", *SMALL, *words, "-o", "o.mp4"]) == 2
    assert f"--image: two of them stand at frame {frame}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_frame_of_a_clip_that_is_as_long_as_its_sound(place: Path, media: Path) -> None:
    settings = {"height": 64, "width": 64, "num_inference_steps": 1, "zero_text": True, "latents_only": True}
    settings |= {"audio_path": media / "music.wav", "audio_max_duration": 0.4}
    pipeline = ltx2rt.load("audio-to-video")
    first, second = (pipeline(**settings, images=[ltx2rt.ImageInput("red.png", index)]) for index in (-1, 8))
    assert first.inputs.num_frames == 9
    np.testing.assert_array_equal(first.video_latent, second.video_latent)


def test_a_frame_outside_of_the_clip_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for frame in ("9", "-10"):
        assert run(["generate", *SMALL, "--image", "red.png", frame, "-o", "o.mp4"]) == 2
        assert f"must be 0 to 8 for this clip, got {frame}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "rate", "frames"), [("0.4", "24", 9), ("0.375", "24", 9), ("1", "25", 25), ("0.01", "24", 1)]
)
def test_a_duration_becomes_frames(
    seconds: str, rate: str, frames: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["generate", "a red circle", "--height", "64", "--width", "64", "--duration", seconds, "--fps", rate]
    assert run([*words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert f"num-frames = {frames}\n" in printed
    assert "duration" not in printed
    wanted = float(seconds) * float(rate)
    assert ("become" in caplog.text) == (abs(wanted - frames) > 0.5)


def test_a_duration_beside_a_number_of_frames_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", *SMALL, "--duration", "2"]) == 2
    assert "--duration and --num-frames both say how long the clip is" in capsys.readouterr().err


def test_a_prompt_over_the_token_limit_is_said_to_be_cut(
    place: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a red circle " * 1000 + "the end"
    base = ["generate", "--pipeline", "one-stage", "--steps", "1", *SMALL[1:], "--skip-vae"]
    assert run([*base, long, "--negative-prompt", long, "--save-latents", "l.safetensors"]) == 0
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert [line.split()[0] for line in said] == ["--prompt", "--negative-prompt"]
    for line in said:
        assert "of which the text encoder reads the first 1024" in line
        assert "circle" in line
    caplog.clear()
    assert run(["encode", "a short one", "--negative-prompt", long, "-o", "e.safetensors"]) == 0
    assert [line for line in caplog.messages if line.startswith("--negative-prompt has ")]
    caplog.clear()
    assert run([*base, "a short one", "--save-latents", "s.safetensors"]) == 0
    assert "left out" not in caplog.text


def test_a_prompt_behind_an_option_with_several_values_is_understood(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for words in (
        ["--image", "red.png", "a red circle"],
        ["--image", "red.png", "0", "0.9", "a red circle"],
        ["a red circle", "--image", "red.png"],
    ):
        assert run(["generate", *SMALL[1:], *words, "--print-config"]) == 0
        printed.append(capsys.readouterr().out)
        assert 'prompt = "a red circle"' in printed[-1]
    assert printed[0] == printed[2] != printed[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "red.png", "circle"], "--image has taken 'circle': if that is the prompt, put it before --image"),
        (["--lora", "style.safetensors", "0.5", "circle"], "--lora has taken 'circle'"),
        (["--quantization", "fp8-cast", "circle"], "--quantization has taken 'circle'"),
        (["--image", "red.png", "blue.png"], "--prompt is missing; say what to generate"),
        (["--image", "red.png", "0"], "--prompt is missing; say what to generate"),
    ],
)
def test_a_swallowed_word_is_named(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", *SMALL[1:], "-o", "o.mp4", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("again", [pytest.param("the same words", marks=pytest.mark.slow), "none at all"])
def test_resume_remembers_every_output(again: str, place: Path) -> None:
    """Killed in the middle and continued without a word about codec, quality, further files or the name."""
    words = ["generate", "a red circle", "--height", "64", "--width", "64", "--num-frames", "25", "--seed", "random"]
    words += ["--codec", "hevc", "--crf", "30", "--preset", "fast", "--speed", "2", "--no-audio", "--contact-sheet"]
    words += ["sheet.png", "--save-wav", "s.wav", "--report", "r.json", "--preview", "p.png", "--memory", "2GB"]
    words += ["--save-first-frame", "f.png", "--save-latents", "l.safetensors"]
    command = [sys.executable, "-m", "ltx2rt.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = state_folder(Path("output.mp4"))
    deadline = time.monotonic() + 120
    while not list(state.glob("denoise*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seed = json.loads((state / "run.json").read_text())["settings"]["seed"]
    if not Path("p.png").exists():
        Path("p.png").write_bytes(b"left by the interrupted run")
    # The same words, random seed included, or none at all.
    assert run([*(words if again == "the same words" else ["generate"]), "--resume", "--quiet"]) == 0
    record = json.loads(Path("output.mp4.json").read_text())
    assert record["settings"]["seed"] == seed
    assert record["output"]["codec"] == "hevc"
    with av.open("output.mp4") as clip:
        assert clip.streams.video[0].codec_context.name == "hevc"
        assert clip.streams.video[0].average_rate == Fraction(48)
        assert not clip.streams.audio
    assert all(Path(name).exists() for name in ("sheet.png", "s.wav", "r.json", "f.png", "l.safetensors"))
    with Image.open("p.png") as preview:
        assert preview.size == (64, 64)
    assert not state.exists()


@pytest.mark.parametrize("name", ["ltx-2-19b-distilled-fp8.safetensors", "models/ltx-2.3-22b-dev.safetensors"])
def test_weights_that_are_not_there_yet_are_named_with_their_place(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "--checkpoint-path", name, "a lighthouse", "-o", "o.mp4"]) == 1
    error = capsys.readouterr().err
    assert "there is no such path. It is published as Lightricks/LTX-2" in error
    assert "ltx2rt download Lightricks/LTX-2" in error


@pytest.mark.parametrize(("encoding", "ends"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n")])
def test_files_of_windows_editors_are_read(
    encoding: str, ends: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ['prompt-file = "p.txt"', "height = 64", "width = 64", "num-frames = 9", ""]
    Path("c.toml").write_bytes(ends.join(lines).encode(encoding))
    Path("p.txt").write_bytes(f"ein Kreis für Ä{ends}".encode(encoding))
    assert run(["generate", "--config", "c.toml", "--print-config"]) == 0
    assert 'prompt = "ein Kreis für Ä"' in capsys.readouterr().out
    assert run(["encode", "--quiet", "--prompt-file", "p.txt", "-o", "e.safetensors"]) == 0
    assert read_embedding(Path("e.safetensors")).prompt == "ein Kreis für Ä"
    assert run(["plan", "--prompt-file", "p.txt", *SMALL[1:]]) == 0


def test_a_file_in_another_encoding_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c.toml", "p.txt"):
        Path(name).write_bytes('prompt = "Ä"\n'.encode("latin-1"))
    assert run(["generate", "--config", "c.toml"]) == 2
    assert "c.toml is not UTF-8 text" in capsys.readouterr().err
    assert run(["generate", "--prompt-file", "p.txt", "-o", "o.mp4"]) == 1
    assert "p.txt is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 1.5}, "seed must be a whole number, or random, got 1.5"),
        ({"seed": "7"}, "seed must be a whole number, or random, got '7'"),
        ({"height": "64"}, "height must be a whole number, 32 or more, got '64'"),
        ({"num_frames": 9.0}, "num_frames must be a whole number, 1 or more, got 9.0"),
        ({"duration": "2"}, "duration must be a number, got '2'"),
        ({"images": 3}, "images must be a list of images"),
        ({"images": [None]}, "images must be a list of images"),
        ({"prompt": 3}, "prompt must be a text"),
        ({"images": ["nowhere.png"]}, "nowhere.png"),
        ({"frame_rate": "fast"}, "frame_rate must be a positive number"),
        ({"loras": "x"}, "unknown setting 'loras'"),
    ],
)
def test_python_names_its_own_names(values: dict[str, object], message: str, place: Path) -> None:
    with pytest.raises(ltx2rt.Ltx2rtError, match=message) as caught:
        ltx2rt.load()(**{"prompt": "x", **CLIP, **values})
    assert "--" not in str(caught.value)


@pytest.mark.slow
def test_python_takes_paths_as_pictures(place: Path) -> None:
    pipeline = ltx2rt.load()
    settings = {**CLIP, "zero_text": True, "latents_only": True}
    given = [Path("red.png"), ["red.png"], Image.open("red.png")]
    latents = [pipeline(**settings, images=images).video_latent for images in given]
    for latent in latents[1:]:
        np.testing.assert_array_equal(latent, latents[0])


def test_names_and_prompts_that_are_not_utf8(place: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"kreis-\xe4.png")
    try:
        Path(name).write_bytes(Path("red.png").read_bytes())
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    assert run([*LATENTS, "--image", name, "--save-latents", "a.safetensors"]) == 0
    assert settings_of("a.safetensors.json")["images"][0][0] == str(Path(name).absolute())
    assert run(["generate", "--from-sidecar", "a.safetensors.json", "--save-latents", "b.safetensors"]) == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    capsys.readouterr()
    assert run(["generate", os.fsdecode(b"caf\xe9"), "-o", "o.mp4"]) == 2
    assert "a text must be UTF-8, got 'caf\\udce9'; set the terminal's encoding" in capsys.readouterr().err


def test_a_duration_beyond_all_numbers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--prompt", "x", "--duration", "1e308", "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "--duration 1e+308 s at 24 frames/s is more than any clip; give less." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

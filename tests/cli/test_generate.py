"""From the command line to a playable file, with the embedded model; and every refusal leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ltx2rt import embedded
from ltx2rt.cli.main import run

SMALL = ["--height", "64", "--width", "128", "--num-frames", "9"]
PROMPT = ["--prompt", "a red circle moves left"]
# The quickest clip, where any will do.
ANY = [*PROMPT, *SMALL, "--no-gemma", "--pipeline", "one-stage", "--steps", "1"]


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    with av.open(str(path)) as clip:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])
    with av.open(str(path)) as clip:
        rate = clip.streams.audio[0].codec_context.sample_rate
        sound = np.concatenate([frame.to_ndarray() for frame in clip.decode(audio=0)], axis=1)
    return frames, sound, rate


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:120, 0:200]
    pixels = np.stack([x, y * 2, 255 - x], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.jpg", quality=95)
    return tmp_path / "photograph.jpg"


def test_distilled_clip_has_the_asked_size_and_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = tmp_path / "clip.mp4", tmp_path / "report.json"
    arguments = [*PROMPT, *SMALL, "--fps", "12", "--seed", "3", "-o", str(output), "--report", str(report)]
    assert run(["generate", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(output)
    assert "TOY" in captured.err
    assert "seed=3" in captured.err
    frames, sound, rate = decoded(output)
    assert frames.shape == (9, 64, 128, 3)
    assert sound.shape[0] == 2
    # 19 audio latents make 73 mel frames of 10 ms; AAC adds up to two frames of 1024 samples.
    assert 0 <= sound.shape[1] - 73 * rate // 100 <= 2048
    written = json.loads(report.read_text())
    assert written["settings"]["seed"] == 3
    assert [stage["name"] for stage in written["stages"]][-1] == "video decoder"
    assert all(stage["seconds"] > 0 and stage["resident_peak_bytes"] > 0 for stage in written["stages"])


def test_one_stage_with_a_photograph(tmp_path: Path, photograph: Path) -> None:
    output = tmp_path / "clip.mp4"
    guidance = ["--steps", "2", "--cfg", "2", "--video-stg-blocks", "1", "--audio-stg-blocks", "1"]
    arguments = [*PROMPT, *SMALL, "--pipeline", "one-stage", "--image", str(photograph), *guidance, "-o", str(output)]
    assert run(["generate", "--quiet", *arguments]) == 0
    assert decoded(output)[0].shape == (9, 64, 128, 3)


def test_the_same_seed_gives_the_same_file_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(["generate", "--quiet", *ANY, "--seed", seed, "-o", str(tmp_path / f"{name}.mp4")]) == 0
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.slow
def test_the_number_of_threads_does_not_change_the_file(tmp_path: Path) -> None:
    files = []
    for threads in ("1", "2"):
        output = tmp_path / f"{threads}.mp4"
        command = [sys.executable, "-m", "ltx2rt.cli", "generate", "--quiet", *PROMPT, *SMALL, "-o", str(output)]
        subprocess.run(command, check=True, env={**os.environ, "LTX2RT_NUM_THREADS": threads}, capture_output=True)
        files.append(output.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--num-frames", "96"], 2, r"--num-frames must be 8\*k \+ 1, got 96; use 97 or 89"),
        (["--height", "96"], 2, "height must be a multiple of 64, got 96"),
        (["--pipeline", "one-stage", "--width", "100"], 2, "width must be a multiple of 32, got 100"),
        (["--pipeline", "two-stag"], 2, "unknown pipeline 'two-stag'; did you mean two-stage"),
        (["--steps", "4"], 2, "distilled schedule is fixed at 8 \\+ 3 steps, got 4"),
        (["--image", "{tmp}/missing.png"], 1, "missing.png"),
        (["--image", "{tmp}/broken.png"], 1, "broken.png"),
        (["--image", "{tmp}/broken.png", "0", "1", "33", "9"], 2, "--image takes PATH"),
        (["--checkpoint-path", "{tmp}/missing.safetensors"], 1, "missing.safetensors"),
        (["--checkpoint-path", "{tmp}/truncated.safetensors"], 1, "truncated.safetensors"),
        (["--checkpoint-path", "{tmp}/broken.png"], 1, "broken.png"),
        (["--gemma-root", "{tmp}"], 2, "goes with --checkpoint-path"),
        (["--lora", "{embedded}", "--checkpoint-path", "{embedded}"], 1, "LoRA"),
        (["-o", "{tmp}/no/such/folder/clip.mp4"], 1, "does not exist"),
        (["-o", "{tmp}"], 2, "is a folder"),
        (["-o", "{tmp}/clip.gif"], 2, "clip.gif"),
        (["--fps", "0"], 2, "must be a positive number or ratio such as 24"),
        (["--embedding", "{tmp}/missing.safetensors"], 1, "missing.safetensors"),
        (["--seeds", "1"], 2, "unrecognized arguments"),
        (["--prompt-file", "{tmp}/broken.png"], 2, "--prompt and --prompt-file are both given"),
    ],
)
def test_bad_input_gives_one_error_and_no_file(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (tmp_path / "truncated.safetensors").write_bytes(embedded.CHECKPOINT.read_bytes()[:100_000])
    before = sorted(tmp_path.iterdir())
    filled = [a.format(tmp=tmp_path, embedded=embedded.CHECKPOINT) for a in arguments]
    output = [] if "-o" in filled else ["-o", str(tmp_path / "clip.mp4")]
    try:
        result = run(["generate", *PROMPT, *SMALL, *output, *filled])
    except SystemExit as exit_by_parser:
        result = exit_by_parser.code  # type: ignore[assignment]  # argparse exits itself
    error = capsys.readouterr().err
    assert result == code, error
    (line,) = [text for text in error.splitlines() if text.startswith("error: ")]
    assert re.search(message, line), line
    assert sorted(tmp_path.iterdir()) == before


def test_missing_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "--prompt is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        code = run(["generate", *ANY, "-o", str(tmp_path / "clip.mp4")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert code == 1
    assert "clip.mp4" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_text("a red circle\n", encoding="utf-8")
    words = ["generate", *ANY[2:], "--no-state", "--prompt-file", str(tmp_path / "prompt.txt")]
    assert run([*words, "-o", str(tmp_path / "of-file.mp4")]) == 0
    settings = json.loads((tmp_path / "of-file.mp4.json").read_text())["settings"]
    assert settings["prompt"] == "a red circle"
    assert "prompt_file" not in settings
    capsys.readouterr()
    for content, message in ((b"\xff\xfe\x00", "is not UTF-8 text"), (b" \n", "is empty")):
        (tmp_path / "bad.txt").write_bytes(content)
        assert run([*words[:-1], str(tmp_path / "bad.txt"), "-o", str(tmp_path / "bad.mp4")]) in (1, 2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bad.mp4").exists()

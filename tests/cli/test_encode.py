"""Prompts encoded beforehand, and runs without any text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2rt.cli.main import run
from ltx2rt.weights.embedding_file import read_embedding

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9"]
GUIDED = ["--pipeline", "one-stage", "--steps", "2"]
QUIET = ["generate", "--quiet"]
QUICK = ["--pipeline", "one-stage", "--steps", "1"]


@pytest.mark.parametrize("suffix", ["safetensors", pytest.param("npz", marks=pytest.mark.slow)])
def test_an_embedding_gives_the_clip_of_its_prompts(suffix: str, tmp_path: Path) -> None:
    texts = ["--prompt", "a red circle", "--negative-prompt", "noise"]
    saved = tmp_path / f"text.{suffix}"
    assert run(["encode", "--quiet", *texts, "-o", str(saved)]) == 0
    assert run([*QUIET, *texts, *SMALL, *GUIDED, "-o", str(tmp_path / "a.mp4")]) == 0
    assert run([*QUIET, "--embedding", str(saved), *SMALL, *GUIDED, "-o", str(tmp_path / "b.mp4")]) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    embedding = read_embedding(saved)
    assert (embedding.prompt, embedding.negative_prompt, embedding.generation) == ("a red circle", "noise", "19b")
    assert embedding.num_tokens > 2


def test_enhancement_is_stored_and_repeats(tmp_path: Path) -> None:
    options = ["--enhance-prompt", "--enhance-max-tokens", "6", "--enhance-temperature", "1", "--enhance-top-k", "0"]
    texts = []
    for seed in ("1", "1", "2"):
        path = tmp_path / "text.safetensors"
        assert (
            run(["encode", "--quiet", "a dog", *options, "--enhance-seed", seed, "-o", str(path), "--overwrite"]) == 0
        )
        texts.append(read_embedding(path).prompt)
    assert texts[0] == texts[1]
    assert "a dog" not in texts
    assert texts[0] != texts[2]


def test_generate_enhances_the_prompt(tmp_path: Path, media: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ["--enhance-prompt", "--enhance-max-tokens", "4", "--image", str(media / "photo.jpg")]
    assert run([*QUIET, "a dog", *SMALL, *QUICK, *options, "-o", str(tmp_path / "a.mp4")]) == 0
    assert '"enhanced_prompt": ' in (tmp_path / "a.mp4.json").read_text()
    assert "does not see the image" in caplog.text
    assert run([*QUIET, "a dog", *SMALL, *QUICK, *options[3:], "-o", str(tmp_path / "b.mp4")]) == 0
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "b.mp4").read_bytes()


def test_without_gemma_the_clip_does_not_depend_on_the_prompt(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two")):
        assert run([*QUIET, "--no-gemma", "--prompt", text, *SMALL, *QUICK, "-o", str(tmp_path / f"{name}.mp4")]) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt is missing"),
        (["x", "-o", "text.json"], "must end in .safetensors, .npz, which is what it holds, got 'text.json'"),
        (["x", "--gemma-root", "g"], "--gemma-root goes with --checkpoint-path"),
        (["x", "--enhance-seed", "3"], "go with --enhance-prompt"),
        ([" "], "the prompt is empty"),
        (["x", "--prompt", "y"], "the prompt without an option's name says x, but --prompt says y; give one of them"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["encode", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["a red zebra"], ["--prompt", "a red zebra"], ["a red zebra", "--prompt", "a red zebra"]]
)
def test_words_that_the_embedded_model_does_not_know_are_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", "--quiet", *words, "-o", str(tmp_path / "text.npz")]) == 0
    assert "it does not know zebra" in capsys.readouterr().err


def test_an_embedding_without_a_negative_prompt_cannot_be_guided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from ltx2rt.weights.embedding_file import write_embedding

    path = tmp_path / "text.safetensors"
    assert run(["encode", "--quiet", "x", "-o", str(path)]) == 0
    write_embedding(path, replace(read_embedding(path), negative_video_context=None, negative_audio_context=None))
    assert run(["generate", "--embedding", str(path), *SMALL, *GUIDED, "-o", str(tmp_path / "a.mp4")]) == 2
    assert "the embedding holds no negative prompt" in capsys.readouterr().err


def test_a_budget_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["encode", "--quiet", "a dog", "-o", str(tmp_path / "text.safetensors")]
    enhance = ["--enhance-prompt", "--enhance-max-tokens", "4"]
    assert run([*words, *enhance, "--plan", "--memory", "10GB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = ("prompt enhancement", "text encoder", "text projection", "connectors")
    assert all(line.startswith(start) for line, start in zip(lines[1:], starts, strict=False))
    assert run([*words, *enhance, "--memory", "20MB"]) == 1
    assert "stage 'prompt enhancement' needs" in capsys.readouterr().err
    assert run([*words, "--memory", "20MB"]) == 1
    assert "stage 'text encoder' needs" in capsys.readouterr().err
    assert run([*words, *enhance[:1], "--enhance-top-p", "3", "--plan"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert run([*words, "--memory", "10GB"]) == 0

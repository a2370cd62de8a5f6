"""The command with a pack of LTX-2.5: what only this generation can do."""

from __future__ import annotations

from pathlib import Path

import pytest
from ltx25_pack import write_pack

from ltx2rt.cli.main import run

SIZE = ["--height", "64", "--width", "64"]
OPTIONS = {
    "transformer": "--transformer-path",
    "text_encoder": "--text-encoder-path",
    "video_vae": "--video-vae-path",
    "audio_vae": "--audio-vae-path",
    "duration_head": "--duration-head-path",
    "spatial_upscaler": "--spatial-upsampler-path",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pack(tmp_path_factory.mktemp("pack"))


def words(pack: dict[str, Path]) -> list[str]:
    """A pack as options."""
    return [word for name, path in pack.items() for word in (OPTIONS[name], str(path))]


def test_generated_key_frames(pack: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dog", *words(pack), *SIZE, "--num-frames", "17", "--print-config"]
    for places, said in (("2", "= 2"), ("4,11", '= "4,11"'), ("4,", '= "4,"')):
        assert run([*command, "--num-generated-keyframes", places]) == 0
        assert f"num-generated-keyframes {said}" in capsys.readouterr().out
    assert run([*command, "--decode-with-keyframes"]) == 2
    error = capsys.readouterr().err
    assert "--decode-with-keyframes needs key frames to look at; give --num-generated-keyframes" in error


def test_a_predicted_length(pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dog", *words(pack), *SIZE]
    assert run([*command, "--auto-duration", "0.1", "0.5", "--print-config"]) == 0
    assert "auto-duration = [\n    0.1,\n    0.5,\n]" in capsys.readouterr().out
    latents = tmp_path / "clip.safetensors"
    saving = ["--skip-vae", "--save-latents", str(latents), "-o", str(tmp_path / "clip.mp4")]
    assert run([*command, *saving, "--auto-duration", "0.1", "0.5"]) == 0
    assert "length: 0.70 s are predicted, 9 frames are made" in capsys.readouterr().err
    first = latents.read_bytes()
    # Its record repeats it.
    assert run(["generate", "--from-sidecar", f"{latents}.json", *saving]) == 0
    assert latents.read_bytes() == first
    capsys.readouterr()
    for seconds, said in (
        (("8", "2"), "--auto-duration: the shortest clip comes first, got 8 s and 2 s; exchange them"),
        (("0", "2"), "--auto-duration must be two numbers of seconds, the shortest first"),
        (("a", "2"), "--auto-duration MIN must be a number, got 'a'"),
    ):
        assert run([*command, "--auto-duration", *seconds, "--print-config"]) == 2
        assert said in capsys.readouterr().err

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

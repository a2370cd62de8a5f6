"""Numbers that are none: the run ends with the name of the stage, or of the file and tensor, and no clip is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from command_inputs import lora_file, one_file, upscaler

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.errors import NotFiniteError
from ltx2rt.graph.models.audio.vae import AudioDecoder, AudioEncoder
from ltx2rt.graph.models.audio.vocoder import Vocoder
from ltx2rt.graph.models.text.connector import Connector
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.graph.models.upscaler.model import LatentUpscaler
from ltx2rt.graph.models.video_vae import decoder, pixel_range
from ltx2rt.graph.stages.encode import stage as encode
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
# The quickest clip, where any will do.
ANY = [*SMALL, "--no-gemma", "--no-audio", "--pipeline", "one-stage", "--steps", "1"]


def test_the_check_counts_and_names() -> None:
    good = np.zeros((2, 3), np.float32)
    require_finite("upscaler", "the latent", good)
    require_finite("upscaler", "the latent", np.zeros((0, 3), np.float32))
    require_finite("upscaler", "the latent", mx.zeros((2, 3), mx.bfloat16))
    for bad in (np.nan, np.inf, -np.inf):
        values = good.copy()
        values[1, 1:] = bad
        for wrong in (values, mx.array(values).astype(mx.bfloat16)):
            with pytest.raises(NotFiniteError, match=r"stage upscaler: 2 of 6 values of the latent are not finite"):
                require_finite("upscaler", "the latent", wrong)


def test_infinite_pixels_are_not_clamped_to_white() -> None:
    pixels = np.array([[-3.0, 0.0, 3.0], [np.inf, -np.inf, np.nan]], np.float32)
    unit = pixel_range.to_unit_range(pixels)
    np.testing.assert_array_equal(unit, np.array([[0, 0.5, 1], [np.nan] * 3], np.float32))


def spoil(values: Any, bad: float) -> Any:
    """The last value of an array, or of the first of several, becomes bad."""
    if isinstance(values, list):
        return [spoil(values[0], bad), *values[1:]]
    if isinstance(values, tuple):
        return (spoil(values[0], bad), *values[1:])
    flat = values.reshape(-1)
    return mx.concatenate([flat[:-1], mx.array([bad], dtype=values.dtype)]).reshape(values.shape)


# What computes wrongly, from which call on, and what is said.
STAGES = {
    "connectors": ((Connector, "__call__"), 0, "stage connectors: 1 of "),
    "transformer": ((Transformer, "guided"), 2, "stage denoise 1, step 3: 1 of 256 values of the video latent"),
    "refinement": ((Transformer, "guided"), 8, "stage denoise 2, step 1: 1 of "),
    "upscaler": ((LatentUpscaler, "__call__"), 0, "stage spatial upscaler: 1 of "),
    "audio decoder": ((AudioDecoder, "__call__"), 0, "stage audio decoder: 1 of "),
    "vocoder": ((Vocoder, "__call__"), 0, "values of the sound are not finite"),
    "image encoder": ((encode, "_encode"), 0, "stage image encoder 1: 1 of "),
}
# A stage of each kind: of text and pictures, denoising, and what follows it.
QUICK_STAGES = ("image encoder", "transformer", "vocoder")


@pytest.mark.parametrize(
    ("name", "bad"),
    [*((name, np.nan) for name in QUICK_STAGES), ("upscaler", np.inf)]
    + [pytest.param(name, np.nan, marks=pytest.mark.slow) for name in STAGES if name not in QUICK_STAGES]
    + [pytest.param(name, np.inf, marks=pytest.mark.slow) for name in STAGES if name != "upscaler"],
)
def test_a_stage_that_computes_no_numbers_is_named(
    name: str,
    bad: float,
    tmp_path: Path,
    media: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target, first, said = STAGES[name]
    works = getattr(*target)
    calls = 0

    def wrong(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        result = works(*arguments)
        return spoil(result, bad) if calls > first else result

    monkeypatch.setattr(*target, wrong)
    words = [*SMALL, "--image", str(media / "photo.jpg")] if name == "image encoder" else SMALL
    assert run(["generate", *words, "-o", str(tmp_path / "clip.mp4")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "inspect --deep" in error
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(
    ("bad", "output"), [(np.nan, "clip.mp4"), pytest.param(np.inf, "clip.mov", marks=pytest.mark.slow)]
)
def test_frames_that_are_no_numbers_are_an_error(
    bad: float, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = decoder.to_unit_range

    def wrong(pixels: np.ndarray) -> np.ndarray:
        pixels[-1, 0, 0, 0] = bad
        return works(pixels)

    monkeypatch.setattr(decoder, "to_unit_range", wrong)
    assert run(["generate", *ANY, "-o", str(tmp_path / output)]) == 1
    assert "stage video decoder: 1 of " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_sound_that_is_encoded_to_no_numbers_is_an_error(
    tmp_path: Path, media: Path, dev: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = AudioEncoder.__call__
    monkeypatch.setattr(AudioEncoder, "__call__", lambda *a: mx.full(works(*a).shape, np.nan))
    words = ["--pipeline", "a2v", *dev, *SMALL, "--steps", "1", "--audio-path", str(media / "music.wav")]
    assert run(["generate", *words, "-o", str(tmp_path / "clip.mp4")]) == 1
    assert "stage sound encoder: " in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_that_is_no_number_is_kept_for_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = Transformer.guided
    calls = 0

    def wrong(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return spoil(works(*arguments), np.nan) if calls == 3 else works(*arguments)

    words = ["generate", *SMALL, "-o", str(tmp_path / "clip.mp4")]
    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "guided", wrong)
        assert run(words) == 1
    kept = sorted(path.name for path in (tmp_path / ".clip.mp4.state").glob("denoise*"))
    assert kept == ["denoise-1.0000.safetensors", "denoise-1.0001.safetensors"]
    assert run([*words, "--resume"]) == 0


def test_a_lora_and_a_checkpoint_with_bad_values_are_named(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def copied(source: Path, target: Path, name: str) -> None:
        file = SafetensorsFile(source)
        tensors = {key: file.mlx(key) for key in file.tensors}
        write_safetensors(target, tensors | {name: spoil(tensors[name], np.nan)}, file.metadata)
        file.close()

    lora = lora_file(tmp_path / "good.safetensors")
    factor = next(name for name in SafetensorsFile(lora).tensors if ".lora_B." in name)
    copied(lora, tmp_path / "bad-lora.safetensors", factor)
    norm = "model.diffusion_model.transformer_blocks.0.attn1.q_norm.weight"
    copied(embedded.CHECKPOINT, tmp_path / "bad-distilled.safetensors", norm)
    files = [*one_file(weights, "distilled"), *upscaler(weights)]
    output = ["--no-state", "-o", str(tmp_path / "clip.mp4")]
    assert run(["generate", *files, *SMALL, *output, "--lora", str(tmp_path / "bad-lora.safetensors")]) == 1
    assert f"bad-lora.safetensors: tensor '{factor}': 1 of " in capsys.readouterr().err
    files[1] = str(tmp_path / "bad-distilled.safetensors")
    assert run(["generate", *files, *SMALL, *output]) == 1
    assert f"bad-distilled.safetensors: tensor '{norm}': 1 of " in capsys.readouterr().err
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot open the weight file (No such file or directory)"),
        ("folder", "cannot open the weight file (Is a directory)"),
        (b"", "0 bytes is too short"),
        (b"no safetensors, but text", "the header claims"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_an_embedding_that_cannot_be_read_is_named(
    content: bytes | str | None, message: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"text.{suffix}"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert run(["generate", "--embedding", str(path), *SMALL[2:], "-o", str(tmp_path / "clip.mp4")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {path}")
    if suffix == "safetensors":
        assert message in error
    assert sorted(tmp_path.iterdir()) == before

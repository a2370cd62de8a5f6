"""What pipelines do with their inputs, from the command line to the file; test_docs.py runs every one of them."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from command_inputs import one_file, tones, upscaler, video_file

from ltx2rt.api.latent_file import read_latents
from ltx2rt.cli.main import run
from ltx2rt.media.pcm import write_wav

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9"]
PROMPT = ["--prompt", "a red circle moves left"]
FEW_STEPS = ["--steps", "1"]


def generated(folder: Path, *arguments: str, name: str = "clip.mp4") -> Path:
    """The file that a command wrote, which left nothing else but its sidecar."""
    folder.mkdir(exist_ok=True)
    assert run(["generate", "--quiet", "-o", str(folder / name), *PROMPT, *arguments]) == 0
    assert {path.name for path in folder.iterdir()} == {name, f"{name}.json"}
    return folder / name


def played(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Frames, sound (S, 2) and frame rate."""
    with av.open(str(path)) as clip:
        rate = float(clip.streams.video[0].average_rate)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])
    with av.open(str(path)) as clip:
        sound = np.concatenate([frame.to_ndarray() for frame in clip.decode(audio=0)], axis=1).T
    return frames, sound, rate


def assert_clip(path: Path, frames: int = 9, side: int = 64, rate: float = 24) -> np.ndarray:
    pictures, sound, found = played(path)
    assert pictures.shape == (frames, side, side, 3)
    assert found == rate
    assert len(sound) > 0
    assert np.isfinite(sound).all()
    assert np.ptp(pictures) > 20
    return pictures


def test_text_to_video_follows_the_checkpoint(tmp_path: Path, weights: Path) -> None:
    path = generated(tmp_path, *one_file(weights, "dev"), *upscaler(weights), *SMALL, *FEW_STEPS)
    assert_clip(path)
    assert json.loads((tmp_path / "clip.mp4.json").read_text())["files"]["pipeline"] == "one-stage"


@pytest.mark.slow
def test_distilled_with_images(tmp_path: Path, media: Path) -> None:
    images = ["--image", str(media / "photo.jpg"), "--image", str(media / "other.png"), "8", "0.8", "20"]
    plain = assert_clip(generated(tmp_path / "a", "--pipeline", "distilled", *SMALL))
    shown = assert_clip(generated(tmp_path / "b", "--pipeline", "distilled", *SMALL, *images))
    assert np.abs(plain.astype(int) - shown).mean() > 1


@pytest.mark.parametrize("stages", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_ic_lora(stages: int, tmp_path: Path, weights: Path, media: Path) -> None:
    files = [*one_file(weights, "distilled"), *upscaler(weights)]
    lora = ["--lora", str(weights / "ltx-2-19b-ic-lora-canny-control.safetensors"), "0.9"]
    control = ["--video-conditioning", str(media / "clip.mp4"), "1.0", "--control-type", "canny"]
    mask = ["--conditioning-attention-mask", str(media / "mask.mp4"), "0.7"]
    base = ["--pipeline", "ic_lora", *files, *lora, *control]
    large = ["--height", "128", "--width", "128", "--num-frames", "9"]
    more = [*SMALL, *mask] if stages == 2 else [*large, "--skip-stage-2"]
    assert_clip(generated(tmp_path / "a", *base, *more))


def test_audio_to_video_keeps_the_sound(
    tmp_path: Path, dev: list[str], media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = ["--audio-path", str(media / "music.wav"), "--audio-start-time", "0.1"]
    path = generated(tmp_path, "--pipeline", "a2v", *dev, *SMALL, *FEW_STEPS, *sound)
    assert_clip(path)
    assert caplog.text == ""
    _, heard, _ = played(path)
    with wave.open(str(media / "music.wav")) as file:
        samples = np.frombuffer(file.readframes(-1), "<i2").reshape(-1, 2) / 32768
    wanted = samples[2205 : 2205 + round(9 / 24 * 22050)]
    # AAC is lossy and may begin late by a frame; the tones stay.
    best = max(np.corrcoef(heard[shift : shift + 4096, 0], wanted[:4096, 0])[0, 1] for shift in range(2100))
    assert best > 0.95


def test_audio_shorter_than_the_clip_ends_with_a_warning(
    tmp_path: Path, dev: list[str], media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # One channel at a rate that AAC does not have.
    write_wav(tmp_path / "mono.wav", tones(0.2, 10000)[:, :1], 10000)
    sound = ["--audio-path", str(tmp_path / "mono.wav")]
    path = generated(tmp_path / "clip", "--pipeline", "audio-to-video", *dev, *SMALL, *FEW_STEPS, *sound)
    assert_clip(path)
    assert "gives 0.20 s of sound, the clip lasts 0.38 s; it ends without sound" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [pytest.param("0.75", marks=pytest.mark.slow), "9"])
def test_a_clip_as_long_as_its_sound(
    seconds: str, tmp_path: Path, dev: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "sound.wav", tones(1.0, 16000), 16000)
    command = [
        "--pipeline",
        "audio-to-video",
        *dev,
        *SMALL[:4],
        *FEW_STEPS,
        "--audio-path",
        str(tmp_path / "sound.wav"),
    ]
    # 18 frames of 0.75 s, or of what is left behind the start.
    path = generated(tmp_path / "clip", *command, "--audio-start-time", "0.25", "--audio-max-duration", seconds)
    assert_clip(path, 17)
    settings = json.loads(Path(f"{path}.json").read_text())["settings"]
    assert "num_frames" not in settings
    both = ["--audio-max-duration", seconds, "--num-frames", "9"]
    assert run(["generate", *PROMPT, *command, *both, "-o", str(tmp_path / "x.mp4")]) == 2
    assert "--num-frames and --audio-max-duration contradict each other" in capsys.readouterr().err


@pytest.mark.slow
def test_retake_changes_the_range_alone(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "source").mkdir()
    source = video_file(tmp_path / "source" / "long.mp4", frames=25)
    arguments = ["--pipeline", "retake", *one_file(weights, "distilled"), "--video-path", str(source)]
    arguments += ["--start-time", "0.7", "--end-time", "1.1", "--keep-audio"]
    assert_clip(generated(tmp_path / "clip", *arguments), frames=25)
    latents = []
    for seed in ("10", "3"):
        saved = tmp_path / f"{seed}.safetensors"
        without_clip = ["--skip-vae", "--save-latents", str(saved), "-o", str(tmp_path / "none.mp4")]
        assert run(["generate", "--quiet", *PROMPT, *arguments, "--seed", seed, *without_clip]) == 0
        latents.append(read_latents(saved))
    first, second = latents
    # Latent frame 2 ends at 17/24 s, within the range; 0 and 1 are kept, and so is the sound.
    np.testing.assert_array_equal(first.video[:, :2], second.video[:, :2])
    assert np.abs(first.video[:, 2:] - second.video[:, 2:]).mean(axis=(0, 2, 3, 4)).min() > 0.1
    np.testing.assert_array_equal(first.audio, second.audio)


def test_a_budget_is_kept_or_refused_with_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", *PROMPT, *SMALL, "-o", str(tmp_path / "clip.mp4")]
    assert run([*command, "--plan"]) == 0
    assert "denoise 2" in capsys.readouterr().out
    assert run([*command, "--memory", "1MB"]) == 1
    assert "give at least --memory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

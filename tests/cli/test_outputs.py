"""What is written beside a clip: sound, pictures, latents, previews, and clips at another speed or size."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest
from command_inputs import one_file, upscaler

from ltx2rt.api.latent_file import read_latents
from ltx2rt.cli.main import run
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.images import read_image

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
# The quickest clip, where any will do.
ANY = [*SMALL, "--no-gemma", "--pipeline", "one-stage", "--steps", "1"]


def test_everything_that_can_be_written_at_once(tmp_path: Path) -> None:
    names = {"--save-wav": "s.wav", "--save-first-frame": "f.png", "--contact-sheet": "c.png", "--preview": "p.png"}
    names |= {"--save-latents": "l.safetensors", "--report": "r.json"}
    words = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert run(["generate", "--quiet", *SMALL, *words, "-o", str(tmp_path / "clip.mp4"), "--crf", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*names.values(), "clip.mp4", "clip.mp4.json"}
    first, sheet = read_image(tmp_path / "f.png"), read_image(tmp_path / "c.png")
    assert sheet.shape == (3 * 68 + 4, 4 * 68 + 4, 3)
    np.testing.assert_array_equal(sheet[4:68, 4:68], first)
    shown = next(ClipReader(tmp_path / "clip.mp4").frames()).astype(float)
    assert abs(shown.mean() - first.mean()) < 5
    # The last preview shows the first frame of the last estimate, which is the final latent.
    assert read_image(tmp_path / "p.png").shape == (64, 64, 3)
    latents = read_latents(tmp_path / "l.safetensors")
    assert latents.video is not None
    assert latents.video.shape == (1, 2, 2, 2, 128)
    with wave.open(str(tmp_path / "s.wav")) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(9 / 24, abs=0.06)


def test_a_sound_file_as_output_has_no_pictures(tmp_path: Path) -> None:
    assert run(["generate", "--quiet", *ANY, "-o", str(tmp_path / "clip.wav")]) == 0
    with wave.open(str(tmp_path / "clip.wav")) as sound:
        assert sound.getnchannels() == 2


def test_speed_changes_pictures_and_sound(tmp_path: Path) -> None:
    for speed in ("1", "2"):
        assert run(["generate", "--quiet", *ANY, "--speed", speed, "-o", str(tmp_path / f"{speed}.mp4")]) == 0
    rates, lengths = [], []
    for speed in ("1", "2"):
        rates.append(float(ClipReader(tmp_path / f"{speed}.mp4").frame_rate))
        with av.open(str(tmp_path / f"{speed}.mp4")) as clip:
            lengths.append(sum(frame.samples for frame in clip.decode(audio=0)))
    assert rates == [24, 48]
    assert abs(lengths[0] - 2 * lengths[1]) <= 2 * 2048


def test_latents_only_writes_latents_only_and_upscale_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, output = tmp_path / "l.safetensors", tmp_path / "clip.mp4"
    assert run(["generate", "--quiet", *ANY, "-o", str(output), "--skip-vae", "--save-latents", str(saved)]) == 0
    assert capsys.readouterr().out.strip() == str(saved)
    assert {path.name for path in tmp_path.iterdir()} == {"l.safetensors", "l.safetensors.json"}
    assert run(["upscale", "--quiet", str(saved), "-o", str(output)]) == 0
    info = ClipReader(output)
    assert (info.num_frames, info.height, info.width, info.sample_rate is not None) == (9, 128, 128, True)


def test_latents_only_without_a_latent_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", *SMALL, "--skip-vae", "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "--skip-vae makes latents only; name their file with --save-latents" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_final_upscalers_enlarge_and_double_the_rate(tmp_path: Path, weights: Path) -> None:
    files = [*one_file(weights, "distilled"), *upscaler(weights), "--upscale-spatial", "--upscale-temporal"]
    files += ["--temporal-upsampler-path", str(weights / "ltx-2-temporal-upscaler-x2-1.0.safetensors")]
    assert run(["generate", "--quiet", *SMALL, *files, "-o", str(tmp_path / "clip.mp4")]) == 0
    info = ClipReader(tmp_path / "clip.mp4")
    assert (info.num_frames, info.height, info.width, info.frame_rate) == (17, 128, 128, 48)


@pytest.mark.slow
def test_the_control_video_can_be_looked_at(tmp_path: Path, weights: Path, media: Path) -> None:
    files = [*one_file(weights, "distilled"), *upscaler(weights), "--pipeline", "ic-lora"]
    files += ["--lora", str(weights / "ltx-2-19b-ic-lora-canny-control.safetensors")]
    control = ["--control-video", str(media / "clip.mp4"), "--control-type", "canny", "--save-control"]
    assert run(["generate", "--quiet", *SMALL, *files, *control, "-o", str(tmp_path / "clip.mp4")]) == 0
    frames = np.stack(list(ClipReader(tmp_path / "clip.control.mp4").frames()))
    assert frames.shape == (9, 64, 64, 3)
    assert (frames > 200).mean() > 0.01
    assert (frames < 60).mean() > 0.5


def test_save_control_without_a_video_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", *SMALL, "--save-control", "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "--save-control needs a control video" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""Pictures and clips as people have them, through the command: what is read, what is said, what is refused.

What a reader makes of each kind of clip is tested in tests/media; those that a whole run sees, too, are slow tests.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from made_clips import (
    GREY,
    QUARTERS,
    UNTAGGED,
    card,
    click,
    click_time,
    greys,
    hlg_signal,
    places,
    set_display_matrix,
    spots,
    tone,
    write_clip,
    write_hdr,
    write_sound,
)
from PIL import Image

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.encode.needs import video_encoder_options
from ltx2rt.graph.stages.media_inputs import reference_video
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.weights.checkpoint import Checkpoint

PROMPT = ["--prompt", "a red circle moves left"]
CARD = np.array([*QUARTERS.values(), GREY])
TOY = str(embedded.CHECKPOINT).removesuffix(".safetensors")
SMALL = ["--height", "64", "--width", "64", "--num-frames", "9"]


def control(path: Path, *options: str, size: tuple[int, int] = (64, 64)) -> int:
    """Run ic-lora with a control video, and write the control video that it saw."""
    return run(
        [
            *["generate", "--quiet", "--pipeline", "ic-lora", *PROMPT, "--save-control", "--overwrite"],
            *[
                "--checkpoint-path",
                str(embedded.CHECKPOINT),
                "--gemma-root",
                str(embedded.CHECKPOINT.parent / "text_encoder"),
            ],
            *["--spatial-upsampler-path", f"{TOY}-spatial-upscaler-x2.safetensors"],
            *["--lora", f"{TOY}-ic-lora-silhouette.safetensors", "--control-video", str(path)],
            *["--height", str(size[0]), "--width", str(size[1]), "--num-frames", "9"],
            *["--skip-vae", "--save-latents", str(path.parent / "o.safetensors")],
            *[*options, "-o", str(path.parent / "o.mp4")],
        ]
    )


def seen(folder: Path) -> list[np.ndarray]:
    return list(ClipReader(folder / "o.control.mp4").frames())


def test_a_plain_control_video_gets_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert control(write_clip(tmp_path / "c.mp4", greys(9, 64, 64))) == 0
    assert str(tmp_path / "c.mp4") not in caplog.text
    assert places(seen(tmp_path)) == list(range(9))


@pytest.mark.slow
def test_a_control_video_in_hdr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_hdr(tmp_path / "hlg.mp4", hlg_signal(card(64, 64)), 18, frames=9)
    assert control(path) == 0
    assert caplog.text.count("is HDR (HLG), BT.2020; it is tone-mapped to BT.709") == 1
    assert np.abs(np.array(spots(seen(tmp_path)[0])) - CARD).max() <= 12


@pytest.mark.slow
def test_the_colours_of_a_control_video_can_be_stated(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4", [card(64, 64)] * 9, tags=UNTAGGED, matrix=1)
    assert control(path, "--source-color", "bt709") == 0
    assert np.abs(np.array(spots(seen(tmp_path)[0])) - CARD).max() <= 6


@pytest.mark.slow
def test_a_mirrored_control_video(tmp_path: Path) -> None:
    path = set_display_matrix(write_clip(tmp_path / "c.mp4", [card(64, 64)] * 9), -1, 0, 0, 1)
    assert control(path) == 0
    red, green, blue, white = CARD[:4]
    assert np.abs(np.array(spots(seen(tmp_path)[0]))[:4] - [green, red, white, blue]).max() <= 6


@pytest.mark.slow
def test_a_control_video_of_variable_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    times = [0, 1 / 24, 2 / 24, 4 / 24, 6 / 24, 8 / 24, 10 / 24]
    assert control(write_clip(tmp_path / "c.mp4", greys(7, 64, 64), times=times)) == 0
    assert caplog.text.count("has a variable frame rate") == 1
    assert places(seen(tmp_path)) == [0, 1, 2, 2, 3, 3, 4, 4, 5]


def test_a_control_video_of_another_constant_rate_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert control(write_clip(tmp_path / "c.mp4", greys(9), 12)) != 0
    assert "c.mp4 has 12 frames/s, the clip 24; give --frame-rate 12" in capsys.readouterr().err


def test_control_videos_of_other_proportions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "wide.mp4", [card(128, 64)] * 9)
    assert control(path) == 0
    line = f"{path}: 128x64 becomes 64x64, 50% of its width is cut away, half at each end (--fit crop)"
    assert caplog.text.count(line) == 1
    assert control(path, "--fit", "pad") == 0
    assert caplog.text.count("50% of it black above and below (--fit pad)") == 1
    first = seen(tmp_path)[0].astype(int)
    assert first[:12].max() < 10
    assert np.abs(np.array(spots(first[16:48])) - CARD).max() <= 8
    assert control(path, "--fit", "error") == 2
    assert "wide.mp4 is 128x64, the clip 64x64, which are other proportions" in capsys.readouterr().err


@pytest.mark.slow
def test_a_control_video_may_be_stretched(tmp_path: Path) -> None:
    assert control(write_clip(tmp_path / "wide.mp4", [card(128, 64)] * 9), "--fit", "stretch") == 0
    assert np.abs(np.array(spots(seen(tmp_path)[0])) - CARD).max() <= 8


def test_a_picture_is_no_control_video_but_may_be_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(card(64, 64)).save(tmp_path / "card.png")
    assert control(tmp_path / "card.png") == 1
    assert "card.png is a still picture; give a video here" in capsys.readouterr().err
    path = write_clip(tmp_path / "c.mp4", greys(9, 64, 64))
    assert control(path, "--conditioning-attention-mask", str(tmp_path / "card.png")) == 0


def test_a_transparent_image_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.dstack([card(64, 64), np.full((64, 64), 255, np.uint8)])
    pixels[:, :20] = (255, 0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    words = ["generate", "--quiet", *PROMPT, *SMALL, "--skip-vae", "--save-latents", str(tmp_path / "l.safetensors")]
    assert run([*words, "--image", str(tmp_path / "cut.png")]) == 0
    err = caplog.text
    assert err.count("has transparent parts; they are laid on white") == 1
    assert "becomes" not in err


def test_an_image_of_other_proportions_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(card(64, 128)).save(tmp_path / "tall.png")
    words = ["generate", "--quiet", *PROMPT, *SMALL, "--skip-vae", "--save-latents", str(tmp_path / "l.safetensors")]
    assert run([*words, "--image", str(tmp_path / "tall.png")]) == 0
    assert caplog.text.count("64x128 becomes 64x64, 50% of its height is cut away") == 1
    assert run([*words, "--overwrite", "--fit", "error", "--image", str(tmp_path / "tall.png")]) == 2
    assert "tall.png is 64x128, the clip 64x64" in capsys.readouterr().err


def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    words = ["generate", "--quiet", *PROMPT, *SMALL, "-o", str(tmp_path / "o.mp4"), "--image"]
    assert run([*words, str(tmp_path / "a.heic")]) == 1
    err = capsys.readouterr().err
    assert "HEIC" in err
    assert "sips -s format jpeg" in err
    assert run([*words, str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["song.mp3", "late.mp4"])
def test_driving_sound_stays_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """MP3's priming is no sound; a clip's sound track that begins later stays late."""
    if name == "song.mp3":
        wave = tone(3.0) * 0.1
        wave[round(0.5 * 48000) : round(0.51 * 48000)] = 0.9
        path = write_sound(tmp_path / name, wave, "libmp3lame")
    else:
        path = write_clip(tmp_path / name, greys(49, step=4), sounds=[click(1.7, 0.2)], sound_begins=0.3)
    words = ["generate", "--quiet", "--pipeline", "audio-to-video", *PROMPT, "--height", "64", "--width", "64"]
    words += ["--num-frames", "25", "--steps", "1", "--checkpoint-path", str(embedded.CHECKPOINT)]
    words += ["--gemma-root", str(embedded.CHECKPOINT.parent / "text_encoder")]
    words += ["--spatial-upsampler-path", f"{TOY}-spatial-upscaler-x2.safetensors"]
    words += ["--distilled-lora", f"{TOY}-distilled-lora.safetensors", "--audio-path", str(path)]
    assert run([*words, "-o", str(tmp_path / "o.mp4")]) == 0
    assert "silent" not in caplog.text
    heard = ClipReader(tmp_path / "o.mp4")
    sound = heard.sound()
    assert sound is not None
    assert click_time(sound, heard.sample_rate or 0) == pytest.approx(0.5, abs=0.005)
    assert sound.shape[1] / (heard.sample_rate or 1) == pytest.approx(float(25 / Fraction(24)), abs=0.03)


def test_the_plan_counts_what_reading_takes(tmp_path: Path) -> None:
    host = {}
    for side in (64, 1024):
        path = write_clip(tmp_path / f"{side}.mp4", [card(side, side)] * 9)
        settings = Settings.of(
            {"height": 64, "width": 64, "num_frames": 9, "frame_rate": 24, "video_conditioning": [path]}
        )
        host[side] = reference_video(settings.video_conditioning[0], settings).reading_bytes
    assert host[1024] > 100 * host[64]
    assert host[1024] > 8 * 1024 * 1024 * 3 // 2
    checkpoint = Checkpoint.open(embedded.CHECKPOINT)
    config = VIDEO_VAE.parse(checkpoint)
    plain, beside = (
        next(video_encoder_options(checkpoint, config, "reference encoder", [(9, 64, 64)], mx.float32, extra))
        for extra in (0, host[1024])
    )
    assert beside.total - plain.total == host[1024]

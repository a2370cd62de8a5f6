"""Clips that are edited or enlarged: any size and length, what is kept stays as it was, flash and click in step."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from made_clips import click, write_clip

from ltx2rt import api
from ltx2rt.api import upscaling
from ltx2rt.cli.main import run
from ltx2rt.errors import Cancelled
from ltx2rt.graph.stages.decode import stage as decoding
from ltx2rt.graph.stages.events import Event, StepDone
from ltx2rt.graph.stages.inputs import FrameStream
from ltx2rt.graph.stages.run import Run
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.video_writer import VideoWriter

PROMPT = "a red circle moves left"


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


NTSC = Fraction(30000, 1001)
BLENDED = 2


def drifting(frames: int, width: int, height: int) -> list[np.ndarray]:
    """Coloured stripes that drift, with grain."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for index in range(frames):
        waves = [np.sin((x + 2 * index) / (7 + 3 * c) + y / 11) for c in range(3)]
        pictures.append(np.stack(waves, axis=-1) * 70 + 128 + rng.normal(0, 2, (height, width, 3)))
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in pictures]


def hum(seconds: float) -> np.ndarray:
    """(S, 2) at 48 kHz: tones that rise and fall, different on both sides."""
    t = np.arange(round(seconds * 48000)) / 48000
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)
    return np.stack([0.3 * swell * np.sin(2 * np.pi * 440 * t), 0.2 * swell * np.sin(2 * np.pi * 330 * t)], axis=1)


def source(folder: Path, frames: int = 20, width: int = 80, height: int = 72, sound: bool = True) -> Path:
    """A camera's clip in small: neither sides nor length fit the model, and its rate is a broken number."""
    folder.mkdir(exist_ok=True)
    sounds = [hum(float(frames / NTSC))] if sound else []
    pictures = drifting(frames, width, height)
    return write_clip(folder / "in.mov", pictures, NTSC, sounds=sounds, sound_codec="pcm_s16le")


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])


def decibels(shown: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """PSNR of every frame."""
    error = ((shown.astype(float) - wanted.astype(float)) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def encoded_once(path: Path, folder: Path) -> np.ndarray:
    """The pictures of a clip after one encoding with the default settings."""
    clip = ClipReader(path)
    with VideoWriter(folder / "once.mp4", clip.width, clip.height, clip.frame_rate) as writer:
        for picture in clip.frames():
            writer.write(picture[None])
    return pictures(folder / "once.mp4")


def samples(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(-1), "<i2").reshape(-1, file.getnchannels()), file.getframerate()


def stored_samples(path: Path) -> np.ndarray:
    """(S, 2) of a clip whose sound is stored as 16-bit samples."""
    with av.open(str(path)) as clip:
        return np.concatenate([frame.to_ndarray() for frame in clip.decode(audio=0)], axis=1).reshape(-1, 2)


def edited(pipeline: str, path: Path, output: Path, *words: str) -> Path:
    output.parent.mkdir(exist_ok=True)
    command = ["generate", "--quiet", "--prompt", PROMPT, "--pipeline", pipeline, "--video-path", str(path)]
    assert run([*command, "-o", str(output), *words]) == 0
    return output


def result(output: Path) -> dict:
    found: dict = json.loads(output.with_name(f"{output.name}.json").read_text())["result"]
    return found


def test_retake_of_a_camera_clip_keeps_all_but_the_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = source(tmp_path / "a", frames=30)
    words = ["--start-time", "0.35", "--end-time", "0.5", "--save-wav", str(tmp_path / "o.wav")]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words)
    shown = ClipReader(output)
    assert (shown.width, shown.height, shown.num_frames, shown.frame_rate) == (80, 72, 30, NTSC)
    # Of the 25 frames that the model sees, latents 2 and 3 stand for frames 9 to 16 (0.300 to 0.567 s).
    assert result(output)["kept"]["frames"] == [[0, 8], [17, 29]]
    ours, wanted = pictures(output), np.stack(list(ClipReader(clip).frames()))
    loss = decibels(encoded_once(clip, tmp_path), wanted) - decibels(ours, wanted)
    assert np.median(loss) < 0
    kept = [*range(9), *range(17, 30)]
    assert loss[kept].max() <= 0.5
    new = decibels(ours, wanted)[9 + BLENDED : 17 - BLENDED]
    assert new.max() < 25
    # A border is no jump: the first frame that is made anew has two thirds of the clip's own.
    assert new.max() + 3 < decibels(ours, wanted)[9] < decibels(ours, wanted)[8]

    (heard, rate), stored = samples(tmp_path / "o.wav"), stored_samples(clip)
    assert (rate, len(heard)) == (48000, round(30 / NTSC * 48000))
    first, last = round(0.35 * rate), round(0.5 * rate)
    np.testing.assert_array_equal(heard[:first], stored[:first])
    np.testing.assert_array_equal(heard[last:], stored[last : len(heard)])
    assert (heard[first:last] == stored[first:last]).mean() < 0.1
    assert result(output)["kept"]["sound_s"] == [[0.0, 0.35], [0.5, 1.001]]

    assert "80x72 is filled to 96x96 for the model; the model sees 25 of its 30 frames" in caplog.text
    assert "made anew: frames 9 to 16 of 30 (0.300 to 0.567 s) and the sound from 0.350 to 0.500 s" in caplog.text
    assert "2 frames and 10 ms inside each border are blended" in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.slow
def test_a_range_that_reaches_the_end_is_made_anew_to_the_last_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = source(tmp_path / "a", frames=12)
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", "--start-time", "0.32", "--end-time", "3")
    assert result(output)["kept"] == {"frames": [[0, 8]], "sound_s": [[0.0, 0.32]]}
    ours, wanted = pictures(output), np.stack(list(ClipReader(clip).frames()))
    assert len(ours) == 12
    assert decibels(ours, wanted)[:9].min() > 33
    assert decibels(ours, wanted)[11:].max() < 25
    assert "the range ends with the clip at 0.400 s, not at 3 s; its 12 frames are filled to 17" in caplog.text
    # Three frames are too few to be blended.
    assert "the sound from 0.320 to 0.400 s; 10 ms inside each border are blended" in caplog.text


def test_kept_pictures_are_the_clips_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = source(tmp_path / "a")
    report = tmp_path / "report.json"
    words = ["--start-time", "0", "--end-time", "0.6", "--keep-video", "--report", str(report)]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words)
    wanted = np.stack(list(ClipReader(clip).frames()))
    loss = decibels(encoded_once(clip, tmp_path), wanted) - decibels(pictures(output), wanted)
    assert loss.max() <= 0.5
    assert decibels(pictures(output), wanted).min() > 33
    stages = [stage["name"] for stage in json.loads(report.read_text())["stages"]]
    assert "kept pictures" in stages
    assert "video decoder" not in stages
    assert result(output)["kept"]["frames"] == [[0, 19]]
    assert "made anew: the sound from 0.000 to 0.600 s; kept: all frames" in caplog.text


@pytest.mark.slow
def test_kept_sound_is_the_clips_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = source(tmp_path / "a")
    words = ["--start-time", "0.2", "--end-time", "0.4", "--keep-audio", "--save-wav", str(tmp_path / "o.wav")]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words)
    heard, rate = samples(tmp_path / "o.wav")
    np.testing.assert_array_equal(heard, stored_samples(clip)[: len(heard)])
    played, wanted = ClipReader(output).sound(), ClipReader(clip).sound()
    assert played is not None
    assert wanted is not None
    for start in range(0, len(heard) - rate // 10, rate // 10):
        ours, theirs = (sound[0, start : start + rate // 10] for sound in (played, wanted))
        assert np.corrcoef(ours, theirs)[0, 1] > 0.95
        assert abs(10 * np.log10((ours**2).mean() / (theirs**2).mean())) < 1.5
    assert result(output)["kept"]["sound_s"] == [[0.0, round(20 / float(NTSC), 6)]]
    assert "kept: the sound; 2 frames inside each border are blended" in caplog.text


def test_a_clip_without_sound_stays_silent_where_it_is_kept(tmp_path: Path) -> None:
    clip = source(tmp_path / "a", sound=False)
    words = ["--start-time", "0.2", "--end-time", "0.4"]
    kept = edited("retake", clip, tmp_path / "b" / "o.mp4", *words, "--keep-audio")
    assert ClipReader(kept).sample_rate is None


@pytest.mark.slow
def test_a_clip_without_sound_gets_some_over_its_whole_length(tmp_path: Path) -> None:
    clip = source(tmp_path / "a", sound=False)
    new = edited("retake", clip, tmp_path / "c" / "o.mp4", "--start-time", "0.2", "--end-time", "0.4")
    sound = ClipReader(new).sound()
    assert sound is not None
    assert np.abs(sound).max() > 0
    assert result(new)["kept"]["sound_s"] == []


@pytest.mark.slow
def test_the_official_way_takes_everything_through_the_vaes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = source(tmp_path / "a")
    words = ["--start-time", "0.3", "--end-time", "0.5"]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words, "--kept-from", "vae")
    shown, wanted = pictures(output), np.stack(list(ClipReader(clip).frames()))
    assert shown.shape == (20, 72, 80, 3)
    assert decibels(shown, wanted).max() < 33  # of the frames outside the range, too
    assert "kept" not in result(output)
    assert "every frame passes through the VAE" in caplog.text


@pytest.mark.parametrize(
    ("direction", "frames"), [("before", 20), slow("after", 17), slow("after", 20), slow("before", 17)]
)
def test_extend_leaves_the_old_part_as_it_was(direction: str, frames: int, tmp_path: Path) -> None:
    clip = source(tmp_path / "a", frames=frames, width=64, height=40)
    words = ["--extend-frames", "8", "--direction", direction, "--save-wav", str(tmp_path / "o.wav")]
    output = edited("extend", clip, tmp_path / "b" / "o.mp4", *words)
    shown = ClipReader(output)
    assert (shown.width, shown.height, shown.num_frames, shown.frame_rate) == (64, 40, frames + 8, NTSC)
    ours, wanted = pictures(output), np.stack(list(ClipReader(clip).frames()))
    # In front of a clip its first frame shares a latent with new ones.
    place, first = (0, 0) if direction == "after" else (8, 1)
    loss = decibels(encoded_once(clip, tmp_path), wanted) - decibels(ours[place : place + frames], wanted)
    assert loss[first:].max() <= 0.5
    kept = [[0, frames - 1]] if direction == "after" else [[9, frames + 7]]
    assert result(output)["kept"]["frames"] == kept
    (heard, rate), stored = samples(tmp_path / "o.wav"), stored_samples(clip)
    old, added = round(frames / NTSC * rate), round(8 / NTSC * rate)
    assert len(heard) == round((frames + 8) / NTSC * rate)
    part = heard[:old] if direction == "after" else heard[added : added + old]
    np.testing.assert_array_equal(part, stored[: len(part)])
    new = heard[old:] if direction == "after" else heard[:added]
    assert np.abs(new).max() > 0


@pytest.mark.parametrize(
    ("fit", "size", "seen"),
    [
        slow("pad", (80, 72), "80x72 is filled to 96x96"),  # as in most other tests of this file
        ("crop", (80, 72), "80x72 is cut to 64x64"),
        slow("stretch", (80, 72), "80x72 is stretched to 96x96"),
    ],
)
def test_every_fit_gives_the_clips_own_size_back(
    fit: str, size: tuple[int, int], seen: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = source(tmp_path / "a")
    words = ["--start-time", "0.3", "--end-time", "0.5", "--fit", fit]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words)
    assert (ClipReader(output).width, ClipReader(output).height) == size
    assert f"{seen} for the model" in caplog.text
    ours, wanted = pictures(output), np.stack(list(ClipReader(clip).frames()))
    assert decibels(ours, wanted)[[0, *range(17, 20)]].min() > 33
    if fit == "crop":  # what the model never saw is the clip's own, also where the rest is made anew
        assert decibels(ours[:, :, :6], wanted[:, :, :6])[11:15].min() > 30
        assert decibels(ours[:, 10:60, 10:70], wanted[:, 10:60, 10:70])[11:15].max() < 25


def test_where_nothing_may_be_fitted_one_refusal_names_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = source(tmp_path / "a")
    words = ["--pipeline", "retake", "--video-path", str(clip), "--start-time", "0.1", "--end-time", "0.3"]
    assert run(["generate", "--prompt", PROMPT, *words, "--fit", "error", "-o", str(tmp_path / "o.mp4")]) == 2
    error = capsys.readouterr().err
    assert "has 20 frames of 80x72; with --fit error the number must be 8*k + 1 and both sides multiples of 32" in error
    assert run(["upscale", str(clip), "--fit", "error", "-o", str(tmp_path / "o.mp4")]) == 2
    assert "has 20 frames of 80x72" in capsys.readouterr().err


def test_clips_smaller_than_the_model_takes_are_filled_or_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path / "small.mkv", drifting(9, 80, 32), 24, codec="ffv1")
    words = ["--start-time", "0.1", "--end-time", "0.2"]
    output = edited("retake", clip, tmp_path / "o.mp4", *words)
    assert pictures(output).shape == (9, 32, 80, 3)
    assert "80x32 is filled to 96x64 for the model" in caplog.text
    caplog.clear()
    retake = ["generate", PROMPT, "--pipeline", "retake", "--video-path", str(clip), *words, "-o", str(output)]
    assert run([*retake, "--fit", "crop"]) == 2
    assert "is 80x32, too small to be cut to multiples of 32 from 64 on; pad it" in capsys.readouterr().err
    assert (
        run(["generate", PROMPT, "--height", "32", "--width", "64", "-o", str(output), "--pipeline", "one-stage"]) == 2
    )
    error = capsys.readouterr().err
    assert "--height and --width must be 64 or more, got 32x64" in error
    assert "settings:" not in error
    assert not caplog.records


@pytest.mark.slow
def test_an_odd_row_that_is_cut_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = tmp_path / "odd.mkv"
    with av.open(str(clip), "w") as file:
        stream = file.add_stream("ffv1", rate=24, width=81, height=73, pix_fmt="yuv444p")
        for picture in drifting(9, 81, 73):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    output = edited("retake", clip, tmp_path / "o.mp4", "--start-time", "0.1", "--end-time", "0.2")
    assert pictures(output).shape == (9, 72, 80, 3)
    assert "odd.mkv: 81x73 is cut to 80x72, files of video have even sides" in caplog.text


@pytest.mark.parametrize(
    ("frames", "width", "height", "fit", "size"),
    [(10, 80, 72, "pad", (160, 144)), (5, 64, 40, "stretch", (128, 80)), slow(12, 80, 72, "crop", (128, 128))],
)
def test_upscale_takes_any_size_and_length(
    frames: int, width: int, height: int, fit: str, size: tuple[int, int], tmp_path: Path
) -> None:
    clip = source(tmp_path / "a", frames, width, height)
    words = ["--fit", fit, "--save-wav", str(tmp_path / "o.wav")]
    assert run(["upscale", "--quiet", str(clip), "-o", str(tmp_path / "o.mp4"), *words]) == 0
    shown = ClipReader(tmp_path / "o.mp4")
    assert (shown.width, shown.height, shown.num_frames, shown.frame_rate) == (*size, frames, NTSC)
    heard, _ = samples(tmp_path / "o.wav")
    np.testing.assert_array_equal(heard, stored_samples(clip)[: len(heard)])


@pytest.mark.slow
def test_an_enlarged_retake_is_enlarged_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = source(tmp_path / "a")
    words = ["--start-time", "0.3", "--end-time", "0.5", "--upscale-spatial"]
    output = edited("retake", clip, tmp_path / "b" / "o.mp4", *words)
    shown = ClipReader(output)
    assert (shown.width, shown.height, shown.num_frames) == (160, 144, 20)
    assert "every frame passes through the VAE" in caplog.text
    assert result(output)["kept"] == {"frames": [], "sound_s": [[0.0, 0.3], [0.5, 0.667333]]}


@pytest.mark.slow
def test_a_retake_that_was_interrupted_has_the_same_bits(tmp_path: Path) -> None:
    clip = source(tmp_path / "a")
    settings = {"video_path": clip, "start_time": 0.3, "end_time": 0.5}

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.index == 3:
            raise Cancelled("stopped by the test")

    pipeline = api.load("retake")
    whole = pipeline(PROMPT, **settings)
    with pytest.raises(Cancelled):
        pipeline(PROMPT, **settings, observer=stop, state_folder=tmp_path / "state")
    continued = pipeline(PROMPT, **settings, state_folder=tmp_path / "state", resume=True)
    for one, other in zip(whole.frames, continued.frames, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.audio, continued.audio)
    # Frames can be read again.
    assert sum(len(chunk) for chunk in continued.frames) == 20


FLASH, FRAMES = 12, 25


def flashing(count: int) -> list[np.ndarray]:
    """Dark pictures, one of which is bright."""
    return [np.full((64, 64, 3), 225 if index == FLASH else 30, np.uint8) for index in range(count)]


def flash_and_click(path: Path) -> tuple[float, float]:
    """Seconds from the first picture to the flash and to the click, as a player shows them."""
    with av.open(str(path)) as clip:
        shown = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24").mean()) for f in clip.decode(video=0)]
    brightest = max(shown, key=lambda entry: entry[1])[0] - shown[0][0]
    with av.open(str(path)) as clip:
        blocks = [(float(f.pts * f.time_base), f.sample_rate, f.to_ndarray()) for f in clip.decode(audio=0)]
    loud = np.abs(np.concatenate([block for *_, block in blocks], axis=1)).max(axis=0)
    at = int(np.argmax(loud > 0.5 * loud.max())) / blocks[0][1]
    return brightest, at + blocks[0][0] - shown[0][0]


def constant(path: Path) -> float:
    write_clip(path, flashing(FRAMES), 24, sounds=[click(FRAMES / 24, FLASH / 24)])
    return FLASH / 24


def late_sound(path: Path) -> float:
    write_clip(path, flashing(FRAMES), 24, sounds=[click(FRAMES / 24 - 0.3, FLASH / 24 - 0.3)], sound_begins=0.3)
    return FLASH / 24


def late_pictures(path: Path) -> float:
    write_clip(path, flashing(FRAMES), 24, begins=0.25, sounds=[click(1.5, FLASH / 24 + 0.25)])
    return FLASH / 24


def variable_rate(path: Path) -> float:
    """Half as fast from the sixth picture on."""
    times = [index / 24 if index < 6 else (6 + 2 * (index - 6)) / 24 for index in range(FRAMES)]
    write_clip(path, flashing(FRAMES), 24, times=times, sounds=[click(times[-1] + 0.05, times[FLASH])])
    return times[FLASH]


def retaken(clip: Path, output: Path) -> None:
    edited("retake", clip, output, "--start-time", "0", "--end-time", "0.1")


def extended(clip: Path, output: Path) -> None:
    edited("extend", clip, output, "--extend-frames", "8")


TIMED = [variable_rate, *map(slow, (constant, late_pictures, late_sound))]


@pytest.mark.parametrize(
    ("made", "through"),
    [
        slow(made, through)
        for through in (retaken, extended)
        for made in (constant, late_pictures, late_sound, variable_rate)
    ],
)
def test_flash_and_click_stay_where_they_were(
    made: Callable[[Path], float], through: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    clip, output = tmp_path / "in.mp4", tmp_path / "o.mp4"
    flash_s = made(clip)
    through(clip, output)
    flash, heard = flash_and_click(output)
    tolerance = 0.5 / float(ClipReader(output).frame_rate) + 0.005
    assert abs(heard - flash_s) <= 0.005
    assert abs(flash - flash_s) <= tolerance
    assert abs(flash - heard) <= tolerance


@pytest.fixture
def faithful_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video decoder that gives what the encoder was given, twice as large: the embedded one spreads a flash over
    several frames."""
    given: list[np.ndarray] = []
    encode = upscaling.encode_pixels

    def encoded(own: Run, name: str, clips: Sequence[FrameStream], beside: int) -> list[np.ndarray]:
        if not own.planning:
            given.extend(picture.copy() for picture in clips[0].read())
        return encode(own, name, clips, beside)

    def decoded(*_: object) -> Iterator[np.ndarray]:
        for picture in given:
            yield (picture.astype(np.float32) / 255).repeat(2, axis=0).repeat(2, axis=1)[None]

    monkeypatch.setattr(upscaling, "encode_pixels", encoded)
    monkeypatch.setattr(decoding, "_decoded", decoded)


@pytest.mark.usefixtures("faithful_decoder")
@pytest.mark.parametrize("made", TIMED)
def test_flash_and_click_stay_where_they_were_through_upscale(made: Callable[[Path], float], tmp_path: Path) -> None:
    clip, output = tmp_path / "in.mp4", tmp_path / "o.mp4"
    flash_s = made(clip)
    assert run(["upscale", "--quiet", str(clip), "-o", str(output)]) == 0
    own, shown = ClipReader(clip), ClipReader(output)
    assert (shown.num_frames, shown.frame_rate, shown.variable_rate) == (own.num_frames, own.frame_rate, False)
    flash, heard = flash_and_click(output)
    tolerance = 0.5 / float(own.frame_rate) + 0.005
    assert abs(heard - flash_s) <= 0.005
    assert abs(flash - flash_s) <= tolerance
    assert abs(flash - heard) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("made", TIMED)
def test_the_click_of_driving_sound_stays_where_it_was(made: Callable[[Path], float], tmp_path: Path) -> None:
    clip, output = tmp_path / "in.mp4", tmp_path / "o.mp4"
    flash_s = made(clip)
    command = ["generate", "--quiet", "--prompt", PROMPT, "--pipeline", "audio-to-video", "--audio-path", str(clip)]
    size = ["--height", "64", "--width", "64", "--num-frames", "25", "--steps", "1"]
    assert run([*command, *size, "-o", str(output)]) == 0
    assert abs(flash_and_click(output)[1] - flash_s) <= 0.005

"""Nothing that somebody has is lost by a command: inputs, earlier work, and what another run is writing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_clips import greys, write_clip
from PIL import Image

import ltx2rt
from ltx2rt import embedded
from ltx2rt.api.latent_file import Latents, write_latents
from ltx2rt.cli.main import run
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.output_lock import held, is_held, lock_path

SMALL = ["a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
GENERATE = ["generate", "--quiet", *SMALL]
# The quickest clip, where any will do.
WITH_SOUND = [*GENERATE, "--no-gemma", "--pipeline", "one-stage", "--steps", "1"]
ANY = [*WITH_SOUND, "--no-audio"]
QUICK = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 1, "zero_text": True}


@pytest.fixture
def place(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with copies of the inputs."""
    for name in ("clip.mp4", "photo.jpg", "music.wav"):
        shutil.copy(media / name, tmp_path / name)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "picture.png")
    write_clip(tmp_path / "silent.mp4", greys(9, 64, 64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 before it computes anything, and the folder is as it was."""
    before = content(place)
    assert run(words) == 2, words
    error = capsys.readouterr().err
    assert message in error
    assert "settings:" not in error
    assert content(place) == before
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


EDIT = ["--pipeline", "retake", "--start-time", "0.1", "--end-time", "0.3", "--video-path", "clip.mp4"]
# What is given, and an output that is one of the inputs: {link} leads to the input before it.
OVER_INPUTS = {
    "the edited clip": ([*GENERATE[:3], *EDIT, "-o", "clip.mp4"], "the input"),
    "through a symbolic link": ([*GENERATE[:3], *EDIT, "-o", "soft.mp4"], "is the input clip.mp4"),
    "through a hard link": ([*GENERATE[:3], *EDIT, "-o", "hard.mp4"], "is the input clip.mp4"),
    "through a linked folder": ([*GENERATE[:3], *EDIT, "-o", "folder/clip.mp4"], "is the input clip.mp4"),
    "another spelling": ([*GENERATE[:3], *EDIT, "-o", "./folder/./folder/clip.mp4"], "is the input clip.mp4"),
    "the sound": (
        ["generate", "--pipeline", "audio-to-video", "x", "--audio-path", "music.wav", "--save-wav", "music.wav"],
        "--save-wav: music.wav is the input",
    ),
    "the picture as contact sheet": (
        [*GENERATE, "--image", "picture.png", "--contact-sheet", "picture.png"],
        "--contact-sheet: picture.png is the input",
    ),
    "the picture as preview": (
        [*GENERATE, "--image", "picture.png", "--preview", "picture.png"],
        "--preview: picture.png is the input",
    ),
    "the picture as first frame": (
        [*GENERATE, "--image", "picture.png", "--save-first-frame", "picture.png"],
        "--save-first-frame: picture.png is the input",
    ),
    "the configuration": (
        [*GENERATE, "--config", "set.json", "--report", "set.json"],
        "set.json is the input",
    ),
    "a LoRA": ([*GENERATE, "--lora", "style.safetensors", "--save-latents", "style.safetensors"], "is the input"),
    "the checkpoint": (
        [*GENERATE, "--checkpoint-path", "style.safetensors", "--save-latents", "style.safetensors"],
        "is the input",
    ),
    "a file among the weights": (
        [*GENERATE, "--checkpoint-path", "pack", "--save-latents", "pack/model.safetensors"],
        "lies among the inputs in",
    ),
    "upscale": (["upscale", "clip.mp4", "-o", "soft.mp4"], "is the input clip.mp4"),
    "upscale, the report": (["upscale", "clip.mp4", "-o", "new.mp4", "--report", "clip.mp4"], "must end in .json"),
    "upscale, the latents": (
        ["upscale", "latents.safetensors", "-o", "new.mp4", "--save-latents", "latents.safetensors"],
        "is the input",
    ),
    "encode": (
        ["encode", "x", "--checkpoint-path", "style.safetensors", "-o", "style.safetensors"],
        "is the input",
    ),
    "convert": (
        ["convert", "style.safetensors", "soft.safetensors", "--format", "int8-convrot"],
        "is the input style.safetensors",
    ),
}


@pytest.mark.parametrize("case", OVER_INPUTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_replaced(
    case: str, overwrite: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink("clip.mp4", place / "soft.mp4")
    os.link(place / "clip.mp4", place / "hard.mp4")
    os.symlink(".", place / "folder")
    (place / "set.json").write_text("num-frames = 9\n")
    write_latents(place / "latents.safetensors", Latents("19b", Fraction(24), np.zeros((1, 2, 2, 2, 128), np.float32)))
    shutil.copy(place / "latents.safetensors", place / "style.safetensors")
    os.symlink("style.safetensors", place / "soft.safetensors")
    (place / "pack").mkdir()
    shutil.copy(place / "latents.safetensors", place / "pack" / "model.safetensors")
    words, message = OVER_INPUTS[case]
    refused([*words, *(["--overwrite"] if overwrite else [])], message, place, capsys)


def test_python_never_replaces_an_input_and_a_refused_save_costs_nothing(place: Path) -> None:
    clip = ltx2rt.load("one-stage")(images=["picture.png"], **QUICK)
    before = content(place)
    for name, options, message in (
        ("new.mp4", {"contact_sheet": "picture.png"}, "contact_sheet: picture.png is the input"),
        ("new.mp4", {"save_first_frame": "x.jpg"}, "save_first_frame must end in .png"),
        ("new.mp4", {"save_wav": "x.mp3"}, "save_wav must end in .wav"),
        ("new.mp4", {"save_latents": "x.npz"}, "save_latents must end in .safetensors"),
        ("new.mp4", {"save_first_frame": "x.png", "contact_sheet": "./x.png"}, "are both written to"),
        ("new.avi", {}, "^path must end in .mp4, .m4v, .mov, .wav"),
        ("new.wav", {"contact_sheet": "x.png"}, "contact_sheet has nothing to write"),
        ("new.wav", {"audio": False}, "is a file of sound"),
        ("clip.mp4", {"overwrite": False}, "clip.mp4 exists; give overwrite"),
    ):
        with pytest.raises(UsageError, match=message):
            clip.save(name, **options)
    with pytest.raises(MediaError, match="does not exist"):
        clip.save("nowhere/new.mp4")
    assert content(place) == before
    clip.save("new.mp4", save_first_frame="x.png")
    assert sum(1 for _ in ClipReader(place / "new.mp4").frames()) == 9


def test_an_embedding_from_python_replaces_no_input_and_is_what_its_name_says(place: Path) -> None:
    for name in ("model.safetensors", "text.safetensors"):
        shutil.copy(embedded.CHECKPOINT, place / name)
    given = {"checkpoint": "model.safetensors", "text_encoder": embedded.TEXT_ENCODER}
    before = content(place)
    for output, more, message in (
        ("model.safetensors", given, "^output: model.safetensors is the input"),
        ("text.pt", {}, "^output must end in .safetensors, .npz"),
        ("text.safetensors", {"overwrite": False}, "text.safetensors exists; give overwrite"),
    ):
        with pytest.raises(UsageError, match=message):
            ltx2rt.encode("a dog", output=output, **more)
    assert content(place) == before


# Outputs that name two things at once, lie about what they hold, or that such a run does not have.
REFUSED = {
    "report and clip": ([*GENERATE, "-o", "o.mp4", "--report", "o.mp4"], "--report must end in .json"),
    "report and sidecar": (
        [*GENERATE, "-o", "o.mp4", "--report", "o.mp4.json"],
        "the sidecar and --report are both written to o.mp4.json",
    ),
    "two pictures": (
        [*GENERATE, "-o", "o.mp4", "--save-first-frame", "x.png", "--contact-sheet", "./x.png"],
        "--save-first-frame and --contact-sheet are both written to x.png",
    ),
    "preview and sheet": (
        [*GENERATE, "-o", "o.mp4", "--preview", "x.png", "--contact-sheet", "x.png"],
        "--contact-sheet and --preview are both written to x.png",
    ),
    "sound twice": ([*GENERATE, "-o", "o.wav", "--save-wav", "o.wav"], "are both written to o.wav"),
    "a JPEG": ([*GENERATE, "-o", "o.mp4", "--save-first-frame", "x.jpg"], "--save-first-frame must end in .png"),
    "a sheet": ([*GENERATE, "-o", "o.mp4", "--contact-sheet", "x.webp"], "--contact-sheet must end in .png"),
    "a preview": ([*GENERATE, "-o", "o.mp4", "--preview", "x.gif"], "--preview must end in .png"),
    "an MP3": ([*GENERATE, "-o", "o.mp4", "--save-wav", "x.mp3"], "--save-wav must end in .wav"),
    "numpy": ([*GENERATE, "-o", "o.mp4", "--save-latents", "x.npz"], "--save-latents must end in .safetensors"),
    "no ending": ([*GENERATE, "-o", "clip"], "must end in .mp4, .m4v, .mov, .wav"),
    "a sheet of sound": ([*GENERATE, "-o", "o.wav", "--contact-sheet", "x.png"], "o.wav is sound alone"),
    "a sheet without pictures": (
        ["generate", "x", "--pipeline", "text-to-audio", "--contact-sheet", "x.png"],
        "--contact-sheet has nothing to write",
    ),
    "sound of latents": (
        [*GENERATE, "--skip-vae", "--save-latents", "l.safetensors", "--save-wav", "x.wav"],
        "latents alone are made",
    ),
    "quality of sound": (
        [*GENERATE, "-o", "o.wav", "--crf", "20"],
        "--crf has no effect, because o.wav is sound alone",
    ),
    "codec of sound": (
        ["generate", "x", "--pipeline", "text-to-audio", "--codec", "hevc"],
        "--codec has no effect, because output.wav is sound alone",
    ),
    "codec of latents": (
        [*GENERATE, "--skip-vae", "--save-latents", "l.safetensors", "--codec", "hevc"],
        "--codec has no effect, because latents alone are made; leave it out",
    ),
    "speed of latents": (
        [*GENERATE, "--skip-vae", "--save-latents", "l.safetensors", "--speed", "2"],
        "--speed has no effect, because latents alone are made",
    ),
    "upscale, preset of sound": (
        ["upscale", "clip.mp4", "-o", "o.wav", "--preset", "slow"],
        "--preset has no effect, because o.wav is sound alone",
    ),
    "silent sound": ([*GENERATE, "-o", "o.wav", "--no-audio"], "is a file of sound"),
    "upscale to AVI": (["upscale", "clip.mp4", "-o", "o.avi"], "must end in .mp4, .m4v, .mov"),
    "upscale, report over clip": (["upscale", "clip.mp4", "-o", "o.mp4", "--report", "o.mp4"], "must end in .json"),
    "upscale, two pictures": (
        ["upscale", "clip.mp4", "-o", "o.mp4", "--save-first-frame", "x.png", "--contact-sheet", "x.png"],
        "are both written to x.png",
    ),
    "upscale, sound of a silent clip": (
        ["upscale", "silent.mp4", "-o", "o.mp4", "--save-wav", "x.wav"],
        "--save-wav has nothing to write, because there is no sound",
    ),
    "upscale, a silent clip as sound": (["upscale", "silent.mp4", "-o", "o.wav"], "must end in .mp4, .m4v, .mov,"),
    "retake, kept sound of a silent clip": (
        [
            *("generate", "x", "--pipeline", "retake", "--video-path", "silent.mp4", "--start-time", "0.1"),
            *("--end-time", "0.2", "--keep-audio", "--save-wav", "x.wav"),
        ],
        "--save-wav has nothing to write, because there is no sound",
    ),
    "encode": (["encode", "x", "-o", "x.pt"], "must end in .safetensors, .npz"),
    "plan": (["plan", "--plot", "x.pdf"], "--plot must end in .png"),
    "bench": (["bench", "--only", "attention", "--plot", "x.pdf"], "--plot must end in .png"),
    "convert": (["convert", "clip.mp4", "x.gguf", "--format", "int8-convrot"], "OUT must end in .safetensors"),
    "convert, report": (
        ["convert", "clip.mp4", "x.safetensors", "--format", "int8-convrot", "--report", "r.txt"],
        "--report must end in .json",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_that_cannot_be_are_refused_before_computing(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[case]
    refused(words, message, place, capsys)


# What is given, and what is written in place of files that exist.
EXISTING = {
    "the clip": ([*ANY, "-o", "precious.mp4"], {"precious-2.mp4", "precious-2.mp4.json"}),
    "the sidecar": ([*ANY, "-o", "sided.mp4"], {"sided-2.mp4", "sided-2.mp4.json"}),
    "no sidecar": ([*ANY, "-o", "sided.mp4", "--no-sidecar"], {"sided.mp4"}),
    "a picture": (
        [*ANY, "-o", "new.mp4", "--contact-sheet", "precious.png"],
        {"new.mp4", "new.mp4.json", "precious-2.png"},
    ),
    "further files": (
        [
            *(*ANY, "-o", "new.mp4", "--preview", "precious.png", "--save-wav", "precious.wav"),
            *("--report", "precious.json", "--save-first-frame", "f.png"),
        ],
        {"new.mp4", "new.mp4.json", "precious-2.png", "precious-2.wav", "precious-2.json", "f.png"},
    ),
    "latents": (
        [*WITH_SOUND, "--skip-vae", "--save-latents", "precious.safetensors"],
        {"precious-2.safetensors", "precious-2.safetensors.json"},
    ),
    "a link that leads nowhere": ([*ANY, "-o", "dangling.mp4"], {"dangling-2.mp4", "dangling-2.mp4.json"}),
    "one number for all that move": (
        [*ANY, "-o", "precious.mp4", "--contact-sheet", "twice.png"],
        {"precious-3.mp4", "precious-3.mp4.json", "twice-3.png"},
    ),
    "upscale": (
        ["upscale", "clip.mp4", "-o", "precious.mp4", "--report", "precious.json"],
        {"precious-2.mp4", "precious-2.mp4.json", "precious-2.json"},
    ),
    "encode": (
        ["encode", "x", "-o", "precious.safetensors"],
        {"precious-2.safetensors", "precious-2.safetensors.json"},
    ),
    "plan": (["plan", "--plot", "precious.png"], {"precious-2.png"}),
    "convert": (
        ["convert", str(embedded.SPATIAL_UPSCALER), "precious.safetensors", "--format", "bf16", "--report", "r.json"],
        {"precious-2.safetensors", "r.json"},
    ),
}


# Of clips the default run makes one with everything that may move; the others show one file of it each.
MOVED_ALONE = ("the clip", "a picture", "a link that leads nowhere")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in MOVED_ALONE else ()) for case in EXISTING]
)
def test_what_exists_is_not_replaced_and_the_new_name_is_said(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("mp4", "png", "wav", "json", "safetensors"):
        (place / f"precious.{suffix}").write_bytes(b"precious")
    for name in ("sided.mp4.json", "twice.png", "twice-2.png"):
        (place / name).write_bytes(b"precious")
    os.symlink("nowhere", place / "dangling.mp4")
    words, written = EXISTING[case]
    before = content(place)
    assert run(words) == 0
    after = content(place)
    assert {name: after[name] for name in before} == before
    assert {Path(name).name for name in after.keys() - before.keys()} == written
    assert os.readlink(place / "dangling.mp4") == "nowhere"
    captured = capsys.readouterr()
    moved = {name for name in written if ("-2" in name or "-3" in name) and ".safetensors.json" not in name}
    assert all(name in captured.err for name in moved)
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_overwrite_replaces_all_of_them(place: Path) -> None:
    names = {"--save-wav": "s.wav", "--save-first-frame": "f.png", "--contact-sheet": "c.png", "--preview": "p.png"}
    names |= {"--save-latents": "l.safetensors", "--report": "r.json", "-o": "o.mp4"}
    for name in (*names.values(), "o.mp4.json"):
        (place / name).write_bytes(b"old")
    words = [word for pair in names.items() for word in pair]
    assert run([*ANY, *words, "--overwrite"]) == 0
    assert all((place / name).read_bytes() != b"old" for name in (*names.values(), "o.mp4.json"))
    assert not [path for path in place.iterdir() if path.name.startswith(".")]
    assert run([*ANY, "--report", "/dev/null", "-o", "o2.mp4", "--overwrite"]) == 2
    assert Path("/dev/null").is_char_device()


def test_the_usual_name_makes_room_and_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expected in ("output.mp4", "output-2.mp4"):
        assert run([*ANY]) == 0
        captured = capsys.readouterr()
        assert captured.out.strip() == expected
        assert ("exists: writing" in captured.err) == (expected != "output.mp4")
    assert json.loads((place / "output-2.mp4.json").read_text())["settings"]["prompt"] == "a red circle"
    (place / "output-2.mp4").unlink()
    (place / "output-2.mp4.json").unlink()
    assert run([*ANY, "--no-sidecar"]) == 0
    assert capsys.readouterr().out.strip() == "output-2.mp4"
    for expected in ("embedding.safetensors", "embedding-2.safetensors"):
        assert run(["encode", "--quiet", "a dog"]) == 0
        assert capsys.readouterr().out.strip() == expected


def test_a_sidecar_run_again_with_a_change_writes_other_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ANY, "-o", "c.mp4", "--contact-sheet", "sheet.png", "--save-wav", "c.wav"]) == 0
    before = content(place)
    assert run(["generate", "--quiet", "--from-sidecar", "c.mp4.json", "--seed", "7"]) == 0
    assert "c.mp4 exists: writing c-2.mp4 " in capsys.readouterr().err
    after = content(place)
    assert {name: after[name] for name in before} == before
    assert {Path(name).name for name in after.keys() - before.keys()} == {
        *("c-2.mp4", "c-2.mp4.json", "sheet-2.png", "c-2.wav")
    }
    assert json.loads((place / "c-2.mp4.json").read_text())["settings"]["seed"] == 7
    # A name of one's own for the clip does not change what becomes of the others.
    assert run(["generate", "--quiet", "--from-sidecar", "c.mp4.json", "-o", "d.mp4"]) == 0
    assert (place / "d.mp4").read_bytes() == before[str(place / "c.mp4")]
    assert (place / "sheet-3.png").exists()
    assert content(place)[str(place / "sheet.png")] == before[str(place / "sheet.png")]
    # The record that is repeated is an input like others.
    assert run(["generate", "--from-sidecar", "c.mp4.json", "-o", "c.mp4", "--overwrite"]) == 2
    assert "c.mp4.json is the input" in capsys.readouterr().err


def test_a_plan_and_a_printed_configuration_write_nothing_and_ask_nothing(place: Path) -> None:
    (place / "o.mp4").write_bytes(b"precious")
    assert run([*GENERATE, "-o", "o.mp4", "--plan"]) == 0
    assert run([*GENERATE, "-o", "o.mp4", "--print-config"]) == 0
    assert (place / "o.mp4").read_bytes() == b"precious"


def test_all_files_of_a_clip_appear_together(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = ltx2rt.load("one-stage")(**QUICK)

    def full(*_: object) -> None:
        raise MediaError("the disk is full")

    before = content(place)
    monkeypatch.setattr("ltx2rt.api.clip.write_record", full)
    with pytest.raises(MediaError, match="disk is full"):
        clip.save("new.mp4", save_latents="l.safetensors", save_wav="s.wav", contact_sheet="c.png")
    assert content(place) == before
    monkeypatch.undo()
    clip.save(place / "new.mp4", save_latents=place / "l.safetensors")
    assert {path.name for path in place.iterdir()} >= {"new.mp4", "new.mp4.json", "l.safetensors"}


def test_a_clip_without_sound(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ANY, "-o", "o.mp4", "--save-wav", "o.wav"]) == 0
    with av.open("o.mp4") as clip:
        assert (len(clip.streams.video), len(clip.streams.audio)) == (1, 0)
    with wave.open("o.wav") as sound:
        assert sound.getnframes() > 5000
    assert json.loads((place / "o.mp4.json").read_text())["output"]["audio"] is False
    assert run(["generate", "--quiet", "--from-sidecar", "o.mp4.json", "-o", "p.mp4"]) == 0
    assert (place / "p.mp4").read_bytes() == (place / "o.mp4").read_bytes()
    assert run(["upscale", "--quiet", "clip.mp4", "-o", "u.mp4", "--no-audio"]) == 0
    with av.open("u.mp4") as clip:
        assert not clip.streams.audio
    assert run(["generate", "x", "--pipeline", "text-to-audio", "--no-audio"]) == 2
    assert "is a file of sound" in capsys.readouterr().err


@pytest.mark.parametrize(("frames", "rate", "speed"), [(9, "24", "1"), (17, "23.976", "1"), (9, "24", "2")])
def test_the_sound_is_as_long_as_the_pictures(frames: int, rate: str, speed: str, place: Path) -> None:
    words = [*WITH_SOUND, "--num-frames", str(frames), "--fps", rate, "--speed", speed, "-o", "o.mp4"]
    assert run(words) == 0
    with av.open("o.mp4") as clip:
        video, audio = clip.streams.video[0], clip.streams.audio[0]
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
        assert lengths[0] == pytest.approx(lengths[1], abs=1 / audio.rate)
        assert clip.duration == pytest.approx(max(lengths) * 1e6, abs=2)


# Another process, which is writing same.mp4.
HOLD = """
import time
from pathlib import Path
from ltx2rt.media.output_lock import held
with held([Path("same.mp4")]):
    print("begun", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def other_run(place: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_a_lock_dies_with_its_process(place: Path, other_run: subprocess.Popen[str]) -> None:
    path = place / "same.mp4"
    assert is_held(path)
    message = rf"being written by another run \(process {other_run.pid}\)"
    with pytest.raises(UsageError, match=message), held([place / "first.mp4", path]):
        pass
    assert not lock_path(place / "first.mp4").exists()
    other_run.kill()
    other_run.wait()
    assert lock_path(path).exists()
    with held([path, place / "other.mp4"]), held([path]):  # the same thread may ask twice
        assert is_held(path)
    assert not [name for name in os.listdir(place) if name.startswith(".")]


def test_of_two_runs_that_write_one_file_the_second_is_refused(
    place: Path, other_run: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        [*GENERATE, "-o", "same.mp4"],
        [*GENERATE, "-o", "linked/same.mp4", "--overwrite"],
        ["upscale", "clip.mp4", "-o", "same.mp4"],
    ):
        (place / "linked").unlink(missing_ok=True)
        (place / "linked").symlink_to(".")
        before = content(place)
        assert run(words) == 2
        error = capsys.readouterr().err
        assert "same.mp4 is being written by another run" in error
        assert "settings:" not in error
        assert content(place) == before
    clip = ltx2rt.load("one-stage")(**QUICK)
    with pytest.raises(UsageError, match="is being written by another run"):
        clip.save("same.mp4")


def test_a_usual_name_that_another_run_is_writing_counts_as_used(
    place: Path, other_run: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ltx2rt.cli.generate.DEFAULT_OUTPUT", Path("same.mp4"))
    assert run(ANY) == 0
    assert capsys.readouterr().out.strip() == "same-2.mp4"

"""Output files and WAV: complete or absent, exact samples, rejections."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from ltx2rt import atomic_file
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media import output_file
from ltx2rt.media.output_file import OutputFile
from ltx2rt.media.pcm import to_int16, write_wav


def test_the_file_appears_with_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    with OutputFile(path) as output:
        output.file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.bin"]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".result.bin.part").write_bytes(b"x" * 99)
    with OutputFile(tmp_path / "result.bin") as output:
        output.file.write(b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("result.bin", b"new")]


def test_a_failed_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output_file.os, "replace", refuse)
    with pytest.raises(MediaError, match="Permission denied"), OutputFile(tmp_path / "result.bin") as output:
        output.file.write(b"new")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_operating_system_while_writing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"result\.bin: No space left"), OutputFile(tmp_path / "result.bin"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("missing/result.mp4", "missing does not exist; create the folder"),
        ("file/result.mp4", "file is not a folder"),
        ("folder", "it is a folder; give a file name"),
    ):
        with pytest.raises(MediaError, match=message):
            OutputFile(tmp_path / name)
    OutputFile(tmp_path / "folder" / "result.mp4").discard()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_folder_that_refuses_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(atomic_file, "FileIO", refuse)
    with pytest.raises(MediaError, match=r"cannot write .*result\.mp4: Permission denied; check free space"):
        OutputFile(tmp_path / "result.mp4")


def test_samples_are_clipped_and_truncated_toward_zero() -> None:
    waveform = np.array([[0.0, 1.0], [-1.0, 2.0], [0.99999, -0.99999], [1.5 / 32767, -1.5 / 32767]], np.float32)
    expected = [[0, 32767], [-32767, 32767], [32766, -32766], [1, -1]]
    assert to_int16(waveform).tolist() == expected


def test_wav_holds_the_samples(tmp_path: Path) -> None:
    waveform = np.linspace(-1.2, 1.2, 200, dtype=np.float32).reshape(100, 2)
    write_wav(tmp_path / "sound.wav", waveform, 24000)
    with wave.open(str(tmp_path / "sound.wav"), "rb") as stored:
        assert (stored.getnchannels(), stored.getsampwidth(), stored.getframerate()) == (2, 2, 24000)
        samples = np.frombuffer(stored.readframes(100), "<i2").reshape(100, 2)
    np.testing.assert_array_equal(samples, to_int16(waveform))
    assert [entry.name for entry in tmp_path.iterdir()] == ["sound.wav"]


def test_sound_that_is_no_sound_is_refused(tmp_path: Path) -> None:
    for waveform, message in (
        (np.zeros(5, np.float32), r"float \(S, C\), got float32 \(5,\)"),
        (np.zeros((5, 2), np.int16), "got int16"),
        (np.full((5, 2), np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(UsageError, match=message):
            write_wav(tmp_path / "sound.wav", waveform, 24000)
    assert list(tmp_path.iterdir()) == []

"""Video writer: what is read back equals what was written, nothing is left after a failure, rejections."""

from __future__ import annotations

import errno
import wave
from fractions import Fraction
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from ltx2rt import atomic_file
from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.frame_rate import exact_frame_rate
from ltx2rt.media.pcm import to_int16, write_wav
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.media.yuv import yuv420_bt709

WIDTH, HEIGHT = 96, 64


def gradients(frames: int) -> np.ndarray:
    """(F, 64, 96, 3) float32 in [0, 1], smooth in space and time."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    blue = np.linspace(0, 1, frames, dtype=np.float32)
    return np.stack([np.stack([x / WIDTH, y / HEIGHT, np.full_like(x, b)], axis=-1) for b in blue])


def tones(samples: int, rate: int) -> np.ndarray:
    t = np.arange(samples) / rate
    left, right = 0.5 * np.sin(2 * np.pi * 440 * t), 0.25 * np.sin(2 * np.pi * 660 * t)
    return np.stack([left, right], axis=1).astype(np.float32)


def rec709_planes(path: Path) -> tuple[np.ndarray, ...]:
    with av.open(str(path)) as container:
        return tuple(frame.to_ndarray() for frame in container.decode(video=0))


def test_clip_with_sound_comes_back(tmp_path: Path) -> None:
    frames, sound = gradients(25), tones(23000, 24000)
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, WIDTH, HEIGHT, 23.976, sample_rate=24000) as writer:
        writer.write(frames[:9])
        writer.write((frames[9:] * 255).astype(np.uint8))
        writer.write_audio(sound)
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (WIDTH, HEIGHT, Fraction(24000, 1001))
        assert video.codec_context.name == "h264"
        assert video.codec_context.pix_fmt == "yuv420p"
        context = video.codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        decoded = list(container.decode(video))
    assert [frame.pts for frame in decoded] == [1001 * i for i in range(25)]
    # Compared as planes: how a player turns them into RGB is not the writer's business.
    for frame, wanted in zip(decoded, frames, strict=True):
        planes = np.concatenate([plane.ravel() for plane in yuv420_bt709(wanted)])
        difference = np.abs(frame.to_ndarray().ravel().astype(int) - planes)
        assert difference.mean() < 1.5
        assert difference.max() < 16

    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 24000, 2)
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio)], axis=1)
    assert 23000 <= samples.shape[1] < 23000 + 1024
    np.testing.assert_allclose(samples[:, 2000:21000].T, sound[2000:21000], atol=0.02)


@pytest.mark.parametrize(("codec", "profile"), [("h264", "High"), ("hevc", "Main")])
def test_the_best_quality_is_a_profile_that_players_have(tmp_path: Path, codec: str, profile: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    frames = np.concatenate([gradients(3), noise.astype(np.float32) / 255])
    path = tmp_path / "clip.mov"
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(25, 2), codec=codec, crf=0) as writer:
        writer.write(frames)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)
        assert container.streams.video[0].profile == profile
        assert not container.streams.audio
    for planes, wanted in zip(rec709_planes(path), frames, strict=True):
        expected = np.concatenate([plane.ravel() for plane in yuv420_bt709(wanted)])
        np.testing.assert_allclose(planes.ravel(), expected, atol=1 if codec == "h264" else 4)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m4v", "clip.mov", "it's 50% ä.mp4"])
def test_the_index_comes_before_the_data(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, WIDTH, HEIGHT, 24, sample_rate=24000) as writer:
        writer.write(gradients(9))
        writer.write_audio(tones(9000, 24000))
    data = (tmp_path / name).read_bytes()
    kinds, position = [], 0
    while position < len(data):
        kinds.append(data[position + 4 : position + 8])
        position += int.from_bytes(data[position : position + 4], "big")
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    with av.open(str(tmp_path / name)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    with av.open(str(tmp_path / name)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert audio.duration * audio.time_base == video.duration * video.time_base == Fraction(9, 24)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    files = set()
    for _ in range(8):  # x264 with AVX-512 differs in about one of ten
        with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 24, sample_rate=48000) as writer:
            writer.write_audio(tones(3000, 48000))
            writer.write(gradients(9))
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1


def test_hevc_is_what_was_asked_for_and_the_same_each_time(tmp_path: Path) -> None:
    frames = gradients(5)
    for name in ("a", "b"):
        with VideoWriter(tmp_path / f"{name}.mp4", WIDTH, HEIGHT, 24, codec="hevc", preset="ultrafast") as writer:
            writer.write(frames)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.codec_tag) == ("hevc", "hvc1")
        decoded = [frame.to_ndarray() for frame in container.decode(video=0)]
    for frame, wanted in zip(decoded, frames, strict=True):
        luma = yuv420_bt709(wanted)[0].astype(int)
        assert np.abs(frame[:HEIGHT].astype(int) - luma).mean() < 2
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_quality_and_speed_reach_the_encoder(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((3, HEIGHT, WIDTH, 3), np.float32)
    sizes = []
    for name, options in (("good", {"crf": 10}), ("poor", {"crf": 45}), ("slow", {"crf": 45, "preset": "slow"})):
        with VideoWriter(tmp_path / f"{name}.mp4", WIDTH, HEIGHT, 24, **options) as writer:
            writer.write(noise)
        sizes.append((tmp_path / f"{name}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    assert sizes[1] != sizes[2]


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (24, Fraction(24)),
        (25.0, Fraction(25)),
        (1.0, Fraction(1)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
    ],
)
def test_frame_rates_are_exact(given: Fraction | float, exact: Fraction) -> None:
    assert exact_frame_rate(given) == exact


@pytest.mark.parametrize("rate", [0, -24, float("nan"), float("inf")])
def test_impossible_frame_rates_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="frame rate must be positive"):
        exact_frame_rate(rate)


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_clip_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an older clip")

    def interrupted() -> None:
        with VideoWriter(path, WIDTH, HEIGHT, 24, sample_rate=24000) as writer:
            writer.write(gradients(5))
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"an older clip"


class FullDisk(FileIO):
    """A file on a disk that has room for ``room`` bytes."""

    room = 0

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("room", [0, 100, 6000])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(FullDisk, "room", room)
    monkeypatch.setattr(atomic_file, "FileIO", FullDisk)
    noise = np.random.default_rng(0).random((40, HEIGHT, WIDTH, 3), np.float32)

    def write() -> None:
        with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 24, sample_rate=24000) as writer:
            writer.write_audio(tones(24000, 24000))
            writer.write(noise)

    with pytest.raises(MediaError, match=r"cannot write .*clip\.mp4: No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frame was produced"), VideoWriter(tmp_path / "a.mp4", 32, 32, 24):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": "missing/clip.mp4"}, MediaError, "missing does not exist; create the folder"),
        ({"path": "clip.avi"}, UsageError, "must end in .mp4, .m4v, .mov"),
        ({"width": 33}, UsageError, "even and positive, got 33x32"),
        ({"height": 0}, UsageError, "even and positive, got 32x0"),
        ({"crf": 52}, UsageError, "crf must be 0 to 51, got 52"),
        ({"codec": "vp9"}, UsageError, "unknown video codec 'vp9'; use one of h264, hevc"),
        ({"preset": "warp"}, UsageError, "unknown encoder preset 'warp'"),
        ({"sample_rate": 12345}, MediaError, "cannot set up the encoder"),
    ],
)
def test_impossible_clips_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"path": "clip.mp4", "width": 32, "height": 32, "frame_rate": 24, **changes}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(error, match=message):
        VideoWriter(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_and_sounds_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 24, sample_rate=24000) as writer:
        writer.write(gradients(2))
        with pytest.raises(UsageError, match=r"frames must be \(F, 64, 96, 3\), got \(1, 64, 64, 3\)"):
            writer.write(np.zeros((1, 64, 64, 3), np.uint8))
        with pytest.raises(UsageError, match="frames must be uint8 or float, got int64"):
            writer.write(np.zeros((1, HEIGHT, WIDTH, 3), np.int64))
        with pytest.raises(UsageError, match="frame 2 holds values that are not numbers"):
            writer.write(np.full((1, HEIGHT, WIDTH, 3), np.nan, np.float32))
        with pytest.raises(UsageError, match=r"waveform must be \(S, 2\) with S > 0, got \(5, 1\)"):
            writer.write_audio(np.zeros((5, 1), np.float32))
        writer.write_audio(tones(2000, 24000))
    with VideoWriter(tmp_path / "silent.mp4", WIDTH, HEIGHT, 24) as writer:
        writer.write(gradients(1))
        with pytest.raises(UsageError, match="has no audio track"):
            writer.write_audio(tones(2000, 24000))


def test_sound_in_parts_is_the_sound_in_one_piece(tmp_path: Path) -> None:
    sound, pictures = tones(5000, 24000), gradients(6)
    for name, cuts in (("whole", [0, 5000]), ("parts", [0, 1, 700, 3000, 3001, 5000])):
        with VideoWriter(tmp_path / f"{name}.mp4", WIDTH, HEIGHT, 24, sample_rate=24000) as writer:
            for begin, end in pairwise(cuts):
                writer.write_audio(sound[begin:end])
                writer.write(pictures[:1])
                pictures = pictures[1:] if len(cuts) > 2 else pictures
        assert writer.samples_written == 5000
    heard = []
    for name in ("whole", "parts"):
        with av.open(tmp_path / f"{name}.mp4") as container:
            heard.append(np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1))
    np.testing.assert_array_equal(*heard)


def test_colours_are_limited_range_bt709() -> None:
    # The corners of the cube in bytes, by hand from Kr = 0.2126, Kb = 0.0722: 16 + 219 y, 128 + 224 c, cut off.
    corners = {
        (0, 0, 0): (16, 128, 128),
        (1, 1, 1): (235, 128, 128),
        (1, 0, 0): (62, 102, 240),
        (0, 1, 0): (172, 41, 26),
        (0, 0, 1): (31, 240, 117),
    }
    for rgb, expected in corners.items():
        planes = yuv420_bt709(np.full((4, 6, 3), rgb, np.float32))
        assert [plane.shape for plane in planes] == [(4, 6), (2, 3), (2, 3)]
        for plane, value in zip(planes, expected, strict=True):
            assert np.abs(plane.astype(int) - value).max() == 0, (rgb, plane)


def test_chroma_is_the_mean_of_four_pixels() -> None:
    frame = np.zeros((2, 2, 3), np.float32)
    frame[0, 0] = (0, 0, 1)
    _, blue, _ = yuv420_bt709(frame)
    assert blue[0, 0] == 156  # 128 + 112 / 4
    with pytest.raises(UsageError, match="even H and W"):
        yuv420_bt709(np.zeros((3, 2, 3), np.float32))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_frames_of_a_file_begin_and_end_at_intra_frames_and_lose_less(tmp_path: Path, codec: str) -> None:
    rng = np.random.default_rng(1)
    frames = np.clip(gradients(24) + rng.normal(0, 0.02, (24, HEIGHT, WIDTH, 3)), 0, 1).astype(np.float32)
    of_file, sizes, errors = (range(6), range(15, 24)), [], []
    for name, parts in (("plain.mp4", ()), ("kept.mp4", of_file)):
        with VideoWriter(tmp_path / name, WIDTH, HEIGHT, 24, codec=codec, of_file=parts) as writer:
            writer.write(frames)
        with av.open(str(tmp_path / name)) as clip:
            sizes.append([packet.size for packet in clip.demux(video=0) if packet.size])
        with av.open(str(tmp_path / name)) as clip:
            decoded = list(clip.decode(video=0))
        shown = np.stack([frame.to_ndarray()[:HEIGHT] for frame in decoded]).astype(float)
        wanted = np.stack([16 + 219 * (frame @ np.array([0.2126, 0.7152, 0.0722])) for frame in frames])
        errors.append(((shown - wanted) ** 2).mean(axis=(1, 2)))
    assert {0, 6, 15} <= {index for index, frame in enumerate(decoded) if frame.pict_type == PictureType.I}
    kept = [*range(6), *range(15, 24)]
    assert errors[1][kept].mean() < 0.9 * errors[0][kept].mean()
    assert sum(sizes[1]) > sum(sizes[0])


def test_planes_of_a_file_come_out_as_they_went_in() -> None:
    rng = np.random.default_rng(2)
    luma = rng.integers(30, 200, (8, 8))
    grey = np.repeat(((luma - 16) / 219).astype(np.float32)[..., None], 3, axis=2)
    y, blue, red = yuv420_bt709(grey, rounded=True)
    np.testing.assert_array_equal(y, luma)
    assert set(np.unique(blue)) == set(np.unique(red)) == {128}
    # Truncated, some lose a step.
    assert (yuv420_bt709(grey)[0] <= luma).all()


def test_samples_of_a_file_come_out_as_they_went_in(tmp_path: Path) -> None:
    stored = np.arange(-(2**15), 2**15, dtype=np.int16).reshape(-1, 2)
    read = (stored / 2**15).astype(np.float32)
    np.testing.assert_array_equal(to_int16(read, of_file=True), stored)
    assert (to_int16(read) != stored).mean() > 0.5
    assert to_int16(np.full((1, 2), 1.5, np.float32), of_file=True).tolist() == [[32767, 32767]]
    write_wav(tmp_path / "o.wav", read, 48000, of_file=True)
    with wave.open(str(tmp_path / "o.wav")) as file:
        np.testing.assert_array_equal(np.frombuffer(file.readframes(-1), "<i2").reshape(-1, 2), stored)

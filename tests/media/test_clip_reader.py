"""Clips as they are shown: stamps, edit lists, turns and mirrors, pixel shapes, fields, and the sound beside them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from made_clips import (
    QUARTERS,
    card,
    click,
    click_time,
    dolby_vision_unit,
    greys,
    places,
    set_display_matrix,
    spots,
    tone,
    trim_by_edit_list,
    write_clip,
    write_sound,
)
from PIL import Image

from ltx2rt.errors import MediaError
from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.clip_reader import ClipReader, is_still_picture
from ltx2rt.media.stamps import constant_rate, sufficient_rate

MATRICES = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a) + abs(b) == abs(c) + abs(d) == abs(a) + abs(c) == 1
]


def turned(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every pixel moved by x' = a x + c y, y' = b x + d y, then shifted into view."""
    rows, columns = picture.shape[:2]
    y, x = np.mgrid[0:rows, 0:columns]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    result = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    result[to_y, to_x] = picture
    return result


def test_all_eight_display_matrices(tmp_path: Path) -> None:
    assert len(MATRICES) == 8
    plain = write_clip(tmp_path / "plain.mp4", [card()] * 3)
    (stored,) = ClipReader(plain).frames(1)
    for matrix in MATRICES:
        path = tmp_path / "turned.mp4"
        path.write_bytes(plain.read_bytes())
        reader = ClipReader(set_display_matrix(path, *matrix))
        (shown,) = reader.frames(1)
        expected = turned(stored, *matrix)
        assert (reader.height, reader.width) == expected.shape[:2]
        assert spots(shown) == pytest.approx(np.array(spots(expected)), abs=3), matrix
        assert reader.notes == []


def test_plain_clips_get_no_word_and_no_filter(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "plain.mp4", greys(12), Fraction(30000, 1001), sounds=[tone(0.4)])
    reader = ClipReader(path)
    assert (reader.frame_rate, reader.num_frames, reader.width, reader.height) == (Fraction(30000, 1001), 12, 64, 32)
    assert (reader.sample_rate, reader.notes, reader.filtered, reader.variable_rate) == (48000, [], False, False)
    assert places(reader.frames()) == list(range(12))
    assert places(reader.frames()) == list(range(12))  # as often as wanted
    assert places(reader.frames(limit=3)) == [0, 1, 2]
    sound = reader.sound()
    assert sound is not None
    assert (sound.shape[0], sound.dtype) == (2, np.float32)
    np.testing.assert_allclose(sound[0, 1000:10000], tone(0.4)[1000:10000, 0], atol=0.03)


def test_a_clip_that_was_trimmed_without_encoding_is_what_it_shows(tmp_path: Path) -> None:
    sound = click(33 / 24, 16 / 24 + 0.25)
    path = write_clip(tmp_path / "trimmed.mp4", greys(28), sounds=[sound], gop=250)
    reader = ClipReader(trim_by_edit_list(path, 16, 9))
    assert (reader.num_frames, places(reader.frames())) == (9, list(range(16, 25)))
    heard = reader.sound()
    assert heard is not None
    assert click_time(heard, 48000) == pytest.approx(0.25, abs=0.005)


def test_a_clip_trimmed_at_its_end_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "trimmed.mp4", greys(28), gop=250)
    reader = ClipReader(trim_by_edit_list(path, 0, 11))
    assert places(reader.frames()) == list(range(reader.num_frames))
    assert 11 <= reader.num_frames <= 12


def test_a_variable_rate_is_laid_out_by_time_stamps(tmp_path: Path) -> None:
    times = [i / 24 if i < 8 else (8 + (i - 8) * 2) / 24 for i in range(16)]
    path = write_clip(tmp_path / "vfr.mp4", greys(16), times=times, sounds=[click(1.0, 20 / 24)])
    reader = ClipReader(path)
    shown = places(reader.frames())
    assert (reader.frame_rate, reader.variable_rate, len(shown)) == (24, True, reader.num_frames)
    assert len(shown) in (23, 24)  # muxers give the last picture the length of the one before, or of the first
    assert shown == [*range(8), *(8 + n // 2 for n in range(16))][: len(shown)]
    assert len(reader.notes) == 1
    assert "variable frame rate (12 to 24 frames/s); it is read at 24" in reader.notes[0]
    heard = reader.sound()
    assert heard is not None
    flash = shown.index(14) / float(reader.frame_rate)  # shown from 20/24 s on
    assert abs(click_time(heard, 48000) - flash) <= 0.5 / 24 + 0.005


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("wanted", [None, Fraction(24), Fraction(30), Fraction(16)])
def test_pictures_of_uneven_stamps_stay_within_half_a_frame(
    tmp_path: Path, container: str, wanted: Fraction | None
) -> None:
    rng = np.random.default_rng(3)
    times = np.concatenate([[0], np.cumsum(rng.choice([1 / 30, 1 / 15, 0.09, 0.021], 19))]).tolist()
    path = write_clip(tmp_path / f"phone.{container}", greys(20, step=11), times=times)
    reader = ClipReader(path, frame_rate=wanted)
    assert wanted is None or reader.frame_rate == wanted
    shown = places(reader.frames(), step=11)
    rate = float(reader.frame_rate)
    assert abs(len(shown) / rate - times[-1]) < 0.15
    for place, begins in enumerate(times):
        if place in shown:
            assert abs(shown.index(place) / rate - begins) <= 0.5 / rate + 0.002, place
    if wanted is None:
        assert set(shown) == set(range(20))  # the rate is fast enough for all


@pytest.mark.parametrize(("container", "rate"), [("mkv", Fraction(24000, 1001)), ("mkv", 30), ("mp4", 25), ("mov", 60)])
def test_stamps_that_waver_by_less_than_a_millisecond_are_constant(
    tmp_path: Path, container: str, rate: Fraction | int
) -> None:
    waver = np.random.default_rng(1).uniform(-0.0004, 0.0004, 28) if container != "mkv" else np.zeros(28)
    times = [float(i / Fraction(rate)) + 0.01 + waver[i] for i in range(28)]
    reader = ClipReader(write_clip(tmp_path / f"steady.{container}", greys(28), rate, times=times))
    assert (reader.variable_rate, reader.frame_rate, reader.num_frames) == (False, rate, 28)
    assert places(reader.frames()) == list(range(28))
    assert reader.notes == []


def test_constant_rates_among_stamps() -> None:
    rng = np.random.default_rng(0)
    for rate in (Fraction(24), Fraction(30000, 1001), Fraction(25), Fraction(1499, 50)):
        even = np.arange(400) / float(rate)
        assert constant_rate((even + rng.uniform(-9e-4, 9e-4, 400)).tolist(), [rate]) == rate
        assert constant_rate((even + rng.uniform(-4e-3, 4e-3, 400)).tolist(), [rate]) is None
    # A container that states another rate than its stamps have.
    assert constant_rate((np.arange(100) / 30).tolist(), [Fraction(25)]) == 30
    assert sufficient_rate([0, 1 / 30, 2 / 30, 4 / 30, 5 / 30, 8 / 30]) == 30
    assert sufficient_rate([i * 1001 / 30000 for i in (0, 1, 2, 4, 5, *range(8, 400))]) == Fraction(30000, 1001)


def test_one_lost_picture_does_not_shift_the_others(tmp_path: Path) -> None:
    times = [i / 25 for i in range(21) if i != 10]
    reader = ClipReader(write_clip(tmp_path / "gap.mp4", greys(20), 25, times=times))
    assert reader.frame_rate == 25
    assert places(reader.frames())[:21] == [*range(10), 9, *range(10, 20)]


def test_another_rate_is_read_by_time_stamps(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", greys(24), 24)
    reader = ClipReader(path, frame_rate=Fraction(12))
    assert (reader.frame_rate, reader.num_frames) == (12, 12)
    assert places(reader.frames()) == [2 * n for n in range(12)]
    doubled = ClipReader(path, frame_rate=Fraction(48))
    assert doubled.num_frames == 48
    assert places(doubled.frames()) == [n // 2 for n in range(48)]
    # 23.976 and 24 are taken as one rate, picture for picture.
    near = ClipReader(path, frame_rate=Fraction(24000, 1001))
    assert (near.frame_rate, places(near.frames())) == (Fraction(24000, 1001), list(range(24)))


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("begins", "sound_begins"), [(0.0, 0.3), (0.3, 0.0), (0.0, 0.0), (0.25, 0.1)])
def test_offsets_between_tracks_are_kept(tmp_path: Path, container: str, begins: float, sound_begins: float) -> None:
    path = tmp_path / f"offset.{container}"
    write_clip(path, greys(20), begins=begins, sounds=[click(1.0, 0.5)], sound_begins=sound_begins)
    reader = ClipReader(path)
    heard = reader.sound()
    assert heard is not None
    expected = 0.5 + sound_begins - begins
    assert click_time(heard, 48000) == pytest.approx(expected, abs=0.005)
    assert places(reader.frames(3)) == [0, 1, 2]
    # Sound alone, as it drives pictures: the clip's clock, and any window of it.
    whole = read_audio(path)
    assert click_time(whole.waveform.T, 48000) == pytest.approx(expected, abs=0.005)
    part = read_audio(path, start_s=0.1, duration_s=0.7)
    assert len(part.waveform) == pytest.approx(min(0.7, 0.9 + sound_begins - begins) * 48000, abs=1024)
    assert click_time(part.waveform.T, 48000) == pytest.approx(expected - 0.1, abs=0.005)


@pytest.mark.parametrize(
    ("codec", "container"),
    [("mpeg4", "avi"), ("mpeg2video", "ts"), ("libx264", "ts"), ("mjpeg", "mov"), ("ffv1", "mkv")],
)
def test_other_containers_and_codecs(tmp_path: Path, codec: str, container: str) -> None:
    pixels = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    options = {"b": "4000000"} if codec.startswith("mp") else {}
    path = write_clip(
        tmp_path / f"clip.{container}",
        greys(10),
        25,
        codec=codec,
        pix_fmt=pixels,
        options=options,
        full=codec == "mjpeg",
    )
    reader = ClipReader(path)
    assert (reader.num_frames, reader.frame_rate, reader.variable_rate) == (10, 25, False)
    assert places(reader.frames()) == list(range(10))


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (128, 48)), (Fraction(3, 4), (96, 64)), (Fraction(16, 11), (140, 48))]
)
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "anamorphic.mp4", [card(96, 48)] * 3, aspect=aspect)
    reader = ClipReader(path)
    assert (reader.width, reader.height) == size
    (shown,) = reader.frames(1)
    assert shown.shape == (size[1], size[0], 3)
    assert spots(shown) == pytest.approx(np.array(spots(card(96, 48))), abs=4)
    assert "pixels that are not square; 96x48 is read as" in reader.notes[0]
    # Turned by a quarter, the shape turns with it.
    sideways = ClipReader(set_display_matrix(path, 0, 1, -1, 0))
    assert (sideways.width, sideways.height) == size[::-1]


@pytest.mark.parametrize("aspect", [Fraction(1279, 1280), Fraction(1, 1), Fraction(400, 1)])
def test_shapes_of_pixels_that_are_none(tmp_path: Path, aspect: Fraction) -> None:
    reader = ClipReader(write_clip(tmp_path / "clip.mkv", [card()] * 3, aspect=aspect))
    assert (reader.width, reader.height, reader.notes, reader.filtered) == (96, 64, [], False)


def combs(picture: np.ndarray) -> float:
    """How much neighbouring rows differ beyond what rows two apart do."""
    grey = picture.astype(float).mean(axis=2)
    return float(np.abs(grey[1:] - grey[:-1]).mean() - np.abs(grey[2:] - grey[:-2]).mean() / 2)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {"x264-params": "tff=1"}),
        ("libx264", "ts", {"x264-params": "bff=1"}),
        ("mpeg2video", "mpg", {"flags": "+ildct+ilme", "b": "4000000"}),
    ],
)
def test_interlaced_pictures_lose_their_combs(
    tmp_path: Path, codec: str, container: str, options: dict[str, str]
) -> None:
    first = 1 if "bff" in str(options) else 0
    pictures = []
    for index in range(12):
        woven = np.full((64, 96, 3), 40, np.uint8)
        for field in (0, 1):
            x = 8 + index * 5 + (3 if field != first else 0)
            woven[field::2, x : x + 16] = 220
        pictures.append(woven)
    path = write_clip(tmp_path / f"tv.{container}", pictures, 25, codec=codec, options=options)
    reader = ClipReader(path)
    shown = list(reader.frames())
    assert (len(shown), reader.num_frames) == (12, 12)
    assert combs(pictures[5]) > 5
    assert combs(shown[5]) < 1
    assert reader.notes == [f"{path} is interlaced; it is deinterlaced (bwdif)"]


def test_the_default_track_is_heard(tmp_path: Path) -> None:
    tracks = [tone(0.8), click(0.8, 0.5)]
    second = write_clip(tmp_path / "second.mp4", greys(16), sounds=tracks, default_sound=1)
    first = write_clip(tmp_path / "first.mkv", greys(16), sounds=tracks[::-1], default_sound=0)
    for path in (second, first):
        heard = ClipReader(path).sound()
        assert heard is not None
        assert click_time(heard, 48000) == pytest.approx(0.5, abs=0.005)
        assert click_time(read_audio(path).waveform.T, 48000) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.opus", "libopus")])
def test_the_priming_of_sound_codecs_is_no_sound(tmp_path: Path, name: str, codec: str) -> None:
    wave = tone(2.0) * 0.1
    wave[round(0.7 * 48000) : round(0.71 * 48000)] = 0.9
    path = write_sound(tmp_path / name, wave, codec)
    part = read_audio(path, duration_s=1.5)
    assert len(part.waveform) == 72000
    assert np.abs(part.waveform[-2000:]).max() > 0.02
    assert click_time(part.waveform.T, 48000) == pytest.approx(0.7, abs=0.005)
    later = read_audio(path, start_s=0.5, duration_s=1.0)
    assert len(later.waveform) == 48000
    assert click_time(later.waveform.T, 48000) == pytest.approx(0.2, abs=0.005)


def test_raw_streams_are_read_and_said(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "raw.h264", greys(10), 30, container_format="h264")
    reader = ClipReader(path)
    assert (reader.num_frames, reader.frame_rate, reader.sample_rate) == (10, 30, None)
    assert places(reader.frames()) == list(range(10))
    assert reader.notes == [f"{path} has no time stamps; it is taken as 30 frames/s"]
    assert reader.sound() is None


def test_what_is_no_clip_is_called_what_it_is(tmp_path: Path) -> None:
    for name in ("still.png", "still.jpg", "still.webp", "still.tif", "still.bmp"):
        Image.fromarray(card()).save(tmp_path / name)
        with pytest.raises(MediaError, match=f"{name} is a still picture; give a video"):
            ClipReader(tmp_path / name)
        assert is_still_picture(tmp_path / name)
    several = [Image.fromarray(picture) for picture in greys(3)]
    several[0].save(tmp_path / "several.webp", save_all=True, append_images=several[1:])
    with pytest.raises(MediaError, match=r"several\.webp is an animated WebP, which is not read as a clip"):
        ClipReader(tmp_path / "several.webp")
    write_sound(tmp_path / "song.mp3", tone(0.5), "libmp3lame")
    with pytest.raises(MediaError, match=r"song\.mp3 has no video stream"):
        ClipReader(tmp_path / "song.mp3")
    with pytest.raises(MediaError, match="is a folder; give a video or sound file"):
        ClipReader(tmp_path)
    assert not is_still_picture(write_clip(tmp_path / "clip.mp4", greys(3)))


def test_the_cover_of_a_song_is_no_clip(tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    Image.fromarray(card()).save(cover)
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as output, av.open(str(cover)) as picture:
        stream = output.add_stream("libmp3lame", rate=48000, layout="stereo")
        shown = output.add_stream_from_template(picture.streams.video[0])
        shown.disposition = av.stream.Disposition.attached_pic
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone(0.024).T.astype(np.float32)), "fltp", "stereo")
        block.sample_rate = 48000
        output.start_encoding()
        for packet in picture.demux():
            if packet.size:
                packet.stream, packet.pts, packet.dts = shown, 0, 0
                output.mux(packet)
        for packet in [*stream.encode(block), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(MediaError, match="has no video stream"):
        ClipReader(path)
    assert len(read_audio(path).waveform) > 500


def test_a_clip_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "whole.mkv", greys(28), codec="ffv1", gop=1)
    whole = ClipReader(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match=r"of the 28 frames of .* can be decoded; the file is damaged"):
        list(whole.frames())


def test_time_stamps_that_jump_are_damaged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "jump.mp4", greys(6), times=[0, 1 / 24, 2 / 24, 9000, 9000.1, 9000.2])
    with pytest.raises(MediaError, match=r"time stamps of .*jump\.mp4 jump by 9000 s; the file is damaged"):
        ClipReader(path)


@pytest.mark.parametrize("count", [50, pytest.param(150, marks=pytest.mark.slow)])
def test_damaged_files_are_errors_of_this_package(tmp_path: Path, count: int) -> None:
    path = tmp_path / "odd.mp4"
    whole = write_clip(tmp_path / "whole.mp4", greys(8), sounds=[tone(0.3)]).read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(count):
        data = bytearray(whole)
        for place in rng.integers(whole.index(b"moov"), len(whole), 4):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            reader = ClipReader(path)
            shown = list(reader.frames(20))
            reader.sound()
            assert len(shown) == min(reader.num_frames, 20)
        except MediaError:
            refused += 1
    assert refused > count / 30


def test_recordings_that_begin_between_key_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "tv.ts", greys(28, 320, 192), 25, gop=9, options={"x264-params": "scenecut=0"})
    data = path.read_bytes()
    packets = len(data) // 188
    path.write_bytes(data[packets // 4 * 188 :])
    reader = ClipReader(path)
    shown = places(reader.frames())
    assert len(shown) == reader.num_frames
    assert shown == list(range(shown[0], 28))
    assert shown[0] % 9 == 0


def test_animated_pictures_are_clips(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture) for picture in greys(6, step=30)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 50, 100, 100, 50, 50])
    reader = ClipReader(tmp_path / "a.gif")
    assert reader.frame_rate == 20
    assert places(reader.frames(), step=30)[:8] == [0, 1, 2, 2, 3, 3, 4, 5]


def test_colours_are_not_touched_on_the_way_through_the_layout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0, 1 / 24, 3 / 24, 4 / 24]
    with caplog.at_level(logging.WARNING):
        (*_, last) = ClipReader(write_clip(tmp_path / "vfr.mp4", [card()] * 4, times=times)).frames()
    assert spots(last)[:4] == pytest.approx(np.array(list(QUARTERS.values())), abs=4)
    assert caplog.text == ""


def with_alpha(path: Path, codec: str, pix_fmt: str, alpha: int) -> Path:
    """Three pictures whose left half is of ``alpha``."""
    picture = np.dstack([card(), np.full((64, 96), 255, np.uint8)])
    picture[:, :48, 3] = alpha
    if codec == "gif":
        frames = [Image.fromarray(picture)] * 3
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        return path
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=24, width=96, height=64, pix_fmt=pix_fmt)
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pix_fmt)))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("b.mov", "qtrle", "argb"),
        ("c.mkv", "ffv1", "bgra"),
        ("d.gif", "gif", ""),
        ("e.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_a_lost_alpha_channel_is_said(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = with_alpha(tmp_path / name, codec, pix_fmt, 0)
    assert ClipReader(path).notes == [f"{path} has an alpha channel, which is left out"]
    opaque = with_alpha(tmp_path / f"opaque-{name}", codec, pix_fmt, 255)
    assert bool(ClipReader(opaque).notes) is (codec != "gif")


def test_dolby_vision_for_its_own_screens_alone_is_refused(tmp_path: Path) -> None:
    params = "log-level=error:colorprim={0}:transfer={1}:colormatrix={2}"
    for tags, refused in (((2, 2, 2), True), ((9, 18, 9), False)):
        path = write_clip(
            tmp_path / f"{refused}.mp4",
            [card()] * 3,
            codec="libx265",
            pix_fmt="yuv420p10le",
            tags=tags,
            options={"x265-params": params.format(*tags)},
        )
        data = path.read_bytes()
        assert data.count(b"hev1") == 1
        path.write_bytes(data.replace(b"hev1", b"dvhe"))
        if not refused:
            assert "HDR (HLG)" in ClipReader(path).notes[0]
            continue
        with pytest.raises(MediaError, match=r"is Dolby Vision .* \(profile 5\)"):
            ClipReader(path)
        assert ClipReader(path, source_color="pq").num_frames == 3


@pytest.mark.parametrize(("tags", "refused"), [((2, 2, 2), True), ((9, 18, 9), False)])
def test_dolby_vision_is_known_by_what_comes_with_its_pictures(
    tags: tuple[int, int, int], refused: bool, tmp_path: Path
) -> None:
    """A stream without a container that could say it."""
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "yuv420p10le", Fraction(1, 24)
    encoder.options = {"x265-params": "log-level=error:colorprim={}:transfer={}:colormatrix={}".format(*tags)}
    frames = [av.VideoFrame.from_ndarray(card(96, 64), format="rgb24").reformat(format="yuv420p10le") for _ in range(3)]
    for index, frame in enumerate(frames):
        frame.pts = index
    path = tmp_path / "raw.hevc"
    with open(path, "wb") as stream:
        for frame in (*frames, None):
            for packet in encoder.encode(frame):
                stream.write(bytes(packet) + dolby_vision_unit())
    if refused:
        with pytest.raises(MediaError, match=r"is Dolby Vision .* \(profile 5\)"):
            ClipReader(path)
    else:
        assert any("HDR (HLG)" in note for note in ClipReader(path).notes)


def test_sound_that_ends_before_the_pictures_begin_is_silence(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "early.mp4", [card()] * 9, begins=2.0, sounds=[click(0.5, 0.2)])
    reader = ClipReader(path)
    assert reader.sound() is None
    assert reader.sample_rate is None
    assert reader.sound() is None
    assert reader.notes == [f"the sound of {path} ends before its first picture; it is taken as silent"]
    with pytest.raises(MediaError, match="has no sound from 0 s on"):
        read_audio(path)


def test_sound_of_an_unknown_codec_is_said(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mov", [card()] * 3, sounds=[click(0.125, 0.05)], sound_codec="pcm_s16le")
    data = path.read_bytes()
    assert data.count(b"sowt") == 1
    path.write_bytes(data.replace(b"sowt", b"zzzz"))
    reader = ClipReader(path)
    assert reader.sound() is None
    assert reader.notes == [f"the sound of {path} is of a codec that is not known here; it is left out"]


def test_sound_of_avi_stays_with_reordered_pictures(tmp_path: Path) -> None:
    pictures = [np.full((64, 96, 3), 230 if index == 12 else 20, np.uint8) for index in range(25)]
    path = write_clip(tmp_path / "camera.avi", pictures, sounds=[click(25 / 24, 0.5)], sound_codec="pcm_s16le")
    reader = ClipReader(path)
    assert int(np.argmax([picture.mean() for picture in reader.frames()])) == 12
    sound = reader.sound()
    assert sound is not None
    assert click_time(sound, 48000) == pytest.approx(0.5, abs=0.001)
    assert click_time(read_audio(path).waveform.T, 48000) == pytest.approx(0.5, abs=0.001)


def test_pictures_that_change_their_size_are_refused(tmp_path: Path) -> None:
    parts = [card(96, 64), card(128, 96)]
    files = [write_clip(tmp_path / f"{p.shape[1]}.h264", [p] * 5, container_format="h264") for p in parts]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    with pytest.raises(MediaError, match="change from 96x64 to 128x96 on the way; convert it to one size first"):
        list(ClipReader(path).frames())


def moving(count: int, width: int = 96, height: int = 64) -> Iterator[np.ndarray]:
    """Pictures of which no two are alike."""
    rng = np.random.default_rng(1)
    ground = rng.integers(0, 256, (height, 2 * width, 3)).astype(np.uint8)
    for index in range(count):
        yield ground[:, 2 * index % width : 2 * index % width + width] // 2 + np.uint8(2 * index)


@pytest.mark.parametrize(
    ("container", "more", "enters"),
    [
        ("mp4", {"options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}}, True),
        ("mkv", {"options": {"x264-params": "bframes=2:scenecut=0"}, "begins": 0.7}, True),
        ("mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:bframes=3"}}, True),
        pytest.param("mp4", {"options": {"x264-params": "intra-refresh=1:bframes=0"}}, None, marks=pytest.mark.slow),
        ("mp4", {"options": {"x264-params": "tff=1"}}, None),
        ("mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "full": True}, True),
        ("ts", {}, False),
        pytest.param("avi", {"codec": "mpeg4", "options": {"b": "4000000"}}, False, marks=pytest.mark.slow),
        ("mp4", {"times": [i / 24 + (i % 3) / 90 for i in range(48)]}, True),
    ],
)
def test_a_part_is_what_all_of_it_has_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, more: dict[str, Any], enters: bool | None
) -> None:
    """``enters``: the decoder begins at the key picture before it."""
    reader = ClipReader(write_clip(tmp_path / f"clip.{container}", moving(48), **{"gop": 8, **more}))
    whole = list(reader.frames())
    decoded = 0
    decode = ClipReader._all

    def counted(own: ClipReader, opened: Any) -> Iterator[Any]:
        nonlocal decoded
        for frame in decode(own, opened):
            decoded += 1
            yield frame

    monkeypatch.setattr(ClipReader, "_all", counted)
    for start in (0, 1, 7, 8, 9, 26, 41, reader.num_frames - 1, reader.num_frames + 3):
        decoded = 0
        part = list(reader.frames(5, start))
        assert len(part) == len(whole[start : start + 5])
        assert all(np.array_equal(own, there) for own, there in zip(part, whole[start:], strict=False))
        if enters is not None and start >= 26 and len(part) == 5:
            assert (decoded < 26) == enters


def test_a_part_of_a_trimmed_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "trimmed.mp4", greys(28), gop=4)
    reader = ClipReader(trim_by_edit_list(path, 6, 19))
    for start in range(0, 19, 3):
        assert places(reader.frames(4, start)) == list(range(6 + start, min(25, 10 + start)))

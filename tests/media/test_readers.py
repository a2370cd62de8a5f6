"""Sound: windows in time, sample formats, channel counts; rotation as PyAV writes it; damaged files."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest
from made_clips import click, click_time, write_sound

from ltx2rt.errors import MediaError
from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.video_writer import VideoWriter


def write_clip(path: Path, frames: int = 12, rate: float = 24, sound: bool = True) -> np.ndarray:
    """A clip whose frame i is a grey of 20 * i, with a tone of the same length; returns the tone (S, 2)."""
    t = np.arange(frames * 1000) / 24000
    tone = np.stack([0.5 * np.sin(2 * np.pi * 300 * t), np.zeros_like(t)], axis=1).astype(np.float32)
    levels = (np.arange(frames) * 20).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (frames, 32, 64, 3))
    with VideoWriter(path, 64, 32, rate, crf=1, sample_rate=24000 if sound else None) as writer:
        writer.write(pixels)
        if sound:
            writer.write_audio(tone)
    return tone


def write_wav(path: Path, samples: np.ndarray, rate: int, width: int) -> None:
    with wave.open(str(path), "wb") as container:
        container.setnchannels(samples.shape[1])
        container.setsampwidth(width)
        container.setframerate(rate)
        container.writeframes(samples.tobytes())


def test_rotation_beside_the_pictures_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "portrait.mp4"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :16] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    reader = ClipReader(path)
    assert (reader.height, reader.width) == (64, 32)
    (frame,) = reader.frames()
    assert frame.shape == (64, 32, 3)
    assert np.abs(frame.astype(int) - np.rot90(picture)).mean() < 3


def test_sound_of_a_video_and_a_part_of_it(tmp_path: Path) -> None:
    tone = write_clip(tmp_path / "clip.mp4")
    sound = read_audio(tmp_path / "clip.mp4")
    assert sound.sample_rate == 24000
    assert 12000 <= len(sound.waveform) < 13024
    # One sample of delay would be an error of 0.039.
    np.testing.assert_allclose(sound.waveform[1000:11000], tone[1000:11000], atol=0.03)
    part = read_audio(tmp_path / "clip.mp4", start_s=0.3, duration_s=0.15)
    assert part.waveform.shape == (3600, 2)
    np.testing.assert_allclose(part.waveform, tone[7200:10800], atol=0.03)


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav"])
def test_a_part_of_sound_in_blocks_that_have_no_stamps_of_their_own(tmp_path: Path, codec: str) -> None:
    path = write_sound(tmp_path / "tape.wav", click(12, 8), codec)
    for start_s in (0.0, 3.3, 7.5):
        sound = read_audio(path, start_s=start_s, duration_s=None if start_s == 0 else 6)
        assert start_s + click_time(sound.waveform.T, sound.sample_rate) == pytest.approx(8, abs=1e-3)


@pytest.mark.parametrize(
    ("dtype", "width", "scale", "offset"), [(np.uint8, 1, 128, 128), (np.int16, 2, 2**15, 0), (np.int32, 4, 2**31, 0)]
)
def test_integer_samples_become_floats(tmp_path: Path, dtype: type, width: int, scale: int, offset: int) -> None:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(width)
    samples = rng.integers(limits.min, limits.max, (3000, 2), dtype=dtype, endpoint=True)
    write_wav(tmp_path / "sound.wav", samples, 22050, width)
    sound = read_audio(tmp_path / "sound.wav")
    assert sound.sample_rate == 22050
    np.testing.assert_allclose(sound.waveform, (samples.astype(np.float64) - offset) / scale, atol=1e-7)


def test_one_channel_is_duplicated_and_six_are_mixed_down(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    mono = rng.integers(-20000, 20000, (2500, 1), dtype=np.int16)
    write_wav(tmp_path / "mono.wav", mono, 16000, 2)
    np.testing.assert_allclose(read_audio(tmp_path / "mono.wav").waveform, np.repeat(mono, 2, 1) / 2**15, atol=1e-7)

    surround = np.zeros((2500, 6), np.int16)
    surround[:, 0] = 8000  # Front left alone stays on the left.
    write_wav(tmp_path / "surround.wav", surround, 48000, 2)
    mixed = read_audio(tmp_path / "surround.wav").waveform
    assert mixed.shape == (2500, 2)
    assert mixed[:, 0].min() > 0.05
    assert np.abs(mixed[:, 1]).max() < 1e-6


@pytest.mark.parametrize(("layout", "channels"), [("5.1", 6), ("7.1", 8), ("quad", 4), ("3.0", 3)])
def test_full_scale_in_all_channels_is_full_scale(tmp_path: Path, layout: str, channels: int) -> None:
    """And one front channel is quieter by as much as FFmpeg's own mix of whole numbers makes it."""
    path = tmp_path / "surround.wav"
    loud, left = np.ones((4800, channels), np.float32), np.zeros((4800, channels), np.float32)
    left[:, 0] = 1
    with av.open(path, "w") as output:
        stream = output.add_stream("pcm_f32le", rate=48000, layout=layout)
        for samples in (loud, left):
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", layout)
            frame.sample_rate = 48000
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    mixed = read_audio(path).waveform
    assert mixed.shape == (9600, 2)
    np.testing.assert_allclose(mixed[:4800], 1, atol=1e-6)
    whole = av.AudioResampler(format="s32", layout="stereo", rate=48000)
    frame = av.AudioFrame.from_ndarray((left * (2**31 - 1024)).astype(np.int32).reshape(1, -1), "s32", layout)
    frame.sample_rate = 48000
    (expected,) = whole.resample(frame)
    np.testing.assert_allclose(mixed[4800:], expected.to_ndarray().reshape(-1, 2) / 2**31, atol=1e-6)


def test_damaged_and_wrong_files_are_one_clear_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    write_clip(tmp_path / "silent.mp4", sound=False)
    write_wav(tmp_path / "sound.wav", np.zeros((900, 2), np.int16), 16000, 2)
    whole = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, message in (
        ("cut.mp4", r"cut\.mp4 cannot be read: Invalid data"),
        ("empty.mp4", r"empty\.mp4 cannot be read"),
        ("missing.mp4", r"missing\.mp4 does not exist"),
        ("", "is a folder"),
    ):
        with pytest.raises(MediaError, match=message):
            ClipReader(tmp_path / name)
        with pytest.raises(MediaError, match=message):
            read_audio(tmp_path / name)
    with pytest.raises(MediaError, match=r"sound\.wav has no video stream"):
        ClipReader(tmp_path / "sound.wav")
    with pytest.raises(MediaError, match=r"silent\.mp4 has no sound track"):
        read_audio(tmp_path / "silent.mp4")
    with pytest.raises(MediaError, match="has no sound from 5 s on"):
        read_audio(tmp_path / "sound.wav", start_s=5.0)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>\n',
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    ],
    ids=["concat", "HLS", "DASH", "SDP"],
)
def test_lists_of_other_files_are_not_followed(tmp_path: Path, text: str) -> None:
    with VideoWriter(tmp_path / "other.mp4", 32, 32, 24) as writer:
        writer.write(np.zeros((2, 32, 32, 3), np.float32))
    assert ClipReader(tmp_path / "other.mp4").num_frames == 2
    (tmp_path / "list.m3u8").write_text(text)
    with pytest.raises(MediaError, match=r"list\.m3u8 is a list of other files"):
        ClipReader(tmp_path / "list.m3u8")

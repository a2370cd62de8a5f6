"""High dynamic range: curves, matrices, EXR frames and the HLG master."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import OpenEXR
import pytest

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.exr import ExrFolder, encoded_exr, frame_name, frames_in, is_exr, is_own_frame, read_exr
from ltx2rt.media.hdr import (
    ACESCCT,
    ACESCG,
    HDR_SPACES,
    SRGB_LINEAR,
    HdrSpace,
    acescct_of_srgb,
    hlg_of_acescct,
    hlg_of_light,
    srgb_of_acescct,
)
from ltx2rt.media.output_file import files_together
from ltx2rt.media.output_folder import OutputFolder
from ltx2rt.media.primaries import AP1, REC709, REC2020, matrix
from ltx2rt.media.transfer import acescct_code, acescct_light, hlg_light, hlg_signal
from ltx2rt.media.video_writer import HLG, VideoWriter
from ltx2rt.media.yuv import yuv420_bt2020
from ltx2rt.types import Array


def test_acescct_has_its_two_branches_and_goes_back() -> None:
    light = np.array([0.0, 0.0078125, 0.18, 1.0, 222.0], np.float32)
    expected = [0.0729055341958355, 0.155251141552511, 0.4135884, 9.72 / 17.52, (np.log2(222.0) + 9.72) / 17.52]
    codes = acescct_code(light)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    np.testing.assert_allclose(acescct_light(codes), light, rtol=2e-5, atol=1e-7)


def test_acescct_is_clamped() -> None:
    light = np.array([-5.0, -0.001, 1e4, np.inf], np.float32)
    np.testing.assert_allclose(acescct_code(light), [0.0729055341958355, 0.0729055341958355, 1, 1], atol=1e-7)


def test_hlg_goes_back_and_shows_white_at_three_quarters() -> None:
    signal = np.linspace(0, 1, 257)
    np.testing.assert_allclose(hlg_signal(hlg_light(signal)), signal, atol=1e-7)
    grey = np.repeat(np.array([[0.18], [1.0], [4.0], [100.0]]), 3, axis=1)
    # A slope that goes on at white, and nothing above 1.
    np.testing.assert_allclose(hlg_of_light(grey)[:, 0], [0.378259, 0.75, 0.947281, 1.0], atol=1e-6)
    near = hlg_of_light(np.repeat(np.array([[1 - 1e-4], [1.0], [1 + 1e-4]]), 3, axis=1))[:, 0]
    assert near[1] - near[0] == pytest.approx(near[2] - near[1], rel=1e-2)
    assert not hlg_of_light(np.full((1, 3), -1.0)).any()


def test_matrices_keep_white_and_go_back() -> None:
    for source, target in ((AP1, REC709), (REC709, AP1), (REC709, REC2020)):
        np.testing.assert_allclose(matrix(source, target) @ np.ones(3), np.ones(3), atol=1e-12)
        np.testing.assert_allclose(matrix(source, target) @ matrix(target, source), np.eye(3), atol=1e-12)
    # The published matrix of ACES, which adapts with Bradford's cones, differs by less than 3 thousandths.
    published = [[1.70505, -0.62179, -0.08326], [-0.13026, 1.1408, -0.01055], [-0.024, -0.12897, 1.15297]]
    np.testing.assert_allclose(matrix(AP1, REC709), published, atol=5e-3)
    # ITU-R BT.2087.
    bt2087 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    np.testing.assert_allclose(matrix(REC709, REC2020), bt2087, atol=1e-4)


def test_srgb_white_is_where_acescct_has_it() -> None:
    codes = acescct_of_srgb(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], np.float32))
    np.testing.assert_allclose(codes, np.array([[0.0729055] * 3, [0.5547945] * 3]), atol=1e-6)


@pytest.mark.parametrize("space", HDR_SPACES.values(), ids=lambda space: space.name)
def test_spaces_go_back_to_the_same_codes(space: HdrSpace) -> None:
    codes = acescct_of_srgb(np.random.default_rng(0).random((5, 7, 3), np.float32))
    np.testing.assert_allclose(space.to_acescct(space.of_acescct(codes)), codes, atol=2e-6)


def test_values_that_are_no_numbers_become_black() -> None:
    bad = np.array([[np.nan, -np.inf, np.inf]], np.float32)
    assert np.isfinite(ACESCG.to_acescct(bad)).all()
    np.testing.assert_array_equal(ACESCCT.to_acescct(bad), [[0, 0, 1]])


def test_pictures_for_screens_keep_grey_and_order() -> None:
    grey = np.repeat(np.linspace(0.08, 1.0, 50, dtype=np.float32)[:, None], 3, axis=1)
    shown = srgb_of_acescct(grey)
    np.testing.assert_allclose(shown, shown[:, :1].repeat(3, axis=1), atol=1e-3)
    assert (np.diff(shown[:, 0]) > -1e-6).all()
    assert shown.max() <= 1.0
    dark = srgb_of_acescct(acescct_of_srgb(np.array([[0.5, 0.25, 0.1]], np.float32)))
    np.testing.assert_allclose(dark, [[0.5, 0.25, 0.1]], atol=1e-3)


def test_ten_bit_codes_of_bt2020() -> None:
    rgb = np.zeros((4, 2, 2, 3), np.float32)
    rgb[1], rgb[2, ..., 0], rgb[3] = 1.0, 1.0, 0.75
    planes = [yuv420_bt2020(frame) for frame in rgb]
    assert [int(luma[0, 0]) for luma, _, _ in planes] == [64, 940, round(64 + 876 * 0.2627), 721]
    assert [int(blue[0, 0]) for _, blue, _ in planes] == [512, 512, round(512 - 448 * 0.2627 / (1 - 0.0593)), 512]
    assert [int(red[0, 0]) for _, _, red in planes] == [512, 512, 960, 512]


@pytest.mark.parametrize("space", HDR_SPACES.values(), ids=lambda space: space.name)
def test_exr_frames_go_round_without_loss(tmp_path: Path, space: HdrSpace) -> None:
    half = np.random.default_rng(1).normal(0, 20, (6, 10, 3)).astype(np.float16)
    half[0, 0] = [65504, -6.1e-5, 6e-8]
    path = tmp_path / "a.exr"
    path.write_bytes(encoded_exr(half.astype(np.float32), space))
    np.testing.assert_array_equal(read_exr(path).astype(np.float16), half)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        header, channels = dict(file.header()), {name: channel.pixels for name, channel in file.channels().items()}
        assert {name: values.dtype for name, values in channels.items()} == dict.fromkeys("RGB", np.float16)
    assert header["colorSpace"] == space.tag
    np.testing.assert_allclose(header["chromaticities"], space.primaries.numbers, atol=1e-6)
    assert ExrFolder.open(tmp_path).stated == space


def test_exr_values_above_half_floats_stay_finite(tmp_path: Path) -> None:
    (tmp_path / "a.exr").write_bytes(encoded_exr(np.full((2, 2, 3), 1e9, np.float32), ACESCG))
    assert read_exr(tmp_path / "a.exr").max() == 65504


def test_exr_folders_are_read_by_their_names(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"shot_{number:03d}.EXR").write_bytes(encoded_exr(np.full((2, 4, 3), number, np.float32), ACESCG))
    (tmp_path / "._shot_000.exr").write_text("what a Mac leaves")
    (tmp_path / "notes.txt").write_text("notes")
    folder = ExrFolder.open(tmp_path)
    assert (folder.height, folder.width) == (2, 4)
    assert [float(frame[0, 0, 0]) for frame in folder.read()] == [1, 2, 10]
    assert is_exr(tmp_path)


def test_foreign_exr_files(tmp_path: Path) -> None:
    plane = np.full((2, 2), 0.5, np.float32)
    with OpenEXR.File({}, {"R": plane, "G": plane.astype(np.float16), "B": plane, "A": plane}) as file:
        file.write(str(tmp_path / "rgba.exr"))
    np.testing.assert_array_equal(read_exr(tmp_path / "rgba.exr"), np.full((2, 2, 3), 0.5))
    assert ExrFolder.open(tmp_path).stated is None
    with OpenEXR.File({}, {"Y": plane}) as file:
        file.write(str(tmp_path / "grey.exr"))
    with pytest.raises(MediaError, match="has the channels Y, but R, G and B are read"):
        read_exr(tmp_path / "grey.exr")


def test_frames_of_other_sizes_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / frame_name(number)).write_bytes(encoded_exr(np.zeros((2, 4 + number, 3), np.float32), ACESCG))
    with pytest.raises(MediaError, match=r"frame_00001\.exr is 5x2, frame_00000\.exr 4x2"):
        list(ExrFolder.open(tmp_path).read())


def test_what_is_no_folder_of_frames_says_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"holds no \*.exr files"):
        frames_in(tmp_path)
    single = tmp_path / "a.exr"
    single.write_bytes(b"v/1\x01damaged")
    with pytest.raises(MediaError, match="single EXR picture; give the folder"):
        frames_in(single)
    with pytest.raises(MediaError, match="cannot be read as EXR"):
        ExrFolder.open(tmp_path)
    with pytest.raises(MediaError, match="does not exist"):
        read_exr(tmp_path / "missing.exr")


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "clip_acescg_exr"
    target.mkdir()
    (target / frame_name(5)).write_bytes(b"old")
    with files_together():
        folder = OutputFolder(target, is_own_frame)
        folder.write(frame_name(0), b"new")
        folder.commit()
        assert [file.name for file in target.iterdir()] == [frame_name(5)]
    assert [file.name for file in target.iterdir()] == [frame_name(0)]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_dropped_with_the_files_beside_it(tmp_path: Path) -> None:
    def write() -> None:
        with files_together():
            folder = OutputFolder(tmp_path / "clip_exr", is_own_frame)
            folder.write(frame_name(0), b"new")
            folder.commit()
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MediaError, match=r"holds notes.txt, which was not written here"):
        OutputFolder(tmp_path, is_own_frame)
    with pytest.raises(MediaError, match="is no folder"):
        OutputFolder(tmp_path / "notes.txt", is_own_frame)


def ramp(height: int, width: int) -> Array:
    """ACEScct codes from black to the brightest, which also cross the channels."""
    row = np.linspace(0, 1, width, dtype=np.float32)
    frame = np.stack([row, row, row], axis=-1)[None].repeat(height, axis=0)
    frame[height // 2 :] = np.stack([row, row**2, row[::-1]], axis=-1)
    return frame


@pytest.mark.parametrize("frames", [1, 9])
def test_the_hlg_master_of_a_ramp_reads_back(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "master.mp4"
    signal = hlg_of_acescct(ramp(64, 512))
    with VideoWriter(path, 512, 64, 24, signal=HLG) as writer:
        writer.write(np.stack([signal] * frames))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.codec_tag) == ("hevc", "yuv420p10le", "hvc1")
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert tuple(map(int, tags)) == (9, 18, 9, 1)  # bt2020, arib-std-b67, bt2020nc, limited
        pictures = list(container.decode(stream))
    assert len(pictures) == frames
    for picture in pictures:
        for plane, wanted in zip(picture.planes, yuv420_bt2020(signal), strict=True):
            codes = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
            np.testing.assert_allclose(codes.astype(int), wanted, atol=2)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc, which can fill new memory: Linux")
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_decoding_times_of_few_frames_are_those_of_the_frames(tmp_path: Path, frames: int) -> None:
    """x265 reads memory that it did not write where a clip ends before its frames can change places."""
    program = f"""
import numpy as np
from ltx2rt.media.video_writer import VideoWriter

class Recorder:
    def __init__(self, container):
        self.container = container
    def mux(self, packets):
        print(*(packet.dts for packet in packets), end=" ")
        self.container.mux(packets)
    def close(self):
        self.container.close()

with VideoWriter("clip.mp4", 64, 64, 24, codec="hevc") as writer:
    writer._container = Recorder(writer._container)
    writer.write(np.zeros(({frames}, 64, 64, 3), np.uint8))
"""
    environment = {**os.environ, "MALLOC_PERTURB_": "85"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == [str(n if frames < 3 else n - 2) for n in range(frames)]


def test_hlg_is_hevc_alone() -> None:
    with pytest.raises(UsageError, match="HLG cannot be h264 video; use hevc"):
        VideoWriter("clip.mp4", 64, 64, 24, codec="h264", signal=HLG)


def test_exr_spaces_have_their_own_primaries() -> None:
    red = np.array([[1.0, 0.0, 0.0]], np.float32)
    codes = SRGB_LINEAR.to_acescct(red)
    np.testing.assert_allclose(ACESCG.of_acescct(codes), matrix(REC709, AP1)[:, 0][None], atol=1e-4)

"""Existing clips, larger and smoother: size, frame count, the input's own rate doubled, sound, values, rejections."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from command_inputs import video_file

from ltx2rt import api, embedded
from ltx2rt.api.latent_file import Latents, write_latents
from ltx2rt.cli.main import run
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.upscaler.model import LatentUpscaler, LatentUpscalerConfig, param_specs
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.weights.checkpoint import Checkpoint

TEMPORAL = "ltx-2-temporal-upscaler-x2-1.0.safetensors"


def test_a_video_grows_and_keeps_rate_and_sound(tmp_path: Path) -> None:
    source = video_file(tmp_path / "in.mp4", rate=12.5)
    assert run(["upscale", "--quiet", str(source), "-o", str(tmp_path / "out.mp4")]) == 0
    info = ClipReader(tmp_path / "out.mp4")
    assert (info.num_frames, info.height, info.width, float(info.frame_rate)) == (9, 128, 128, 12.5)
    assert info.sample_rate == 16000


def test_time_is_doubled_from_the_inputs_own_rate(tmp_path: Path, weights: Path) -> None:
    source = video_file(tmp_path / "in.mp4", rate=12.5, sound=False)
    assert (
        run(["upscale", str(source), "-o", str(tmp_path / "out.mp4"), "--temporal-weights", str(weights / TEMPORAL)])
        == 0
    )
    info = ClipReader(tmp_path / "out.mp4")
    assert (info.num_frames, info.height, float(info.frame_rate), info.sample_rate) == (17, 64, 25.0, None)


def test_one_and_a_half_times(tmp_path: Path, weights: Path) -> None:
    source = video_file(tmp_path / "in.mp4")
    upscaler = ["--spatial-upsampler-path", str(weights / "spatial-upscaler-x1.5.safetensors")]
    assert run(["upscale", "--quiet", str(source), "-o", str(tmp_path / "out.mp4"), *upscaler]) == 0
    assert ClipReader(tmp_path / "out.mp4").width == 96


def test_latents_pass_the_statistics_both_ways(tmp_path: Path) -> None:
    latent = np.random.default_rng(0).standard_normal((1, 2, 2, 2, 128)).astype(np.float32)
    write_latents(tmp_path / "in.safetensors", Latents("19b", Fraction(24), latent))
    clip = api.upscale(tmp_path / "in.safetensors", dtype="float32")
    upscaler_file, checkpoint = Checkpoint.open(embedded.SPATIAL_UPSCALER), Checkpoint.open(embedded.CHECKPOINT)
    config = LatentUpscalerConfig.from_dict(upscaler_file.section("upscaler"))
    model = LatentUpscaler(config, Params(upscaler_file.load("upscaler", param_specs(config))), mx.float32)
    statistics = LatentStatistics(Params(checkpoint.load("video_vae", statistics_specs(config.in_channels))))
    wanted = statistics.normalise(model(statistics.un_normalise(mx.array(latent))))
    np.testing.assert_array_equal(clip.video_latent, np.array(wanted))
    assert clip.audio is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{d}/none.mp4"], "none.mp4 does not exist"),
        (["{d}/ten.mp4", "--fit", "error"], "has 10 frames of 64x64; with --fit error the number must be 8*k + 1"),
        (["{d}/latent.safetensors"], "holds latents of generation 2.3, the checkpoint is 19b"),
        (["{d}/latent.safetensors", "--fit", "pad"], "--fit concerns videos"),
        (["{d}/latent.safetensors", "--source-color", "hlg"], "--source-color concerns videos"),
        (["{d}/sound.safetensors"], "holds no video latent"),
        (["{model}"], "not a latent file"),
        (["{d}/clip.mp4", "--checkpoint-path", "{model}"], "nothing to upscale with"),
        (
            ["{d}/clip.mp4", "--temporal-upsampler-path", "{upscaler}"],
            "a spatial upscaler, but a temporal one is needed",
        ),
        (["{d}/clip.mp4", "--fp16", "--dtype", "float32"], "--fp16 says float16"),
        (["{d}/clip.mp4", "-o", "{d}/clip.mp4"], "is the input; name another file"),
    ],
)
def test_what_cannot_be_upscaled_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video_file(tmp_path / "clip.mp4")
    video_file(tmp_path / "ten.mp4", frames=10)
    latent = np.zeros((1, 2, 2, 2, 128), np.float32)
    write_latents(tmp_path / "latent.safetensors", Latents("2.3", Fraction(24), latent))
    write_latents(
        tmp_path / "sound.safetensors", Latents("19b", Fraction(24), None, np.zeros((1, 10, 128), np.float32))
    )
    before = sorted(tmp_path.iterdir())
    places = {"d": tmp_path, "model": embedded.CHECKPOINT, "upscaler": embedded.SPATIAL_UPSCALER}
    filled = [word.format(**places) for word in words]
    output = [] if "-o" in filled else ["-o", str(tmp_path / "out.mp4")]
    assert run(["upscale", *filled, *output]) in (1, 2)
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_without_an_output_nothing_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upscale", "clip.mp4"]) == 2
    assert "--output-path is missing" in capsys.readouterr().err


@pytest.fixture
def steady_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets count what the process takes, whatever that of the tests has grown to."""
    monkeypatch.setattr("ltx2rt.memory.ledger._process_bytes", lambda: 100_000_000)
    monkeypatch.setattr("ltx2rt.memory.ledger.resident_bytes", lambda: 100_000_000)


@pytest.mark.usefixtures("steady_process")
def test_a_budget_is_kept_and_the_smaller_way_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = video_file(tmp_path / "in.mp4", frames=17, side=192)
    words = ["upscale", "--quiet", str(source), "-o", str(tmp_path / "out.mp4")]
    wide = api.plan_upscale(source, memory="100GB")
    names = ["video encoder", "final spatial upscaler", "video decoder"]
    assert [stage.need.name for stage in wide.stages] == names
    budget = wide.peak_bytes * 985 // 1000
    narrow = api.plan_upscale(source, memory=budget)
    assert narrow.peak_bytes <= budget < wide.peak_bytes
    assert narrow.stages[-1].need.settings != wide.stages[-1].need.settings
    assert run([*words, "--plan", "--memory", "100GB"]) == 0
    assert "video encoder" in capsys.readouterr().out
    assert not (tmp_path / "out.mp4").exists()
    assert run([*words, "--memory", "20MB"]) == 1
    assert "stage 'video encoder' needs" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("steady_process")
def test_the_smaller_way_is_run(tmp_path: Path) -> None:
    source = video_file(tmp_path / "in.mp4", frames=17, side=192)
    budget = api.plan_upscale(source, memory="100GB").peak_bytes * 985 // 1000
    words = ["upscale", "--quiet", str(source), "-o", str(tmp_path / "out.mp4")]
    report = tmp_path / "report.json"
    assert run([*words, "--memory", str(budget + 64_000_000), "--report", str(report)]) == 0
    names = ["video encoder", "final spatial upscaler", "video decoder"]
    assert [stage["name"] for stage in json.loads(report.read_text())["stages"]] == names

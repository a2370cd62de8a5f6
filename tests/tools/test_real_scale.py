"""The real-scale run: files made or reused, memory sampled from outside, tables, pictures and verdicts."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx2rt import embedded
from ltx2rt.errors import Ltx2rtError
from ltx2rt.weights.safetensors import write_safetensors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def real_scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("real_scale")


def stage(name: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, **more}


def test_resident_memory_is_sampled_from_outside(real_scale: ModuleType, tmp_path: Path) -> None:
    code = "import time; time.sleep(1); a = bytearray(200_000_000); a[::4096] = b'1' * len(a[::4096]); time.sleep(1)"
    samples, exit_code = real_scale.watch([sys.executable, "-c", code], tmp_path)
    assert exit_code == 0
    assert len(samples) >= 6
    residents = [sample.resident for sample in samples]
    assert residents[0] < 60e6
    assert 200e6 < max(residents) < 280e6
    assert residents[-1] == 0
    assert [sample.seconds for sample in samples] == sorted(sample.seconds for sample in samples)
    assert real_scale.watch([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)[1] == 3


def test_stages_lie_one_after_the_other_up_to_the_end(real_scale: ModuleType) -> None:
    samples = [real_scale.Sample(t / 10, t * 1_000_000) for t in range(101)]
    first = stage("one", 2.0, planned_peak_bytes=90_000_000, resident_peak_bytes=100_000_000)
    second = stage("two", 3.0, streamed_bytes=6_000_000_000, read_seconds=2.0, waited_seconds=0.5)
    rows = real_scale.stage_rows([first, second], samples)
    assert [(row.name, row.begins, row.ends) for row in rows] == [("one", 5.0, 7.0), ("two", 7.0, 10.0)]
    assert [row.outside for row in rows] == [70_000_000, 100_000_000]
    assert rows[0].ratio == 0.9
    assert rows[1].ratio is None
    lines = real_scale.table(rows).splitlines()
    assert lines[2] == "| one | 2.0 | 0.090 | 0.100 | 0.900 | 0.070 |  |  |  |"
    assert lines[3] == "| two | 3.0 |  |  |  | 0.100 | 6.00 | 3.00 | 0.5 |"


def result(real_scale: ModuleType, memory: str | None, peak: int, planned: int, digest: str = "a") -> Any:
    row = real_scale.StageRow("one", 0.0, 1.0, 1.0, planned, 200_000_000, 0, 0, 0.0, 0.0)
    return real_scale.Result(memory, 1.0, peak, [row], {"video": digest})


def test_verdicts(real_scale: ModuleType) -> None:
    good = [result(real_scale, m, 4_000_000_000, 204_000_000) for m in ("6GB", "16GB")]
    assert [holds for _, holds in real_scale.verdicts(good)] == [True] * 5
    bad = [result(real_scale, "6GB", 6_100_000_000, 195_000_000), result(real_scale, None, 1, 211_000_000, "b")]
    assert [holds for _, holds in real_scale.verdicts(bad)] == [False, False, False, False]
    assert "6GB: peak 6.10 GB is within the budget" in real_scale.verdicts(bad)[0]


def test_runs_are_compared_with_those_of_the_same_decoder(real_scale: ModuleType) -> None:
    decoders = [("conv", "a"), ("diffusion", "b"), ("conv", "a"), ("diffusion", "c")]
    results = [
        dataclasses.replace(result(real_scale, "6GB", 4_000_000_000, 204_000_000, digest), decoder=decoder)
        for decoder, digest in decoders
    ]
    same = [check for check in real_scale.verdicts(results) if "same bits" in check[0]]
    assert [(text.rsplit("runs", 1)[1], holds) for text, holds in same] == [
        (" of the conv decoder", True),
        (" of the diffusion decoder", False),
    ]
    assert results[0].title == "6GB conv"


@pytest.mark.slow
def test_the_picture_shows_line_bands_and_budget(real_scale: ModuleType, tmp_path: Path) -> None:
    samples = [real_scale.Sample(t / 10, 3_000_000_000 if t > 50 else 1_000_000_000) for t in range(101)]
    bands = [real_scale.Band("first stage", 1.0, 5.0, 2_000_000_000), real_scale.Band("second stage", 5.0, 10.0, 0)]
    real_scale.draw(tmp_path / "memory.png", "a title", samples, bands, 6_000_000_000)
    with Image.open(tmp_path / "memory.png") as image:
        picture = np.array(image)
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0)}
    assert {(0x1F, 0x5C, 0x99), (0xC0, 0x56, 0x2F), (0xB0, 0x00, 0x20), (0xD8, 0xE6, 0xF3)} <= colours
    # The line is higher in the second half of the time.
    line = np.argwhere((picture == (0x1F, 0x5C, 0x99)).all(-1) & (np.arange(len(picture)) > 50)[:, None])
    left, right = line[line[:, 1] < 500, 0], line[line[:, 1] > 800, 0]
    assert right.max() < left.min()


def test_files_are_made_once(real_scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make_file(manifest: Path, path: Path, **options: Any) -> None:
        made.append((manifest.name, path.name, options))
        path.touch()

    def make_gemma(folder: Path, layers: int | None) -> None:
        made.append((folder.name, layers))
        folder.mkdir()
        (folder / "config.json").touch()

    monkeypatch.setattr(real_scale.synthetic, "write_from_manifest", make_file)
    monkeypatch.setattr(real_scale.synthetic, "write_gemma", make_gemma)
    files = real_scale.prepare(tmp_path, Path("manifests"), "2.3", mid=True)
    assert files == real_scale.prepare(tmp_path, Path("manifests"), "2.3", mid=True)
    assert made == [
        (
            "ltx-2.3-22b-distilled-fp8.safetensors.json",
            "ltx-2.3-22b-distilled-fp8-mid.safetensors",
            {"layers": 4, "encoder_layers": 6},
        ),
        ("gemma-3-12b-mid", 6),
        ("ltx-2.3-spatial-upscaler-x2-1.0.safetensors.json", "ltx-2.3-spatial-upscaler-x2-1.0.safetensors", {}),
    ]


def test_parts_of_25_are_files_of_their_own(
    real_scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    def make_file(manifest: Path, path: Path, **options: Any) -> None:
        made[path.name] = options
        path.touch()

    monkeypatch.setattr(real_scale.synthetic, "write_from_manifest", make_file)
    files = real_scale.prepare(tmp_path, Path("manifests"), "2.5", mid=True, decoders=["conv"])
    assert made == {
        "gemma4-12b-with-proj-ltx-2.5-bf16-mid.safetensors": {"layers": 6},
        "ltx-2.5-22b-distilled-transformer-int8-mid.safetensors": {"layers": 4, "eight_bits": "int8"},
        "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors": {},
        "ltx-2.5-audio-vae-bf16.safetensors": {},
        "ltx-2.5-video-vae-conv-bf16.safetensors": {},
    }
    assert {path.name for path in files.all()} == made.keys()
    words = files.words("conv")
    assert words[words.index("--video-vae-path") + 1] == str(tmp_path / "ltx-2.5-video-vae-conv-bf16.safetensors")
    assert words[words.index("--audio-vae-path") + 1] == str(tmp_path / "ltx-2.5-audio-vae-bf16.safetensors")
    assert "--video-vae-path" not in files.words(None)


def test_decoders_are_chosen_for_25_alone(real_scale: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        real_scale.main([str(tmp_path), "--manifests", str(tmp_path), "--decoder", "conv"])


@pytest.mark.slow
def test_a_run_of_the_embedded_model(
    real_scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = real_scale.Files(embedded.CHECKPOINT, embedded.TEXT_ENCODER, embedded.SPATIAL_UPSCALER)
    monkeypatch.setattr(real_scale, "prepare", lambda *given: files)
    words = [str(tmp_path), "--manifests", str(tmp_path), "--size", "9", "64", "64", "--memory", "4GB"]
    assert real_scale.main(words) == 0
    assert "yes  4GB: peak" in capsys.readouterr().out
    with Image.open(tmp_path / "memory-4GB.png") as image:
        assert image.size == (1200, 640)
    (saved,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    names = [row["name"] for row in saved["stages"]]
    assert names[0] == "text encoder"
    assert names[-1] == "video decoder"
    assert 50e6 < saved["peak"] < 4e9
    assert {"video", "audio"} < saved["digests"].keys()
    assert "| denoise 1 |" in (tmp_path / "table-4GB.md").read_text()


def test_latents_must_be_finite(real_scale: ModuleType, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "latents.safetensors", {"video": np.array([1.0, np.nan], np.float32)})
    with pytest.raises(Ltx2rtError, match="video holds values that are not finite"):
        real_scale.digests(tmp_path / "clip.mp4", tmp_path / "latents.safetensors")


@pytest.mark.slow
def test_a_failed_run_is_reported(
    real_scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = real_scale.Files(tmp_path / "missing.safetensors", tmp_path, tmp_path / "none.safetensors")
    monkeypatch.setattr(real_scale, "prepare", lambda *given: files)
    assert real_scale.main([str(tmp_path), "--manifests", str(tmp_path)]) == 1
    assert "ended with exit code 1" in capsys.readouterr().err

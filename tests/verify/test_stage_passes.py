"""Runs that are saved pass by pass: what our own run makes passes, and every change to it is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.verify import runner
from ltx2rt.verify.golden import GoldenFile
from ltx2rt.verify.stage_passes import PassesRun
from ltx2rt.weights.generations import Generation
from ltx2rt.weights.safetensors import write_safetensors

CORPUS = Path(__file__).parents[1] / "goldens"
MODEL = "tiny-ltx2-19b-style.safetensors"
METADATA = {
    "pipeline": "distilled",
    "audio_sampling_rate": "24000",
    "args": json.dumps({"prompt": "a dog", "seed": 5, "height": 64, "width": 64, "num_frames": 9, "frame_rate": 24.0}),
    "files": json.dumps(
        {
            "transformer": MODEL,
            "video_vae": MODEL,
            "audio_vae": MODEL,
            "upscaler": "tiny-spatial-upscaler-x2.safetensors",
        }
    ),
}
NAME = "x_distilled.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden folder with the models of the corpus, and no goldens."""
    folder = tmp_path_factory.mktemp("goldens")
    for path in CORPUS.iterdir():
        if path.name.startswith("tiny-"):
            (folder / path.name).symlink_to(path)
    (folder / "pipelines").mkdir()
    return folder


@pytest.fixture(scope="module")
def saved(root: Path) -> dict[str, np.ndarray]:
    """The tensors of our own run, as such a file holds them."""
    path = root / "pipelines" / NAME
    write_safetensors(path, {"nothing": np.zeros(1, np.float32)}, METADATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generation, "is_ancestral", lambda *_: True)
        run = PassesRun(GoldenFile(path, root))
        tensors: dict[str, Any] = {}
        for index, made in enumerate(run.passes):
            draws = iter(made.draws)
            for step in range(len(made.steps) - 1):
                for stream in ("video", "audio"):
                    tensors[f"pass.{index:02d}.{stream}.step_noise.{step}"] = next(draws)
            for event in made.noised:
                prefix = f"pass.{index:02d}.{event.modality}."
                tokens = [getattr(step, event.modality) for step in made.steps]
                grid = (2, 1 + index, 1 + index) if event.modality == "video" else (9, 16)
                final = (
                    tokens[-1].reshape(1, *grid, 128) if event.modality == "video" else tokens[-1].reshape(1, 9, 8, 16)
                )
                tensors[prefix + "out"] = np.moveaxis(final, -1 if event.modality == "video" else 2, 1)
                tensors[prefix + "after_step_0"] = tokens[0]
                tensors[prefix + "noise"] = event.noise
                tensors[prefix + "noise_scale"] = np.array(event.noise_scale, np.float32)
                tensors[prefix + "positions"] = event.state.positions
                if event.state.keyframes_mask is not None:
                    tensors[prefix + "keyframes_mask"] = event.state.keyframes_mask[..., None]
        waveform = run.waveform
        assert waveform is not None
        video = np.concatenate(run.chunks)
    tensors |= {"video_float_fhwc.frame_003": video[3], "video_mean_per_frame": video.mean(axis=(1, 2, 3))}
    tensors["audio_samples"] = np.array(len(waveform), np.int64)
    tensors["audio_waveform"] = waveform.T[:, :100]
    return {name: np.array(value, order="C") for name, value in tensors.items()}


def failed(root: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The cases that fail for a file of these tensors."""
    monkeypatch.setattr(Generation, "is_ancestral", lambda *_: True)
    write_safetensors(root / "pipelines" / NAME, tensors, METADATA)
    results = list(runner.run_file(root / "pipelines" / NAME, root, index={}))
    assert len(results) >= 5
    return {result.name.partition("/")[2] for result in results if result.status != "pass"}


def test_our_own_run_passes(root: Path, saved: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed(root, saved, monkeypatch) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "cases"),
    [
        ({"pass.00.audio.step_noise.3": 1e-3}, {"pass.00"}),
        ({"pass.01.video.noise": 1e-3, "pass.00.video.out": 0.1, "audio_samples": 1}, {"pass.01", "pass.00", "audio"}),
        ({"pass.01.video.positions": 1.0, "pass.00.video.keyframes_mask": 1.0}, {"pass.01", "pass.00"}),
        ({"pass.01.audio.after_step_0": 0.1, "audio_waveform": 0.1}, {"pass.01", "audio"}),
        ({"video_float_fhwc.frame_003": 0.01}, {"frames"}),
        ({"video_mean_per_frame": 0.01}, {"frames"}),
    ],
)
def test_a_change_is_found(
    root: Path,
    saved: dict[str, np.ndarray],
    change: dict[str, float],
    cases: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = {name: (saved[name] + by).astype(saved[name].dtype) for name, by in change.items()}
    assert failed(root, saved | changed, monkeypatch) == cases


@pytest.mark.slow
def test_more_and_fewer_results_are_found(
    root: Path, saved: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = saved | {"pass.02.video.noise_scale": np.array(1.0, np.float32)}
    assert failed(root, more, monkeypatch) == {"saved", "pass.02", "unread"}
    fewer = {name: value for name, value in saved.items() if name != "pass.01.video.step_noise.1"}
    assert failed(root, fewer, monkeypatch) == {"pass.01"}


@pytest.mark.slow
def test_a_pass_that_was_not_saved_is_no_failure(
    root: Path, saved: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = {name: value for name, value in saved.items() if not name.startswith("pass.00.")}
    write_safetensors(root / "pipelines" / NAME, last, METADATA)
    monkeypatch.setattr(Generation, "is_ancestral", lambda *_: True)
    results = list(runner.run_file(root / "pipelines" / NAME, root, index={}))
    assert {result.name.partition("/")[2]: result.status for result in results} == dict.fromkeys(
        ("saved", "pass.01", "audio", "frames"), "pass"
    )

"""``--activations int8``: 8-bit weights multiply activations as 8-bit codes, and what cannot is refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.stages.denoise.residency import partly_streamed
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Activations, LinearWeight
from ltx2rt.weights.block_stream import BlockStream

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9", "--prompt", "a red circle", "--no-state", "--quiet"]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in rotated 8-bit integers."""
    file = tmp_path_factory.mktemp("int8") / "toy-distilled.safetensors"
    assert run(["convert", "--format", "int8-convrot", "--quiet", str(embedded.CHECKPOINT), str(file)]) == 0
    return file


def latents(folder: Path, name: str, *words: str) -> np.ndarray:
    file = folder / f"{name}.safetensors"
    parts = ["--gemma-root", str(embedded.TEXT_ENCODER), "--pipeline", "one-stage", "--steps", "2"]
    assert run(["generate", *SMALL, *parts, "--skip-vae", "--save-latents", str(file), *words]) == 0
    return to_numpy(mx.load(str(file))["video"].astype(mx.float32))


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).mean() / np.square(found - wanted).mean()))


@pytest.mark.slow
def test_codes_cost_little_beside_the_weights_own_rounding(tmp_path: Path, int8: Path) -> None:
    exact = latents(tmp_path, "bf16", "--checkpoint-path", str(embedded.CHECKPOINT))
    rounded = latents(tmp_path, "weights", "--checkpoint-path", str(int8))
    found = latents(tmp_path, "both", "--checkpoint-path", str(int8), "--activations", "int8")
    assert not np.array_equal(found, rounded)
    # At most twice the error of the weights alone.
    assert decibels(found, exact) > decibels(rounded, exact) - 20 * np.log10(2)


def test_resident_and_streamed_blocks_are_told() -> None:
    weight = LinearWeight("int8", mx.zeros((4, 8), dtype=mx.int8), mx.ones(4))
    blocks = {f"transformer_blocks.{index}.to_q.weight": weight for index in range(2)}

    class Stream:
        def __call__(self, place: int) -> dict[str, LinearWeight]:
            return {"transformer_blocks.1.to_q.weight": weight}

        def release(self) -> None:
            pass

    for activations in get_args(Activations):
        resident, stream = Params(blocks, activations=activations), cast(BlockStream, Stream())
        of_block = partly_streamed(resident, [1], stream, activations)
        for index in range(2):
            assert of_block(index).at("to_q").weight("weight").activations == activations


def test_other_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", *SMALL, "--activations", "int8", "--output-path", str(tmp_path / "x.mp4")]) == 2
    assert "--activations int8 needs a transformer of 8-bit integers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_gpu_is_refused(
    tmp_path: Path, int8: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ltx2rt.graph.pipelines.checks.mx.default_device", lambda: mx.gpu)
    words = ["--checkpoint-path", str(int8), "--gemma-root", str(embedded.TEXT_ENCODER)]
    assert run(["generate", *SMALL, *words, "--pipeline", "one-stage", "--activations", "int8"]) == 2
    assert "--activations int8 is for processors" in capsys.readouterr().err

"""Runs with a file of weights beside runs with its decoded values, and the resolution of a folder of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.convert.conversion import convert
from ltx2rt.types import LinearWeight
from ltx2rt.verify.format_runs import check_run, no_run
from ltx2rt.verify.format_sets import check_folder
from ltx2rt.verify.golden import GoldenFile
from ltx2rt.weights.formats.int8 import Int8
from ltx2rt.weights.formats.linear_format import Stored
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors

GOLDENS = Path(__file__).parents[1] / "goldens"
MODEL = GOLDENS / "tiny-ltx2.3-22b-style.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer of the small model with int8 weights."""
    path = tmp_path_factory.mktemp("converted") / "transformer-int8.safetensors"
    convert(MODEL, path, "int8-convrot", only=("transformer",))
    return path


def test_a_run_with_quantised_weights_is_one_with_their_values(converted: Path) -> None:
    checks = list(check_run(converted, GOLDENS))
    assert [check.name for check in checks] == ["video latent", "audio latent"]
    assert all(check.passed and 0 < check.tolerance < 0.01 for check in checks)


@pytest.mark.slow
def test_a_run_with_plain_weights_has_the_same_bits() -> None:
    checks = list(check_run(GOLDENS / "tiny-gemma3", GOLDENS))
    assert [check.error for check in checks] == [0.0, 0.0]
    assert [check.tolerance for check in checks] == [0.0, 0.0]


def test_weights_that_are_loaded_wrongly_are_found(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_rows(self: Int8, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", mx.contiguous(self.array(stored, shape)[::-1]))

    monkeypatch.setattr(Int8, "load", reversed_rows)
    assert not any(check.passed for check in check_run(converted, GOLDENS))


def test_what_no_run_can_be_made_with(tmp_path: Path) -> None:
    assert no_run(MODEL) == ""
    file = SafetensorsFile(MODEL)
    names = [name for name in file.tensors if ".transformer_blocks." in name or "patchify" in name]
    tensors = {name: RawTensor(file.tensors[name].dtype, file.raw(name)) for name in names}
    write_safetensors(tmp_path / "unstated.safetensors", tensors)
    assert "states no configuration" in no_run(tmp_path / "unstated.safetensors")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A ComfyUI folder with a transformer, its connectors in a second file, and a file of another model."""
    file = SafetensorsFile(MODEL)

    def part(name: str, of: Callable[[str], bool]) -> None:
        tensors = {n: RawTensor(info.dtype, file.raw(n)) for n, info in file.tensors.items() if of(n)}
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(tmp_path / "models" / name, tensors, file.metadata)

    part("diffusion_models/model.safetensors", lambda n: "diffusion_model." in n and "_connector." not in n)
    part("text_encoders/connectors.safetensors", lambda n: "_connector." in n or n.startswith("text_embedding"))
    part("vae/video.safetensors", lambda n: n.startswith("vae."))
    write_safetensors(tmp_path / "models" / "vae" / "other.safetensors", {"double_blocks.0": np.zeros(3, np.float32)})
    return tmp_path / "models"


EXPECTED: dict[str, dict[str, Any]] = {
    "diffusion_models/model.safetensors": {
        "generation": "2.3",
        "components": ["transformer"],
        "takes": ["text_encoders/connectors.safetensors", "vae/video.safetensors"],
        "needs": ["audio vae + vocoder"],
    },
    "vae/video.safetensors": {"components": ["video_vae"]},
    "vae/other.safetensors": {"error": "not an LTX model"},
}


def failed(models: Path, expected: dict[str, Any]) -> list[str]:
    path = models.parent / "models.expected.json"
    path.write_text(json.dumps(expected))
    return [check.name for check in check_folder(models, GoldenFile(path, models.parent)) if not check.passed]


def test_a_folder_resolves_as_expected(models: Path) -> None:
    assert failed(models, EXPECTED) == []


def changes() -> Iterator[tuple[str, str, Any]]:
    model = "diffusion_models/model.safetensors"
    yield model, "generation", "19b"
    yield model, "components", ["transformer", "video_connector"]
    yield model, "takes", ["text_encoders/connectors.safetensors"]
    yield model, "error", "no connectors for generation 2.3 in this folder"
    yield "vae/video.safetensors", "components", ["audio_vae"]
    yield "vae/other.safetensors", "error", None


@pytest.mark.parametrize(("name", "key", "value"), list(changes()))
def test_another_resolution_is_found(models: Path, name: str, key: str, value: Any) -> None:
    expected = json.loads(json.dumps(EXPECTED))
    if value is None:
        del expected[name][key]
    else:
        expected[name][key] = value
    assert failed(models, expected)


def test_an_expectation_that_nothing_reads_is_an_error(models: Path) -> None:
    expected = {**EXPECTED, "vae/video.safetensors": {"components": ["video_vae"], "colour": "blue"}}
    with pytest.raises(KeyError, match="colour"):
        failed(models, expected)

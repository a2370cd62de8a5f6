"""Golden cases of weight formats: what is compared, and that every kind of difference is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.types import Array
from ltx2rt.verify import runner
from ltx2rt.verify.formats import is_formats_folder
from ltx2rt.weights.safetensors import RawTensor, write_safetensors

BASE = "model.diffusion_model.transformer_blocks.0"
CODES = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32) % 120
SCALE = np.float32(0.25)


def values_of(codes: Array) -> Array:
    return to_floats(codes) * SCALE


def to_floats(codes: Array) -> Array:
    """E4M3 by its definition; no code here is a NaN."""
    exponent, mantissa = (codes >> 3 & 15).astype(np.int32), codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return np.where(exponent > 0, normal, mantissa * 2.0**-9).astype(np.float32)


class Folder:
    """A folder of golden cases in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: dict[str, Any] = {}
        (path / "layers").mkdir(parents=True)

    def layers(self, **entry: Any) -> None:
        """One FP8 layer, whole, and another as a product."""
        tensors: dict[str, Any] = {}
        for name in ("attn1.to_q", "attn2.to_k"):
            tensors[f"{BASE}.{name}.weight"] = RawTensor("F8_E4M3", CODES)
            tensors[f"{BASE}.{name}.weight_scale"] = SCALE.reshape(())
        write_safetensors(self.path / "layers" / "fp8.safetensors", tensors)
        vector = np.random.default_rng(1).normal(size=32).astype(np.float32)
        product = (values_of(CODES).astype(np.float64) @ vector).astype(np.float32)
        self.expect(
            {
                f"{BASE}.attn1.to_q.weight": values_of(CODES),
                f"{BASE}.attn2.to_k.weight|x": vector,
                f"{BASE}.attn2.to_k.weight|y": product,
            }
        )
        self.index["layers/fp8.safetensors"] = {
            "kind": "layers",
            "format": "fp8",
            "expected": "layers/fp8.expected.safetensors",
            "tolerance": 0,
            **entry,
        }

    def expect(self, tensors: dict[str, Array]) -> None:
        self.expected = tensors

    def results(self) -> dict[str, runner.Result]:
        if hasattr(self, "expected"):
            write_safetensors(self.path / "layers" / "fp8.expected.safetensors", self.expected)
        (self.path / "INDEX.json").write_text(json.dumps(self.index))
        return {result.name: result for result in runner.run(self.path)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "formats")


LAYERS = "formats/layers/fp8.safetensors"
CONTENTS = "formats/files of the folder"


def test_equal_values_pass(folder: Folder) -> None:
    folder.layers()
    results = folder.results()
    assert {name: result.status for name, result in results.items()} == {LAYERS: "pass", CONTENTS: "pass"}
    assert is_formats_folder(folder.path)
    assert not is_formats_folder(folder.path.parent)
    assert [result.status for result in runner.run(folder.path.parent)] == ["pass", "pass"]


def _another_value(folder: Folder) -> None:
    folder.expected[f"{BASE}.attn1.to_q.weight"][3, 4] += 0.25


def _another_product(folder: Folder) -> None:
    folder.expected[f"{BASE}.attn2.to_k.weight|y"][3] *= 1.0001


def _another_shape(folder: Folder) -> None:
    folder.expected[f"{BASE}.attn1.to_q.weight"] = values_of(CODES)[:5]


def _a_product_without_its_vector(folder: Folder) -> None:
    del folder.expected[f"{BASE}.attn2.to_k.weight|x"]


def _a_layer_that_is_not_there(folder: Folder) -> None:
    folder.expected[f"{BASE}.attn2.to_v.weight"] = values_of(CODES)


def _a_layer_that_nothing_is_compared_with(folder: Folder) -> None:
    del folder.expected[f"{BASE}.attn1.to_q.weight"]


def _an_entry_that_no_case_reads(folder: Folder) -> None:
    folder.index["layers/fp8.safetensors"]["twist"] = 3


def _other_packing(folder: Folder) -> None:
    folder.index["layers/fp8.safetensors"]["shapes"] = {f"{BASE}.attn1.to_q.weight": [12, 16]}


@pytest.mark.parametrize(
    "change",
    [
        _another_value,
        _another_product,
        _another_shape,
        _a_product_without_its_vector,
        _a_layer_that_is_not_there,
        _a_layer_that_nothing_is_compared_with,
        _an_entry_that_no_case_reads,
        _other_packing,
    ],
    ids=lambda change: change.__name__.strip("_").replace("_", " "),
)
def test_differences_are_found(folder: Folder, change: Callable[[Folder], None]) -> None:
    folder.layers()
    change(folder)
    assert folder.results()[LAYERS].status == "fail"


def test_a_file_of_no_entry_and_an_entry_without_file(folder: Folder) -> None:
    folder.layers()
    (folder.path / "layers" / "stray.safetensors").write_bytes(b"")
    result = folder.results()[CONTENTS]
    assert result.status == "fail"
    assert "layers/stray.safetensors" in result.detail
    (folder.path / "layers" / "stray.safetensors").unlink()
    folder.index["layers/lost.safetensors"] = folder.index["layers/fp8.safetensors"]
    results = folder.results()
    assert results[CONTENTS].status == "fail"
    assert results["formats/layers/lost.safetensors"].status == "fail"


def test_a_file_that_cannot_be_judged_fails_alone(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise TypeError(f"{path.name} is odd")

    monkeypatch.setattr("ltx2rt.verify.formats.no_run", broken)
    folder.layers()
    (folder.path / "files").mkdir()
    (folder.path / "files" / "odd.safetensors").write_bytes(b"")
    folder.index["files/odd.safetensors"] = {"kind": "component", "equals": "nothing"}
    statuses = {name: result.status for name, result in folder.results().items()}
    assert statuses[LAYERS] == "pass"
    assert statuses["formats/files/odd.safetensors"] == statuses["formats/files/odd.safetensors in a run"] == "fail"


def test_what_equals_another_file(folder: Folder) -> None:
    plain = {f"{BASE}.attn1.to_v.{kind}": mx.random.normal((4, 4)).astype(mx.bfloat16) for kind in ("weight", "bias")}
    write_safetensors(folder.path.parent / "whole.safetensors", plain)
    (folder.path / "files").mkdir()
    name = "files/part.safetensors"
    folder.index[name] = {"kind": "component", "equals": "../whole.safetensors, some of it", "tolerance": 0}
    write_safetensors(folder.path / name, {f"{BASE}.attn1.to_v.weight": plain[f"{BASE}.attn1.to_v.weight"]})
    assert folder.results()[f"formats/{name}"].status == "pass"
    write_safetensors(folder.path / name, {f"{BASE}.attn1.to_v.weight": plain[f"{BASE}.attn1.to_v.bias"]})
    assert folder.results()[f"formats/{name}"].status == "fail"
    write_safetensors(folder.path / name, {f"{BASE}.attn1.to_k.weight": plain[f"{BASE}.attn1.to_v.bias"]})
    assert "should be equal" in folder.results()[f"formats/{name}"].detail
    folder.index[name]["equals"] = "something else"
    assert "something else" in folder.results()[f"formats/{name}"].detail


def test_hashes(folder: Folder) -> None:
    table = np.random.default_rng(2).normal(size=(6, 32)).astype(np.float32)
    (folder.path / "sets").mkdir()
    name = f"{BASE}.scale_shift_table"
    write_safetensors(folder.path / "sets" / "one.safetensors", {name: table})
    saved = {name: ["F32", [6, 32], hashlib.sha256(table.tobytes()).hexdigest()[:16]]}
    folder.index["sets/one.safetensors"] = {"kind": "set", "hashes": "sets/one.expected.json"}
    (folder.path / "sets" / "one.expected.json").write_text(json.dumps(saved))
    assert folder.results()["formats/sets/one.safetensors"].status == "pass"
    saved[name][2] = "0" * 16
    (folder.path / "sets" / "one.expected.json").write_text(json.dumps(saved))
    assert folder.results()["formats/sets/one.safetensors"].status == "fail"


def test_refusals_need_their_words_and_the_name_of_the_file(folder: Folder) -> None:
    (folder.path / "bad").mkdir()
    (folder.path / "bad" / "pickle.safetensors").write_bytes(b"\x80\x04x" + bytes(30))
    entry = {"kind": "bad", "error": "a pickle", "mention": ["pickle"]}
    folder.index["bad/pickle.safetensors"] = entry
    assert folder.results()["formats/bad/pickle.safetensors"].status == "pass"
    entry["mention"] = ["pickle", "marmalade"]
    result = folder.results()["formats/bad/pickle.safetensors"]
    assert result.status == "fail"
    assert "'marmalade' is not in what is said" in result.detail

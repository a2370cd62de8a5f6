"""A golden file with a tensor missing, added, renamed or changed fails, whichever tensor it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.verify import runner
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors

CORPUS = Path(__file__).parents[1] / "goldens"
# Small files of every kind, quick to compute. Their inputs and weights are taken from the corpus.
FILES = (
    "components/19b_audio.safetensors",
    "components/19b_fp8.safetensors",
    "components/19b_upsamplers.safetensors",
    "components/19b_video_vae.safetensors",
    "components/23_lora.safetensors",
    "components/23_text.safetensors",
    "components/23_transformer.safetensors",
    "components/conditioning.safetensors",
    "components/guiders.safetensors",
    "components/media.safetensors",
    "components/positions.safetensors",
    "components/rope.safetensors",
    "components/sampling.safetensors",
    "components/timestep_embedding.safetensors",
    "pipelines/19b_retake.safetensors",
    "pipelines/19b_ti2vid_two_stages_hq.safetensors",
)
# These take seconds: by default one of them is damaged, in one way.
ONE_WAY: dict[str, tuple[str, ...]] = {
    "components/19b_fp8.safetensors": (),
    "pipelines/19b_retake.safetensors": ("changed",),
    "pipelines/19b_ti2vid_two_stages_hq.safetensors": (),
}
# What is said about names is alike for all kinds, so by default the other files have one of these damages in turn.
OF_NAMES = ("added", "missing", "renamed")
Tensors = dict[str, RawTensor]


def files(way: str) -> list[Any]:
    """The files that are damaged in a way; by default those of components, which take less time."""
    ways = {name: ONE_WAY.get(name, ("changed", OF_NAMES[index % 3])) for index, name in enumerate(FILES)}
    slow = {name for name in FILES if way not in ways[name] or (way == "changed" and name.startswith("pipelines/"))}
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in FILES]


def damaged(tmp_path: Path, name: str, damage: Callable[[Tensors], None], *, index: bool = False) -> Path:
    """A golden folder with one damaged golden file; the weights are links to the corpus."""
    for path in CORPUS.iterdir():
        if path.name not in ("components", "pipelines", "INDEX.json"):
            (tmp_path / path.name).symlink_to(path)
    for part in ("components", "pipelines"):
        (tmp_path / part).mkdir()
    (tmp_path / "pipelines" / "inputs").symlink_to(CORPUS / "pipelines" / "inputs")
    source = SafetensorsFile(CORPUS / name)
    tensors = {key: RawTensor(info.dtype, source.raw(key)) for key, info in source.tensors.items()}
    damage(tensors)
    write_safetensors(tmp_path / name, tensors, source.metadata)
    for other in {"19b_transformer", "23_transformer"} - {Path(name).stem}:
        shutil.copy(CORPUS / "components" / f"{other}.safetensors", tmp_path / "components")  # inputs of other files
    if index:
        entries = json.loads((CORPUS / "INDEX.json").read_text())
        (tmp_path / "INDEX.json").write_text(json.dumps({name: entries[name]}))
    return tmp_path


def failures(root: Path, name: str) -> list[str]:
    return [f"{r.name}: {r.detail}" for r in runner.run_file(root / name, root) if r.status == "fail"]


def changed(tensor: RawTensor) -> RawTensor:
    """One element moved far beyond every tolerance."""
    items = np.array(tensor.items)
    first = (0,) * items.ndim
    items[first] = not items[first] if tensor.dtype == "BOOL" else items[first] + items.dtype.type(100)
    return RawTensor(tensor.dtype, items)


def tensors_of(name: str) -> list[str]:
    return sorted(SafetensorsFile(CORPUS / name).tensors)


@pytest.mark.parametrize("name", files("added"))
def test_an_added_tensor_fails(name: str, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["something_else.00"] = RawTensor("F32", np.zeros(3, np.float32))

    assert any("something_else" in failure for failure in failures(damaged(tmp_path, name, add), name))


@pytest.mark.parametrize("name", files("missing"))
def test_a_missing_tensor_fails(name: str, tmp_path: Path) -> None:
    keys = tensors_of(name)
    gone = keys[len(keys) // 2]

    def remove(tensors: Tensors) -> None:
        del tensors[gone]

    found = failures(damaged(tmp_path, name, remove, index=True), name)
    assert any("contents" in failure and gone in failure for failure in found)


@pytest.mark.parametrize("name", files("renamed"))
def test_a_renamed_tensor_fails(name: str, tmp_path: Path) -> None:
    keys = tensors_of(name)
    renamed = keys[-1]

    def rename(tensors: Tensors) -> None:
        tensors[f"{renamed}x"] = tensors.pop(renamed)

    assert failures(damaged(tmp_path, name, rename), name)


@pytest.mark.parametrize("name", files("changed"))
def test_a_changed_tensor_fails(name: str, tmp_path: Path) -> None:
    keys = tensors_of(name)

    def change(tensors: Tensors) -> None:
        tensors[keys[-1]] = changed(tensors[keys[-1]])

    assert failures(damaged(tmp_path, name, change), name)

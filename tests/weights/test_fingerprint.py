"""Fingerprints: equal files agree; another size, header, beginning, middle or end shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.fingerprint import SAMPLE_BYTES, SAMPLES, fingerprint
from ltx2rt.weights.safetensors import write_safetensors


def written(path: Path, values: np.ndarray, **metadata: str) -> str:
    write_safetensors(path, {"x": values}, metadata)
    return fingerprint(path)


def test_copies_agree_and_changes_show(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(4 * SAMPLES * SAMPLE_BYTES // 4).astype(np.float32)
    first = written(tmp_path / "a.safetensors", values, version="2.0")
    assert first.startswith("sampled-sha256:")
    assert written(tmp_path / "b.safetensors", values, version="2.0") == first
    assert written(tmp_path / "c.safetensors", values, version="2.3") != first
    assert written(tmp_path / "d.safetensors", values[:-1], version="2.0") != first
    for index in (0, -1):
        changed = values.copy()
        changed[index] += 1
        assert written(tmp_path / "e.safetensors", changed, version="2.0") != first
    assert written(tmp_path / "f.safetensors", values + 1, version="2.0") != first


def test_a_folder_counts_with_its_names(tmp_path: Path) -> None:
    for folder, name in (("a", "config.json"), ("b", "config.json"), ("c", "other.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    prints = [fingerprint(tmp_path / folder) for folder in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_small_and_empty_files_have_one(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "small.json").write_text("{}")
    assert fingerprint(tmp_path / "empty.safetensors") != fingerprint(tmp_path / "small.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be read"):
        fingerprint(tmp_path / "none.safetensors")

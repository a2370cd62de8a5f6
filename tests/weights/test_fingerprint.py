"""Fingerprints: equal files agree; another size, header, beginning, middle or end shows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights import fingerprint as fingerprint_module
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


def test_a_file_that_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = tmp_path / "a.safetensors", np.zeros(1000, np.float32)
    opened: list[Path] = []
    read = fingerprint_module._add
    monkeypatch.setattr(fingerprint_module, "_add", lambda digest, file: (opened.append(file), read(digest, file)))
    first = written(path, values)
    assert fingerprint(path) == first
    assert len(opened) == 2  # written a moment ago: the next change might not show in its time
    monkeypatch.setattr(fingerprint_module, "_SETTLED_SECONDS", -1e9)
    assert fingerprint(path) == fingerprint(path) == first
    assert len(opened) == 3
    os.utime(path, (1, 1))
    assert fingerprint(path) == first
    assert len(opened) == 4
    assert written(path, values[1:]) != first


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

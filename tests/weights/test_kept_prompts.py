"""Encoded prompts on disk: private, bounded, whole, and shared between processes."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from ltx2rt.weights.kept_prompts import KeptPrompts, key_of

ARRAYS = {"video": mx.arange(12.0).astype(mx.bfloat16).reshape(1, 3, 4), "audio": mx.arange(6.0).reshape(1, 3, 2)}

# Puts and gets entries of its own and of all others, in a folder that holds three.
BUSY = """
import sys
from pathlib import Path

import mlx.core as mx

from ltx2rt.weights.kept_prompts import KeptPrompts

folder, own = Path(sys.argv[1]), int(sys.argv[2])
store = KeptPrompts(folder, 3 * 5000)
for turn in range(40):
    key = f"{(own + turn) % 6}"
    store.put(key, {"video": mx.full((1000,), int(key))})
    for other in range(6):
        found = store.get(str(other))
        assert found is None or bool((found["video"] == other).all())
print("done")
"""


def same(found: dict[str, mx.array] | None) -> bool:
    return found is not None and all(
        found[name].dtype == array.dtype and mx.array_equal(found[name], array) for name, array in ARRAYS.items()
    )


def test_what_was_put_comes_back_in_every_bit(tmp_path: Path) -> None:
    store = KeptPrompts(tmp_path / "prompts")
    assert not store.has("a")
    assert store.get("a") is None
    store.put("a", ARRAYS)
    assert store.has("a")
    assert same(store.get("a"))
    assert same(KeptPrompts(tmp_path / "prompts").get("a"))


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir(mode=0o777)
    old = os.umask(0)
    try:
        KeptPrompts(folder).put("a", ARRAYS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    values = {"video": mx.zeros(50)}
    KeptPrompts(tmp_path).put("a", values)
    size = (tmp_path / "a.safetensors").stat().st_size
    store = KeptPrompts(tmp_path, 3 * size)
    for number, key in enumerate("abc"):
        store.put(key, values)
        os.utime(tmp_path / f"{key}.safetensors", (number, number))
    assert store.get("a") is not None  # used now
    store.put("d", values)
    assert [key for key in "abcd" if store.has(key)] == ["a", "c", "d"]
    store.put("e", {"video": mx.zeros(size)})  # larger than all together
    assert not store.has("e")


@pytest.mark.parametrize("how", ["cut", "changed", "other", "empty"])
def test_what_is_damaged_counts_as_not_there(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = KeptPrompts(tmp_path)
    store.put("a", ARRAYS)
    path = tmp_path / "a.safetensors"
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-5]
    elif how == "changed":
        content[-1] ^= 1
    elif how == "other":
        content = bytearray(b"not a weight file at all, though long enough")
    else:
        content = bytearray()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.get("a") is None
    assert "damaged and is encoded again" in caplog.text
    assert not path.exists()
    store.put("a", ARRAYS)
    assert same(store.get("a"))


def test_a_folder_that_cannot_be_made_costs_only_the_keeping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = KeptPrompts(tmp_path / "file" / "prompts")
    with caplog.at_level(logging.WARNING):
        store.put("a", ARRAYS)
    assert "the encoded prompt is not kept" in caplog.text
    assert store.get("a") is None


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.safetensors.1.2.part", tmp_path / ".b.safetensors.3.4.part"
    for path, age in ((old, 2 * 24 * 3600), (young, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    KeptPrompts(tmp_path).put("a", ARRAYS)
    assert not old.exists()
    assert young.exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    theirs = [tmp_path / name for name in ("notes.txt", "model.safetensors", ".model.safetensors.1.2.part")]
    for path in theirs:
        path.write_bytes(bytes(100))
        os.utime(path, (0, 0))
    KeptPrompts(tmp_path, most_bytes=2 * sum(array.nbytes for array in ARRAYS.values())).put("a", ARRAYS)
    assert all(path.exists() for path in theirs)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", BUSY, str(tmp_path), str(number)] for number in range(2)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        assert out == b"done\n"
        assert b"damaged" not in err
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".safetensors"]) <= 3


def test_a_key_is_of_all_values() -> None:
    key = key_of({"text": "a", "tokens": [1, 2]})
    assert key == key_of({"tokens": [1, 2], "text": "a"})
    assert len({key, key_of({"text": "b", "tokens": [1, 2]}), key_of({"text": "a", "tokens": [1]})}) == 3
    assert len(key) == 64

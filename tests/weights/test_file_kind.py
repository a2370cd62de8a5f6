"""What a file is, by its first bytes: the two that are read, and a name for everything else that people try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.file_kind import begins_as, file_kind

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 43000000000\n"


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"", "an empty file; download the file again"),
        (b"PK\3\4\x14\0rest", "a zip archive"),
        (b"PK\5\6" + b"\0" * 18, "a zip archive"),
        (b"\x80\2}q\0.", "a Python pickle"),
        (b"\x80\5\x95\x10\0\0\0\0", "a Python pickle"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (LFS, "a git-lfs pointer .*git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "a web page, not a weight file"),
        (b"\r\n <HTML><head>", "a web page, not a weight file"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "an XML text"),
        (b'{"error":"Repository not found"}', "a JSON text .*Repository not found.*refused download"),
        (b'{\n  "tensors": {}}', "a JSON text"),
    ],
)
def test_other_files_are_named(tmp_path: Path, begin: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(begin)
    assert begins_as(path) is None
    with pytest.raises(CheckpointError, match=message) as raised:
        file_kind(path)
    assert str(raised.value).startswith(str(path))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_header_may_be_as_long_as_a_pickle_looks(tmp_path: Path, protocol: int) -> None:
    """One safetensors file in 2048 begins with the bytes 80 02 to 80 05 because of the length of its header."""
    path = tmp_path / "a.safetensors"
    length = 0x80 + (protocol << 8)
    text = json.dumps({"vae.x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + text + b"\7")
    assert path.read_bytes()[:2] == bytes([0x80, protocol])
    assert file_kind(path) == "safetensors"
    assert Checkpoint.open(path).components == {"video_vae"}


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"GGUF\3\0\0\0")
    assert file_kind(path) == "gguf"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot open the weight file \(No such file"):
        file_kind(tmp_path / "absent")


def test_what_is_not_recognised_is_judged_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="the header claims 1099511627776 bytes"):
        Checkpoint.open(path)

"""GGUF files: what is read, against the `gguf` package and by hand; and every damage that a header can have."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from tiny_gguf import NUMBERS, Stored, of_array, random_blocks, text, value_bytes, write_gguf

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.safetensors import SelectedRows
from ltx2rt.weights.weight_file import open_weight_file

X = of_array(np.arange(6, dtype=np.float32).reshape(2, 3))


def opened(path: Path) -> GgufFile:
    file = open_weight_file(path)
    assert isinstance(file, GgufFile)
    return file


def test_every_type_lies_where_the_gguf_package_finds_it(tmp_path: Path) -> None:
    tensors = {name: random_blocks(name, (3, 512), seed) for seed, name in enumerate(BLOCK_TYPES)}
    tensors["plain"] = of_array(np.arange(5, dtype=np.float16))
    path = write_gguf(tmp_path / "a.gguf", tensors, {"general.architecture": "ltxv"})
    ours, theirs = opened(path), {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert ours.tensors.keys() == theirs.keys()
    for name, info in ours.tensors.items():
        assert info.shape == tuple(int(n) for n in reversed(theirs[name].shape)), name
        assert info.offset == theirs[name].data_offset
        assert info.nbytes == theirs[name].n_bytes
        assert theirs[name].tensor_type.name == info.dtype
        assert ours.bytes(name) == theirs[name].data.tobytes() == tensors[name].data
        assert ours.raw(name).nbytes == info.nbytes


@pytest.mark.parametrize("dtype", [name for name in NUMBERS if name not in BLOCK_TYPES])
def test_plain_numbers(tmp_path: Path, dtype: str) -> None:
    kinds = {"F32": "<f4", "F16": "<f2", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}
    items = np.array([[1, -2, 3]], kinds.get(dtype, "<f4"))
    stored = (items.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else items
    file = opened(write_gguf(tmp_path / "a.gguf", {"x": of_array(stored, dtype)}))
    np.testing.assert_array_equal(file.numpy("x"), items)
    assert file.info("x").shape == (1, 3)


def test_shapes_ranks_and_versions(tmp_path: Path) -> None:
    tensors = {"scalar": of_array(np.float32(7).reshape(())), "conv": of_array(np.zeros((2, 3, 1, 2, 4), np.float16))}
    tensors["empty"] = of_array(np.zeros((0, 4), np.float32))
    file = opened(write_gguf(tmp_path / "a.gguf", tensors, version=2))
    assert [info.shape for info in file.tensors.values()] == [(), (2, 3, 1, 2, 4), (0, 4)]
    assert file.numpy("scalar") == 7
    assert file.mlx("empty").shape == (0, 4)


def test_values_of_the_header(tmp_path: Path) -> None:
    scalars = {f"n.{kind}": np.array(7, kind)[()] for kind in ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")}
    values = {
        "general.architecture": "ltxv",
        **scalars,
        "f4": np.float32(1.5),
        "f8": np.float64(0.1),
        "yes": True,
        "texts": ["a", "", "日本", "x" * 300],
        "numbers": np.array([3, -1, 2], np.int32),
        "flags": np.array([True, False]),
        "none": [],
    }
    file = opened(write_gguf(tmp_path / "a.gguf", {"x": X}, values))
    assert file.metadata == {"general.architecture": "ltxv"}
    assert all(file.value(key) == 7 and isinstance(file.value(key), int) for key in scalars)
    assert (file.value("f4"), file.value("f8"), file.value("yes")) == (1.5, 0.1, True)
    assert file.value("texts") == values["texts"]
    assert file.value("numbers").tolist() == [3, -1, 2]
    assert file.value("flags").tolist() == [True, False]
    assert file.value("none") == []
    assert file.value("absent") is None


def test_other_alignment(tmp_path: Path) -> None:
    tensors = {"x": X, "y": of_array(np.full(3, 2.5, np.float32)), "z": random_blocks("Q4_K", (2, 256))}
    file = opened(write_gguf(tmp_path / "a.gguf", tensors, alignment=256))
    assert all(info.offset % 256 == 0 for info in file.tensors.values())
    np.testing.assert_array_equal(file.numpy("y"), [2.5, 2.5, 2.5])
    assert file.bytes("z") == tensors["z"].data


def test_original_shape_replaces_the_stored_one(tmp_path: Path) -> None:
    values = {"comfy.gguf.orig_shape.x": np.array([8, 96], np.int32), "comfy.gguf.orig_shape.y": np.array([6, 80])}
    tensors = {"x": random_blocks("Q8_0", (3, 256)), "y": random_blocks("Q4_0", (15, 32))}
    file = opened(write_gguf(tmp_path / "a.gguf", tensors, values))
    assert file.info("x").shape == (8, 96)
    assert file.raw("x").shape == (8, 3 * 34)
    assert file.info("y").shape == (6, 80)  # rows that are no whole blocks
    assert file.raw("y").shape == (15, 18)
    assert file.mlx("y").shape == (15, 18)
    with pytest.raises(CheckpointError, match=r"rows of \[6, 80\] are no whole Q4_0 blocks"):
        SelectedRows(file, [0, 2], 6).raw("y")


def test_rows_of_blocks_are_read_alone(tmp_path: Path) -> None:
    file = opened(write_gguf(tmp_path / "a.gguf", {"x": random_blocks("Q6_K", (5, 512))}))
    part = SelectedRows(file, [4, 1, 2], 5)
    assert part.info("x").shape == (3, 512)
    np.testing.assert_array_equal(part.raw("x"), file.raw("x")[[4, 1, 2]])
    assert part.mlx("x").dtype == mx.uint8


@pytest.mark.slow
def test_a_large_vocabulary_costs_nothing_until_it_is_asked_for(tmp_path: Path) -> None:
    """Against the time in which Python writes it: opening takes about half, reading one and a half times as long."""
    tokens = [f"▁token{index}" for index in range(262_144)]
    path = write_gguf(tmp_path / "a.gguf", {"x": X}, {"tokenizer.ggml.tokens": tokens})
    times: dict[str, float] = {}
    for _ in range(3):
        start = time.process_time()
        assert len(value_bytes(tokens)) > 0
        written = time.process_time()
        file = opened(path)
        scanned = time.process_time()
        assert file.value("tokenizer.ggml.tokens") == tokens
        spent = {"write": written - start, "open": scanned - written, "read": time.process_time() - scanned}
        times = {what: min(seconds, times.get(what, seconds)) for what, seconds in spent.items()}
    assert times["open"] < times["write"]
    assert times["read"] < 3 * times["write"]


BAD_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "version 1": ({"version": 1}, "GGUF version 1 is not supported; versions 2 and 3 are"),
    "version 9": ({"version": 9}, "GGUF version 9 is not supported"),
    "big-endian": ({"version": 3 << 24}, "a big-endian GGUF file"),
    "too many tensors": ({"counts": (2**60, None)}, "the header claims 1152921504606846976 tensors and 1 values"),
    "one tensor too many": ({"counts": (2, None)}, "truncated"),
    "too many values": ({"counts": (None, 2**63)}, "which do not fit into"),
    "unknown type": ({"types": {"x": 222}}, "tensor 'x': unknown GGUF tensor type 222"),
    "unsupported type": ({"types": {"x": 16}}, "tensor 'x': GGUF type IQ2_XXS is not supported; supported are Q4_0"),
    "unaligned": ({"offsets": {"x": 4}}, "offset 4 is no multiple of the alignment 32"),
    "beyond the end": (
        {"offsets": {"x": 32}},
        r"truncated: it needs \d+ bytes, .* \(32 missing, tensor 'x'",
    ),
    "far beyond the end": ({"offsets": {"x": 2**63}}, "truncated: .* tensor 'x' is cut"),
    "more bytes": ({"tail": b"\0" * 40}, "40 bytes after the last tensor belong to no tensor"),
    "half blocks": ({"types": {"x": 8}}, r"rows of \[2, 3\] are no whole Q8_0 blocks of 32 values"),
    "value twice": ({"values": [("k", 1), ("k", 2)]}, "'k' occurs twice in the header"),
    "tensor twice": ({"tensors": [("x", X), ("x", X)]}, "'x' occurs twice in the header"),
    "overlap": (
        {"tensors": [("x", X), ("y", of_array(np.zeros(16, np.float32)))], "offsets": {"y": 0}},
        "tensor 'y' overlaps 'x' by 24 bytes",
    ),
    "gap": (
        {"tensors": [("x", X), ("y", of_array(np.zeros(40, np.float32)))], "offsets": {"y": 96}, "tail": b"\0" * 64},
        "72 bytes between 'x' and 'y' belong to no tensor",
    ),
    "too large": ({"tensors": {"x": Stored("F32", (2**32, 2**31), b"")}}, "too large to address"),
    "too large beside nothing": ({"tensors": {"x": Stored("F32", (0, 2**62, 2**62), b"")}}, "too large to address"),
    "too many dimensions": ({"tensors": {"x": Stored("F32", (1,) * 33, b"")}}, "33 dimensions; at most 32"),
    "name of another encoding": ({"values": [(b"\xff\xfe", 1)]}, "a key is not UTF-8"),
    "alignment 3": ({"values": {"general.alignment": 3}}, "general.alignment is 3, which is no power of two"),
    "alignment 0": ({"values": {"general.alignment": 0}}, "general.alignment is 0, which is no power of two"),
    "alignment in words": ({"values": {"general.alignment": "32"}}, "general.alignment is '32'"),
    "other size": (
        {"values": {"comfy.gguf.orig_shape.x": np.array([3, 100], np.int32)}},
        r"tensor 'x': comfy.gguf.orig_shape \[3, 100\] does not hold 6 values",
    ),
    "negative size": ({"values": {"comfy.gguf.orig_shape.x": np.array([-2, -3])}}, "orig_shape .* does not hold 6"),
    "size in words": ({"values": {"comfy.gguf.orig_shape.x": "2x3"}}, "orig_shape must be an array"),
    "sizes of floats": ({"values": {"comfy.gguf.orig_shape.x": np.array([2.0, 3.0])}}, "orig_shape must be an array"),
    "another model": ({"values": {"general.architecture": "flux"}}, "GGUF of architecture 'flux', which is neither"),
    "projector": ({"values": {"general.architecture": "clip"}}, "'clip', a vision projector"),
    "shard": (
        {"values": {"split.count": np.uint16(4)}},
        "one of 4 files that a GGUF model was split into; their names",
    ),
}


@pytest.mark.parametrize("damage", BAD_HEADERS)
def test_damaged_headers_are_refused(tmp_path: Path, damage: str) -> None:
    arguments, message = BAD_HEADERS[damage]
    path = write_gguf(tmp_path / "bad.gguf", **{"tensors": {"x": X}, "values": {"k": 1}, **arguments})
    with pytest.raises(CheckpointError, match=message) as raised:
        open_weight_file(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<I", 13), "k is of the unknown type 13"),
        (struct.pack("<IIQ", 9, 9, 0), "k is an array of the unknown type 9"),
        (struct.pack("<IIQ", 9, 5, 2**62), "the header ends behind the file"),
        (struct.pack("<IIQ", 9, 8, 2**61), "the header ends behind the file"),
        (struct.pack("<IIQQ", 9, 8, 1, 2**63), "the header ends behind the file"),
        (struct.pack("<IQ", 8, 2**64 - 1), "the header ends behind the file"),
    ],
)
def test_values_that_lie(tmp_path: Path, value: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + value + b"\0" * 64)
    with pytest.raises(CheckpointError, match=message):
        GgufFile(path)


def test_long_names_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bad.gguf", {"n" * 70000: X})
    with pytest.raises(CheckpointError, match="a tensor name of 70000 bytes"):
        GgufFile(path)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    values = {"general.architecture": "ltxv", "texts": ["a", "bc"], "numbers": np.arange(3)}
    whole = write_gguf(tmp_path / "a.gguf", {"x": X}, values).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            GgufFile(path)


def test_strings_that_are_not_utf8(tmp_path: Path) -> None:
    file = opened(write_gguf(tmp_path / "a.gguf", {"x": X}, {"name": b"\xff!"}))
    assert file.metadata["name"] == "\ufffd!"
    path = tmp_path / "b.gguf"
    pieces = struct.pack("<IIQ", 9, 8, 1) + text(b"\xff")
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("texts") + pieces)
    with pytest.raises(CheckpointError, match="texts holds a string that is not UTF-8"):
        GgufFile(path).value("texts")


def test_scales_that_are_not_finite_are_found(tmp_path: Path) -> None:
    stored = random_blocks("Q4_1", (2, 64))
    blocks = np.frombuffer(stored.data, np.uint8).copy().reshape(-1, 20)
    blocks[1, 2:4] = 0x7E00 & 0xFF, 0x7E  # a minimum that is NaN
    file = opened(write_gguf(tmp_path / "a.gguf", {"x": stored._replace(data=blocks.tobytes())}))
    assert file.raw("x").shape == (2, 40)
    with pytest.raises(CheckpointError, match="tensor 'x': 32 of 128 values are not finite numbers"):
        file.raw("x", finite=True)


def test_a_gguf_file_is_a_checkpoint_whatever_its_name(tmp_path: Path) -> None:
    tensors = {"transformer_blocks.0.attn1.to_q.weight": random_blocks("Q8_0", (4, 64))}
    path = write_gguf(tmp_path / "model.bin", tensors, {"general.architecture": "ltxv"})
    checkpoint = Checkpoint.open(path)
    assert checkpoint.components == {"transformer"}
    assert checkpoint.formats("transformer") == {"Q8_0": 1}

"""The safetensors reader and writer: every dtype, every lie a header can tell, random damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors
from ltx2rt.weights.tensor_source import DTYPES

safetensors_numpy = pytest.importorskip("safetensors.numpy")


def build(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file with exactly this header (any JSON value or raw text) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), begin: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("dtype", "items", "expected"),
    [
        ("F64", np.array([1.5, -2.0]), [1.5, -2.0]),
        ("F32", np.array([1.5, -2.0], np.float32), [1.5, -2.0]),
        ("F16", np.array([1.5, -2.0], np.float16), [1.5, -2.0]),
        ("BF16", np.array([0x3FC0, 0xC000], np.uint16), [1.5, -2.0]),
        ("F8_E4M3", np.array([0x3C, 0xC0], np.uint8), [1.5, -2.0]),
        ("F8_E5M2", np.array([0x3E, 0xC0], np.uint8), [1.5, -2.0]),
        ("F8_E8M0", np.array([0x7F, 0x80], np.uint8), [1.0, 2.0]),
        ("I64", np.array([2**40, -1], np.int64), [2**40, -1]),
        ("I32", np.array([7, -1], np.int32), [7, -1]),
        ("I16", np.array([7, -1], np.int16), [7, -1]),
        ("I8", np.array([7, -1], np.int8), [7, -1]),
        ("U64", np.array([7, 2**63], np.uint64), [7, 2**63]),
        ("U32", np.array([7, 2**31], np.uint32), [7, 2**31]),
        ("U16", np.array([7, 2**15], np.uint16), [7, 2**15]),
        ("U8", np.array([7, 255], np.uint8), [7, 255]),
        ("BOOL", np.array([True, False]), [True, False]),
    ],
)
def test_every_dtype(tmp_path: Path, dtype: str, items: np.ndarray[Any, Any], expected: list[Any]) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": RawTensor(dtype, items)})
    file = SafetensorsFile(path)
    assert (file.tensors["x"].dtype, file.tensors["x"].shape) == (dtype, (2,))
    assert file.numpy("x").tolist() == expected
    assert file.bytes("x") == items.tobytes()
    array = file.mlx("x")
    file.close()  # the array is a copy
    if dtype.startswith("F8"):
        assert array.tolist() == items.tolist()
    else:
        assert array.tolist() == expected
    if dtype == "BF16":
        assert array.dtype == mx.bfloat16


def test_every_dtype_has_a_test() -> None:
    tested = test_every_dtype.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {row[0] for row in tested} == set(DTYPES)


def test_unaligned_scalar_and_empty_tensors(tmp_path: Path) -> None:
    data = b"\x07" + np.array([1.5, -2.5], np.float32).tobytes() + np.array([3.0], np.float64).tobytes()
    header = {
        "odd": entry("U8", (1,), 0, 1),
        "x": entry("F32", (2,), 1, 9),
        "scalar": entry("F64", (), 9, 17),
        "empty": entry("F32", (0, 5), 17, 17),
        "__metadata__": {"config": "{}"},
    }
    file = SafetensorsFile(build(tmp_path / "a.safetensors", header, data))
    assert file.metadata == {"config": "{}"}
    assert list(file.tensors) == ["odd", "x", "scalar", "empty"]
    assert file.numpy("x").tolist() == file.mlx("x").tolist() == [1.5, -2.5]
    assert file.numpy("scalar").shape == ()
    assert file.mlx("scalar").item() == 3.0
    assert file.mlx("empty").shape == (0, 5)


def test_opening_reads_the_header_only(tmp_path: Path) -> None:
    size = 60 * 10**9
    path = build(tmp_path / "big.safetensors", {"x": entry("U8", (size,), 0, size)})
    start = path.stat().st_size
    try:
        with path.open("r+b") as file:
            file.truncate(start + size)  # a hole: occupies nothing
    except OSError:
        pytest.skip("the file system has no sparse files")
    file = SafetensorsFile(path)
    assert file.tensors["x"].nbytes == size
    assert file.bytes("x", size - 3) == b"\0\0\0"


def test_files_of_the_safetensors_library_and_back(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(3, dtype=np.uint8)}
    safetensors_numpy.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"k": "v"})
    theirs = SafetensorsFile(tmp_path / "theirs.safetensors")
    assert theirs.metadata == {"k": "v"}
    write_safetensors(tmp_path / "ours.safetensors", tensors, {"k": "v"})
    ours = safetensors_numpy.load_file(tmp_path / "ours.safetensors")
    for name, value in tensors.items():
        np.testing.assert_array_equal(theirs.numpy(name), value)
        np.testing.assert_array_equal(ours[name], value)


def test_writer_takes_mlx_arrays_and_leaves_no_part_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    write_safetensors(path, {"x": mx.array([1.5, 2.0]).astype(mx.bfloat16), "y": mx.array([1, 2], dtype=mx.int32)})
    file = SafetensorsFile(path)
    assert (file.tensors["x"].dtype, file.tensors["y"].dtype) == ("BF16", "I32")
    assert file.numpy("x").tolist() == [1.5, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_writer_refuses_what_the_format_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="'x': safetensors has no dtype for numpy complex64"):
        write_safetensors(path, {"x": np.zeros(2, np.complex64)})
    with pytest.raises(ValueError, match="'x': dtype BF16 does not go with items of float32"):
        write_safetensors(path, {"x": RawTensor("BF16", np.zeros(2, np.float32))})
    with pytest.raises(OSError, match="No such file"):
        write_safetensors(tmp_path / "nowhere" / "a.safetensors", {"x": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


EIGHT = b"\0" * 8

LIES = {
    "header too long": (build, ({}, EIGHT), {"length": 200_000_000}, "header claims 200000000 bytes"),
    "header beyond the file": (
        build,
        ({}, EIGHT),
        {"length": 500},
        "the header alone needs 508 bytes, the file has 18",
    ),
    "not JSON": (build, (b"{nonsense",), {}, "not valid JSON"),
    "not UTF-8": (build, (b'{"\xff": 1}',), {}, "not valid JSON"),
    "nested without end": (build, (b"[" * 100_000,), {}, "not valid JSON"),
    "not an object": (build, ([1],), {}, "is a JSON list, not an object"),
    "duplicate": (build, (b'{"x": 1, "x": 2}',), {}, "'x' occurs twice"),
    "metadata not an object": (build, ({"__metadata__": 3},), {}, "__metadata__ is a JSON int"),
    "metadata not strings": (build, ({"__metadata__": {"k": 3}},), {}, "entry 'k' is a int, not a string"),
    "entry not an object": (build, ({"x": 3},), {}, "tensor 'x': its header entry is a JSON int"),
    "no dtype": (build, ({"x": {"shape": [], "data_offsets": [0, 0]}},), {}, "tensor 'x': unknown dtype None"),
    "unknown dtype": (build, ({"x": entry("F7")}, EIGHT), {}, "tensor 'x': unknown dtype 'F7'; known are F64"),
    "shape not a list": (build, ({"x": entry(shape=2)}, EIGHT), {}, "tensor 'x': shape must be a list"),
    "negative shape": (build, ({"x": entry(shape=(-2,))}, EIGHT), {}, r"got \[-2\]"),
    "boolean shape": (build, ({"x": entry(shape=(True,))}, EIGHT), {}, r"got \[True\]"),
    "fractional shape": (build, ({"x": entry(shape=(2.0,))}, EIGHT), {}, r"got \[2.0\]"),
    "too many dimensions": (build, ({"x": entry(shape=(1,) * 40, end=4)}, EIGHT), {}, "40 dimensions"),
    "overflowing shape": (build, ({"x": entry(shape=(2**62, 2**62))}, EIGHT), {}, "too large to address"),
    "overflow hidden by zero": (build, ({"x": entry(shape=(0, 2**62, 8), end=0)},), {}, "too large to address"),
    "offsets missing": (build, ({"x": {"dtype": "F32", "shape": [2]}}, EIGHT), {}, "data_offsets must be two"),
    "three offsets": (
        build,
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, EIGHT),
        {},
        "data_offsets must be two",
    ),
    "negative offset": (build, ({"x": entry(begin=-8, end=0)}, EIGHT), {}, "data_offsets must be two non-negative"),
    "reversed offsets": (build, ({"x": entry(begin=8, end=0)}, EIGHT), {}, "needs 8 bytes, data_offsets .* give -8"),
    "size does not fit": (build, ({"x": entry(shape=(3,))}, EIGHT), {}, "needs 12 bytes, data_offsets .* give 8"),
    "overlap": (
        build,
        ({"x": entry(), "y": entry(begin=4, end=12)}, EIGHT + EIGHT),
        {},
        "tensor 'y' overlaps 'x' by 4 bytes",
    ),
    "gap": (build, ({"x": entry(), "y": entry(begin=12, end=20)}, b"\0" * 20), {}, "4 bytes between 'x' and 'y'"),
    "gap at the start": (
        build,
        ({"x": entry(begin=4, end=12)}, b"\0" * 12),
        {},
        "4 bytes between 'the header' and 'x'",
    ),
    "truncated": (build, ({"x": entry(), "y": entry(begin=8, end=16)}, b"\0" * 11), {}, "5 missing, tensor 'y' is cut"),
    "trailing bytes": (build, ({"x": entry()}, EIGHT + b"abc"), {}, "3 bytes after the last tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path: Path, lie: str) -> None:
    make, arguments, options, message = LIES[lie]
    path = make(tmp_path / "bad.safetensors", *arguments, **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        SafetensorsFile(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="Is a directory"):
        SafetensorsFile(tmp_path)
    (tmp_path / "short").write_bytes(b"\0" * 7)
    with pytest.raises(CheckpointError, match="7 bytes is too short"):
        SafetensorsFile(tmp_path / "short")


def test_absent_tensor(tmp_path: Path) -> None:
    file = SafetensorsFile(build(tmp_path / "a.safetensors", {"x": entry()}, EIGHT))
    with pytest.raises(CheckpointError, match="no tensor named 'y'"):
        file.numpy("y")


def test_a_file_that_shrinks_while_in_use(tmp_path: Path) -> None:
    path = build(tmp_path / "a.safetensors", {"x": entry("U8", (9000,), 0, 9000)}, b"\1" * 9000)
    file = SafetensorsFile(path)
    with path.open("r+b") as handle:
        handle.truncate(100)
    with pytest.raises(CheckpointError, match=r"shrank from 90\d\d to 100 bytes"):
        file.numpy("x")


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, 400),
    extra=st.binary(max_size=4),
)
def test_random_damage_never_escapes(tmp_path: Path, cuts: list[tuple[int, int]], keep: int, extra: bytes) -> None:
    path = tmp_path / "fuzz.safetensors"
    header = {"a": entry("BF16", (4,), 0, 8), "b": entry("F8_E4M3", (3,), 8, 11), "__metadata__": {"config": "{}"}}
    build(path, header, bytes(range(11)))
    content = bytearray(path.read_bytes())
    for position, value in cuts:
        if position < len(content):
            content[position] = value
    path.write_bytes(bytes(content[: max(keep, 1)]) + extra)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    for name, info in file.tensors.items():
        assert file.numpy(name).shape == info.shape
        file.mlx(name)

"""Files whose bytes lie in planes: the same tensors as the ordinary file, whatever part is read; the embedded model."""

from __future__ import annotations

import json
import zlib
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError
from ltx2rt.weights import byte_planes
from ltx2rt.weights.block_stream import BlockLayout
from ltx2rt.weights.byte_planes import MARK, in_byte_planes
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, SelectedRows, write_safetensors
from ltx2rt.weights.tensor_source import bytes_of

EMBEDDED = sorted(embedded.FOLDER.rglob("*.safetensors"))


@pytest.fixture
def both(tmp_path: Path) -> tuple[SafetensorsFile, SafetensorsFile]:
    """The same tensors in an ordinary file and in planes."""
    rng = np.random.default_rng(5)
    tensors = {
        "matrix": RawTensor("BF16", rng.integers(0, 2**16, (7, 5), np.uint16)),
        "float": rng.standard_normal((3, 3)).astype(np.float32),
        "scalar": mx.array(1.5, mx.bfloat16),
        "empty": np.zeros((0, 4), np.float32),
        "odd": rng.integers(0, 256, 5, np.uint8),
        "last": rng.integers(0, 256, 3, np.uint8),
    }
    write_safetensors(tmp_path / "ordinary.safetensors", tensors, {"k": "v"})
    planes = tmp_path / "planes.safetensors"
    planes.write_bytes(in_byte_planes((tmp_path / "ordinary.safetensors").read_bytes()))
    return SafetensorsFile(tmp_path / "ordinary.safetensors"), SafetensorsFile(planes)


@pytest.fixture(params=[5, 8])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_planes, "_PIECE", request.param)


@pytest.mark.usefixtures("small_pieces")
def test_the_same_as_the_ordinary_file(both: tuple[SafetensorsFile, SafetensorsFile]) -> None:
    ordinary, planes = both
    assert planes.metadata == ordinary.metadata == {"k": "v"}
    assert list(planes.tensors) == list(ordinary.tensors)
    for name, info in ordinary.tensors.items():
        assert planes.info(name)._replace(offset=0) == info._replace(offset=0)
        np.testing.assert_array_equal(planes.raw(name), ordinary.raw(name))
        assert planes.mlx(name).dtype == ordinary.mlx(name).dtype
        assert mx.array_equal(planes.mlx(name), ordinary.mlx(name), equal_nan=True)


@pytest.mark.usefixtures("small_pieces")
def test_parts_of_a_tensor(both: tuple[SafetensorsFile, SafetensorsFile]) -> None:
    ordinary, planes = both
    for name in ("matrix", "odd", "last"):  # the last one begins at an odd position
        for start, stop in combinations_with_replacement(range(ordinary.info(name).nbytes + 1), 2):
            assert planes.bytes(name, start, stop) == ordinary.bytes(name, start, stop), (name, start, stop)


@pytest.mark.usefixtures("small_pieces")
def test_rows(both: tuple[SafetensorsFile, SafetensorsFile]) -> None:
    ordinary, planes = both
    whole = ordinary.raw("matrix")
    np.testing.assert_array_equal(planes.rows("matrix", slice(2, 6)), whole[2:6])
    np.testing.assert_array_equal(planes.rows("matrix", np.array([5, 0, 1])), whole[[5, 0, 1]])
    np.testing.assert_array_equal(SelectedRows(planes, [6, 2, 3], 7).raw("matrix"), whole[[6, 2, 3]])


@pytest.mark.usefixtures("small_pieces")
def test_neighbours_are_one_read(both: tuple[SafetensorsFile, SafetensorsFile]) -> None:
    ordinary, planes = both
    layout = BlockLayout.of([(planes, name) for name in planes.tensors if name != "empty"])
    (run,) = layout.reads
    items = [np.empty(place.info.raw.shape, place.info.raw.numpy) for place in run]
    planes.read_neighbours([place.name for place in run], [bytes_of(one) for one in items])
    for place, found in zip(run, items, strict=True):
        np.testing.assert_array_equal(found, ordinary.raw(place.name))


def test_other_programs_see_bytes(both: tuple[SafetensorsFile, SafetensorsFile]) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    ordinary, planes = both
    ((name, found),) = load_file(planes.path).items()
    data = ordinary.path.read_bytes()[min(info.offset for info in ordinary.tensors.values()) :]
    assert (name, found.dtype) == (MARK, np.uint8)
    assert found.T.tobytes() == data


def test_an_odd_number_of_bytes_has_no_planes(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": np.zeros(3, np.uint8)})
    with pytest.raises(ValueError, match="3 bytes of data do not fill two planes"):
        in_byte_planes((tmp_path / "a.safetensors").read_bytes())


def entry(dtype: str, *shape: int, begin: int = 0, end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BYTES = {MARK: entry("U8", 2, 4)}
FOUR = json.dumps({"x": entry("BF16", 4)})


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({MARK: entry("I8", 2, 4)}, FOUR, rf"of its 1 tensors the first are '{MARK}' I8 \[2, 4\]"),
        ({MARK: entry("U8", 8)}, FOUR, r"U8 \[8\]; convert or download"),
        ({MARK: entry("U8", 4, 2)}, FOUR, r"U8 \[4, 2\]"),
        ({"x": entry("BF16", 4)}, FOUR, r"'x' BF16 \[4\]"),
        (
            {**BYTES, "y": {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]}},
            FOUR,
            r"of its 2 tensors.*'y' U8 \[0\]",
        ),
        (BYTES, "{nonsense", f"header in its metadata, '{MARK}', is not valid JSON"),
        (BYTES, "[" * 100_000, "is not valid JSON"),
        (BYTES, "[1]", "is a JSON list, not an object"),
        (BYTES, '{"x": 1, "x": 2}', "'x' occurs twice"),
        (BYTES, json.dumps({"x": entry("BF16", 3)}), "tensor 'x': BF16 .3. needs 6 bytes, data_offsets .* give 8"),
        (BYTES, json.dumps({"x": entry("BF16", 5, end=10)}), "2 missing, tensor 'x' is cut"),
        (BYTES, json.dumps({"x": entry("BF16", 3, end=6)}), "2 bytes after the last tensor"),
        (BYTES, "{}", "8 bytes after the last tensor"),
    ],
)
def test_planes_that_are_none(tmp_path: Path, tensors: dict[str, Any], header: str, message: str) -> None:
    text = json.dumps({"__metadata__": {MARK: header}, **tensors}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_the_embedded_model_lies_in_planes() -> None:
    assert len(EMBEDDED) == 6
    for path in EMBEDDED:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert list(header) == ["__metadata__", MARK], path
        assert {info.dtype for info in SafetensorsFile(path).tensors.values()} == {"BF16"}


@pytest.mark.slow
def test_what_the_embedded_model_takes_in_a_wheel() -> None:
    """10.99 MB as wheels are compressed, 12.4 MB as ordinary files."""
    files = [path for path in embedded.FOLDER.rglob("*") if path.suffix in (".safetensors", ".json", ".py")]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 11.1e6

"""Reading and writing of safetensors files, fully validated."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import mlx.core as mx

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array
from ltx2rt.weights.byte_planes import MARK, BytePlanes
from ltx2rt.weights.positioned_file import PositionedFile
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, TensorSource, WeightFile

MAX_HEADER_BYTES = 100_000_000
_MAX_RANK = 32
_AGAIN = "convert or download the file again"


_DTYPE_OF_NUMPY = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


class SafetensorsFile(WeightFile):
    """One safetensors file. Opening it reads the header and nothing else; tensors are read when they are asked for.

    One whose bytes lie in planes (see `byte_planes`) has the tensors and the metadata of the ordinary file that it
    stands for, with offsets as if its bytes lay in that order.

    Attributes:
        path: the file.
        tensors: name -> `TensorInfo`, in the order of the header.
        metadata: the ``__metadata__`` strings.

    Raises:
        CheckpointError: the file is missing, truncated, not safetensors, or its header contradicts itself.

    Source: the safetensors format description (8-byte little-endian header length, JSON header, data section).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = PositionedFile(self.path)
        header, data_start = _read_header(file)
        metadata = _check_metadata(self.path, header.pop("__metadata__", None))
        tensors = _check_tensors(self.path, header, data_start, file.length)
        self._file: PositionedFile | BytePlanes = file
        if MARK in metadata:
            _check_planes(self.path, tensors)
            header = _parse_header(self.path, metadata[MARK], f"the header in its metadata, {MARK!r},")
            tensors = _check_tensors(self.path, header, data_start, file.length)
            self._file = BytePlanes(file, data_start)
        self.metadata = {key: text for key, text in metadata.items() if key != MARK}
        self.tensors = tensors

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        self._file.read_into(self.info(name).offset + start, target)

    def read_neighbours(self, names: Sequence[str], targets: Sequence[memoryview]) -> None:
        self._file.read_into(self.info(names[0]).offset, *targets)

    def close(self) -> None:
        self._file.close()


class SelectedRows(TensorSource):
    """The tensors of ``count`` rows reduced to some of them, others as they are. Nothing else is read.

    Args:
        file: the whole tensors.
        rows: indices.
        count: first dimension of the matrix and of what accompanies its rows; of a single row everything is read.
    """

    def __init__(self, file: TensorSource, rows: Sequence[int], count: int) -> None:
        self.path = file.path
        self._file = file
        self._rows = rows
        self._count = count

    def info(self, name: str) -> TensorInfo:
        whole = self._file.info(name)
        if not self._has_rows(whole):
            return whole
        shape = (len(self._rows), *whole.shape[1:])
        return whole._replace(shape=shape, nbytes=self._row_bytes(whole, name) * len(self._rows))

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        whole = self._file.info(name)
        if not self._has_rows(whole):
            self._file.read_into(name, target, start)
            return
        if start:
            raise ValueError("selected rows are read from their beginning.")
        nbytes = self._row_bytes(whole, name)
        done = 0
        while done < len(self._rows):
            first = count = self._rows[done]
            while done + count - first < len(self._rows) and self._rows[done + count - first] == count:
                count += 1
            here = count - first  # rows that follow each other are one read
            self._file.read_into(name, target[done * nbytes : (done + here) * nbytes], first * nbytes)
            done += here

    def _has_rows(self, info: TensorInfo) -> bool:
        return len(info.shape) in (1, 2) and info.shape[0] == self._count > 1

    def _row_bytes(self, info: TensorInfo, name: str) -> int:
        if info.raw.shape[0] != info.shape[0]:
            raise CheckpointError(
                f"{self.where(name)}: rows of {list(info.shape)} are no whole {info.dtype} blocks, so that single rows "
                "cannot be read; use a file of another format."
            )
        return info.nbytes // info.shape[0]


def _read_header(file: PositionedFile) -> tuple[dict[str, Any], int]:
    """The parsed JSON header, and the position of the data section."""
    path, length = file.path, file.length
    if length < 8:
        raise CheckpointError(f"{path}: {length} bytes is too short for a safetensors file; download it again.")
    header_bytes = int.from_bytes(file.read(0, 8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: not a safetensors file, or damaged: the header claims {header_bytes} bytes "
            f"(at most {MAX_HEADER_BYTES} are allowed); download it again."
        )
    if 8 + header_bytes > length:
        raise CheckpointError(
            f"{path}: truncated: the header alone needs {8 + header_bytes} bytes, the file has {length}; "
            "download it again."
        )
    try:
        text = file.read(8, header_bytes).decode("utf-8")
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the safetensors header is not valid JSON ({error}); download it again."
        ) from error
    return _parse_header(path, text, "the safetensors header"), 8 + header_bytes


def _parse_header(path: Path, text: str, what: str) -> dict[str, Any]:
    """A header as a dictionary; ``what`` is how errors call it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise CheckpointError(f"{path}: {key!r} occurs twice in the header; the file is damaged.")
            result[key] = value
        return result

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {what} is not valid JSON ({error}); download it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: {what} is a JSON {type(header).__name__}, not an object; {_AGAIN}.")
    return header


def _check_metadata(path: Path, metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: __metadata__ is a JSON {type(metadata).__name__}, not an object; {_AGAIN}.")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise CheckpointError(
                f"{path}: __metadata__ entry {key!r} is a {type(value).__name__}, not a string; {_AGAIN}."
            )
    return metadata


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    """One header entry as `TensorInfo`, or `CheckpointError` naming the tensor and what is wrong with it."""

    def fault(words: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name!r}: {words}; {_AGAIN}.")

    if not isinstance(entry, dict):
        raise fault(f"its header entry is a JSON {type(entry).__name__}, not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise fault(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape):
        raise fault(f"shape must be a list of non-negative integers, got {shape!r}")
    if len(shape) > _MAX_RANK:
        raise fault(f"{len(shape)} dimensions; at most {_MAX_RANK} are supported")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise fault(f"data_offsets must be two non-negative integers, got {offsets!r}")
    begin, end = offsets
    itemsize = DTYPES[dtype].itemsize
    needed = math.prod(shape) * itemsize
    if needed >= 2**63 or (needed == 0 and math.prod(n or 1 for n in shape) * itemsize >= 2**63):
        raise fault(f"shape {shape} is too large to address")
    if end - begin != needed:
        raise fault(f"{dtype} {shape} needs {needed} bytes, data_offsets {offsets} give {end - begin}")
    return TensorInfo(dtype, tuple(shape), data_start + begin, needed)


def _check_tensors(path: Path, header: Mapping[str, Any], data_start: int, length: int) -> dict[str, TensorInfo]:
    """All entries, checked one by one and against each other: the data section is covered once, without gaps."""
    tensors = {name: _check_tensor(path, name, entry, data_start) for name, entry in header.items()}
    end, previous = data_start, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset < end:
            raise CheckpointError(
                f"{path}: tensor {name!r} overlaps {previous!r} by {end - info.offset} bytes; {_AGAIN}."
            )
        if info.offset > end:
            raise CheckpointError(
                f"{path}: {info.offset - end} bytes between {previous!r} and {name!r} belong to no tensor; {_AGAIN}."
            )
        end, previous = info.offset + info.nbytes, name
    if end > length:
        first_cut = next(name for name, info in tensors.items() if info.offset + info.nbytes > length)
        raise CheckpointError(
            f"{path}: truncated: it needs {end} bytes, the file has {length} ({end - length} missing, "
            f"tensor {first_cut!r} is cut); download it again."
        )
    if end < length:
        raise CheckpointError(
            f"{path}: {length - end} bytes after the last tensor belong to no tensor, which no reader of this format "
            "takes; write the file again with the program that made it."
        )
    return tensors


def _check_planes(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse a file that says that its bytes lie in planes, and holds anything but them."""
    info = tensors.get(MARK)
    if len(tensors) == 1 and info is not None and info.dtype == "U8" and len(info.shape) == 2 and info.shape[0] == 2:
        return
    found = ", ".join(f"{name!r} {info.dtype} {list(info.shape)}" for name, info in list(tensors.items())[:2])
    raise CheckpointError(
        f"{path}: by its metadata all its data are a tensor {MARK!r}, U8 [2, n], but of its {len(tensors)} tensors the "
        f"first are {found or 'none'}; {_AGAIN}."
    )


class RawTensor(NamedTuple):
    """Items for `write_safetensors` whose dtype numpy cannot express, e.g. ``RawTensor("F8_E4M3", codes)``."""

    dtype: str
    items: Array


def _raw_of(name: str, value: mx.array | Array | RawTensor) -> RawTensor:
    if isinstance(value, RawTensor):
        if value.dtype not in DTYPES or value.items.dtype.itemsize != DTYPES[value.dtype].itemsize:
            raise ValueError(f"tensor {name!r}: dtype {value.dtype} does not go with items of {value.items.dtype}.")
        return value
    if isinstance(value, mx.array):
        if value.dtype == mx.bfloat16:
            return RawTensor("BF16", to_numpy(value.view(mx.uint16)))
        value = to_numpy(value)
    if value.dtype.name not in _DTYPE_OF_NUMPY:
        raise ValueError(f"tensor {name!r}: safetensors has no dtype for numpy {value.dtype}.")
    return RawTensor(_DTYPE_OF_NUMPY[value.dtype.name], value)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, mx.array | Array | RawTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``tensors`` to ``path``; the file appears complete or not at all.

    Args:
        path: target; replaced if it exists.
        tensors, metadata: as for `write_tensors`.

    Raises:
        ValueError: a dtype that safetensors does not have.
        OSError: the folder cannot be written or the disk is full.
    """
    with AtomicFile(path, shared=True) as file:
        write_tensors(file, tensors, metadata)


def write_tensors(
    file: BinaryIO,
    tensors: Mapping[str, mx.array | Array | RawTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the content of a safetensors file.

    Args:
        file: where to; it stays open.
        tensors: name -> MLX array (bfloat16 included), numpy array, or `RawTensor` for 8-bit floats.
        metadata: string pairs for ``__metadata__``.

    Raises:
        ValueError: a dtype that safetensors does not have.
        OSError: the disk is full.
    """
    raws = {name: _raw_of(name, value) for name, value in tensors.items()}
    # Widest items first keeps every tensor aligned to its own item size.
    order = sorted(raws, key=lambda name: -DTYPES[raws[name].dtype].itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        dtype, items = raws[name]
        header[name] = {"dtype": dtype, "shape": list(items.shape), "data_offsets": [position, position + items.nbytes]}
        position += items.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        items = raws[name].items
        file.write(items.astype(items.dtype.newbyteorder("<"), order="C", copy=False).tobytes())

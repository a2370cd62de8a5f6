"""Reading of GGUF files, fully validated: names, block types, logical shapes and typed values of the header."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.positioned_file import PositionedFile
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, WeightFile, bytes_of, entry

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_HEADER_BYTES = 200_000_000
_MAX_NAME_BYTES = 65535
_MAX_RANK = 32
# The least that one entry of the header takes: key, type and value; name, rank, type and offset.
_LEAST_FIELD, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
# Read from the file at a time while the header is parsed.
_PIECE = 1 << 20

_STRING, _ARRAY, _BOOL = 8, 9, 7
# Type of a number in the header -> how it is stored.
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_PYTHON: dict[str, type[float] | type[bool]] = {"f": float, "b": bool}
_PLAIN_TYPES = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
_TYPES = _PLAIN_TYPES | {block.number: name for name, block in BLOCK_TYPES.items()}
# Known and not read.
_OTHER_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    40: "NVFP4",
    41: "Q1_0",
}
_LENGTH = struct.Struct("<Q")
_AGAIN = "convert or download the file again"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."


class Field(NamedTuple):
    """A value of the header that has not been read: its type, for an array that of its elements, and where it is.

    ``length`` None: no array; ``offset`` and ``nbytes`` in the file.
    """

    type: int
    length: int | None
    offset: int
    nbytes: int


class GgufFile(WeightFile):
    """One GGUF file of version 2 or 3. Opening it reads the header, arrays of it only when they are asked for.

    Args:
        path: of the file.
        first: of a model that was split, the first file, whose values count for this one, too.

    Attributes:
        path: the file.
        file: the open file, for readers of their own.
        tensors: name -> `TensorInfo`; the shape has the rows first (GGUF's own order reversed), or is what
            ``comfy.gguf.orig_shape`` states; the dtype is a safetensors code or a block type.
        metadata: the values that are strings.
        fields: every other value, see `value`.

    Raises:
        CheckpointError: the file is missing, truncated, no such GGUF file, its header contradicts itself, or a tensor
            is of a type that is not supported.

    Source: docs/gguf.md of ggml @ d99724f.
    """

    def __init__(self, path: str | os.PathLike[str], first: GgufFile | None = None) -> None:
        self.path = Path(path)
        self.file = PositionedFile(self.path)
        self._first = first
        header = _Header(self.file)
        tensor_count, field_count = header.counts()
        self.metadata: dict[str, str] = {}
        self.fields: dict[str, Field] = {}
        for _ in range(field_count):
            self._read_field(header)
        alignment = self._alignment()
        listed = [header.tensor() for _ in range(tensor_count)]
        data_start = -(-header.position // alignment) * alignment
        self.tensors = self._check_tensors(listed, data_start, alignment)

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        self.file.read_into(self.info(name).offset + start, target)

    def close(self) -> None:
        self.file.close()

    def has(self, key: str) -> bool:
        """Whether the header, or that of the first file, has a value of that name."""
        return key in self.metadata or key in self.fields or (self._first is not None and self._first.has(key))

    def value(self, key: str) -> Any:
        """A value of the header; None if it has none of that name.

        Returns:
            str, int, float or bool; of an array of numbers a numpy array, of an array of strings a list.

        Raises:
            CheckpointError: a string is not UTF-8, or the file shrank.
        """
        if key in self.metadata:
            return self.metadata[key]
        field = self.fields.get(key)
        if field is None:
            return None if self._first is None else self._first.value(key)
        if field.type == _STRING:
            return list(self._strings(key, self.file.read(field.offset, field.nbytes)))
        dtype = _NUMBERS[field.type]
        items = np.empty(field.nbytes // dtype.itemsize, dtype)
        self.file.read_into(field.offset, bytes_of(items))
        return items if field.length is not None else _PYTHON.get(dtype.kind, int)(items[0])

    def _strings(self, key: str, data: bytes) -> Iterator[str]:
        at, unpack = 0, _LENGTH.unpack_from
        try:
            while at < len(data):
                begin = at + 8
                at = begin + unpack(data, at)[0]
                yield str(data[begin:at], "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {key} holds a string that is not UTF-8 ({error}).") from error

    def _read_field(self, header: _Header) -> None:
        key = header.name("key")
        if key in self.metadata or key in self.fields:
            raise CheckpointError(f"{self.path}: {key!r} occurs twice in the header; the file is damaged.")
        kind = header.number("<I")
        if kind == _STRING:
            self.metadata[key] = str(header.take(header.number("<Q")), "utf-8", "replace")
        elif kind in _NUMBERS:
            self.fields[key] = Field(kind, None, header.position, _NUMBERS[kind].itemsize)
            header.skip(_NUMBERS[kind].itemsize)
        elif kind == _ARRAY:
            element, count = header.number("<I"), header.number("<Q")
            begin = header.position
            if element == _STRING:
                header.skip_strings(count)
            elif element in _NUMBERS:
                header.skip(count * _NUMBERS[element].itemsize)
            else:
                raise CheckpointError(
                    f"{self.path}: {key} is an array of the unknown type {element}; the file is damaged."
                )
            self.fields[key] = Field(element, count, begin, header.position - begin)
        else:
            raise CheckpointError(f"{self.path}: {key} is of the unknown type {kind}; the file is damaged.")

    def _alignment(self) -> int:
        alignment = self.value("general.alignment")
        if alignment is None:
            return _DEFAULT_ALIGNMENT
        if isinstance(alignment, int) and 0 < alignment <= self.file.length and alignment & (alignment - 1) == 0:
            return alignment
        raise CheckpointError(
            f"{self.path}: general.alignment is {_shown(alignment)}, which is no power of two within the file; "
            "the file is damaged."
        )

    def _check_tensors(self, listed: list[_Listed], data_start: int, alignment: int) -> dict[str, TensorInfo]:
        """All entries, checked one by one and against each other: the data is covered once, but for the padding."""
        tensors: dict[str, TensorInfo] = {}
        for record in listed:
            if record.name in tensors:
                raise CheckpointError(f"{self.path}: {record.name!r} occurs twice in the header; the file is damaged.")
            tensors[record.name] = self._check_tensor(record, data_start, alignment)
        length = self.file.length
        needed = max((info.offset + info.nbytes for info in tensors.values()), default=0)
        if needed > length:
            first_cut = next(name for name, info in tensors.items() if info.offset + info.nbytes > length)
            raise CheckpointError(
                f"{self.path}: truncated: it needs {needed} bytes, the file has {length} ({needed - length} missing, "
                f"tensor {first_cut!r} is cut); download it again."
            )
        end, previous = data_start, "the header"
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
            if info.offset < end:
                overlap = end - info.offset
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} overlaps {previous!r} by {overlap} bytes; {_AGAIN}."
                )
            if info.offset - end >= alignment:
                raise CheckpointError(
                    f"{self.path}: {info.offset - end} bytes between {previous!r} and {name!r} belong to no tensor; "
                    f"{_AGAIN}."
                )
            end, previous = info.offset + info.nbytes, name
        if length - end >= alignment:
            raise CheckpointError(
                f"{self.path}: {length - end} bytes after the last tensor belong to no tensor; download it again."
            )
        return tensors

    def _check_tensor(self, record: _Listed, data_start: int, alignment: int) -> TensorInfo:
        where = f"{self.path}: tensor {record.name!r}"
        dtype = _TYPES.get(record.type)
        if dtype is None:
            known = f"{', '.join(BLOCK_TYPES)}, {', '.join(_PLAIN_TYPES.values())}"
            raise CheckpointError(
                f"{where}: "
                + (
                    f"GGUF type {_OTHER_TYPES[record.type]} is not supported"
                    if record.type in _OTHER_TYPES
                    else f"unknown GGUF tensor type {record.type}"
                )
                + f"; supported are {known}. Use a file of one of these types."
            )
        block = BLOCK_TYPES.get(dtype)
        itemsize = DTYPES[dtype].itemsize if block is None else block.nbytes
        if math.prod(max(n, 1) for n in record.shape) * itemsize >= 2**63:
            raise CheckpointError(f"{where}: shape {list(record.shape)} is too large to address; {_AGAIN}.")
        if block is not None and (not record.shape or record.shape[-1] % block.values):
            raise CheckpointError(
                f"{where}: rows of {list(record.shape)} are no whole {dtype} blocks of {block.values} values; {_AGAIN}."
            )
        if record.offset % alignment:
            raise CheckpointError(
                f"{where}: its offset {record.offset} is no multiple of the alignment {alignment}; the file is damaged."
            )
        return entry(dtype, self._original_shape(record, where), data_start + record.offset)

    def _original_shape(self, record: _Listed, where: str) -> tuple[int, ...]:
        """The shape that the program which made the file states beside the stored one."""
        key = _ORIGINAL_SHAPE + record.name
        holder = self if self._first is None or key in self.fields or key in self.metadata else self._first
        if key not in holder.fields and key not in holder.metadata:
            return record.shape
        field = holder.fields.get(key)
        listed = field is not None and field.length is not None and field.length <= _MAX_RANK
        if not listed or field is None or _NUMBERS.get(field.type, _NUMBERS[_BOOL]).kind not in "iu":
            raise CheckpointError(
                f"{where}: comfy.gguf.orig_shape must be an array of at most {_MAX_RANK} sizes; {_AGAIN}."
            )
        shape = tuple(int(n) for n in self.value(key))
        if min(shape, default=0) < 0 or math.prod(shape) != math.prod(record.shape):
            raise CheckpointError(
                f"{where}: comfy.gguf.orig_shape {list(shape)} does not hold {math.prod(record.shape)} values; "
                f"{_AGAIN}."
            )
        return shape


class _Listed(NamedTuple):
    """A tensor as the header lists it: rows first, ``offset`` from the beginning of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class _Header:
    """The header from front to back. Every number is compared with what the file still holds before it is used."""

    def __init__(self, file: PositionedFile) -> None:
        self.position = 0
        self._file = file
        self._buffer = b""
        self._start = 0

    def counts(self) -> tuple[int, int]:
        """Numbers of tensors and of values, after magic and version."""
        path = self._file.path
        if self._file.length < 4 or self.take(4) != MAGIC:
            raise CheckpointError(f"{path}: not a GGUF file; download it again.")
        version = self.number("<I")
        if version and not version & 0xFFFF:
            raise CheckpointError(f"{path}: a big-endian GGUF file, which is not supported; use the little-endian one.")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{path}: GGUF version {version} is not supported; versions {' and '.join(map(str, _VERSIONS))} are: "
                "use a file of one of these."
            )
        tensors, fields = self.number("<Q"), self.number("<Q")
        if tensors * _LEAST_TENSOR + fields * _LEAST_FIELD > self._file.length - self.position:
            raise CheckpointError(
                f"{path}: truncated or damaged: the header claims {tensors} tensors and {fields} values, which do not "
                f"fit into {self._file.length} bytes; download it again."
            )
        return tensors, fields

    def tensor(self) -> _Listed:
        """The next entry of the list of tensors."""
        name = self.name("tensor name")
        rank = self.number("<I")
        if rank > _MAX_RANK:
            raise CheckpointError(
                f"{self._file.path}: tensor {name!r}: {rank} dimensions; at most {_MAX_RANK} are supported; {_AGAIN}."
            )
        dims = struct.unpack(f"<{rank}Q", self.take(8 * rank))
        return _Listed(name, dims[::-1], self.number("<I"), self.number("<Q"))

    def name(self, what: str) -> str:
        """A string that names something."""
        length = self.number("<Q")
        if length > _MAX_NAME_BYTES:
            raise CheckpointError(
                f"{self._file.path}: a {what} of {length} bytes (at most {_MAX_NAME_BYTES} are allowed); "
                "the file is damaged."
            )
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._file.path}: a {what} is not UTF-8 ({error}).") from error

    def number(self, form: str) -> int:
        """An unsigned integer."""
        result: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return result

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self._have(size)
        begin = self.position - self._start
        self.position += size
        return self._buffer[begin : begin + size]

    def skip(self, size: int) -> None:
        """Leave bytes out."""
        self._require(size)
        self.position += size

    def skip_strings(self, count: int) -> None:
        """Leave an array of strings out."""
        self._require(count * 8)
        unpack = _LENGTH.unpack_from
        while count:
            self._have(8)
            at, last = self.position - self._start, len(self._buffer) - 8
            while count and at <= last:
                at += 8 + unpack(self._buffer, at)[0]
                count -= 1
            self.skip(self._start + at - self.position)

    def _have(self, size: int) -> None:
        """Read ahead until the buffer holds the next ``size`` bytes."""
        self._require(size)
        if self.position + size > self._start + len(self._buffer) or self.position < self._start:
            self._start = self.position
            self._buffer = self._file.read(self.position, min(max(size, _PIECE), self._file.length - self.position))

    def _require(self, size: int) -> None:
        end = self.position + size
        if end > self._file.length:
            raise CheckpointError(
                f"{self._file.path}: truncated or damaged: the header ends behind the file, which has "
                f"{self._file.length} bytes; download it again."
            )
        if end > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{self._file.path}: the header is longer than {_MAX_HEADER_BYTES} bytes; the file is damaged."
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

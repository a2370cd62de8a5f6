"""Writing of small GGUF files, right and wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.tensor_source import entry

PLAIN = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}
NUMBERS = {name: block.number for name, block in BLOCK_TYPES.items()} | PLAIN
_SCALARS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}


class Stored(NamedTuple):
    """A tensor for `write_gguf`: type by name, shape with the rows first, and its bytes, or of a hole their number."""

    dtype: str
    shape: Sequence[int]
    data: bytes | int


def of_array(items: np.ndarray[Any, Any], dtype: str = "") -> Stored:
    """A tensor of plain numbers."""
    kinds = {"float32": "F32", "float16": "F16", "int8": "I8", "int16": "I16", "int32": "I32", "float64": "F64"}
    return Stored(dtype or kinds[items.dtype.name], items.shape, items.tobytes())


def random_blocks(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Stored:
    """A tensor of random bytes of a block type, with scales that are small finite numbers."""
    block = BLOCK_TYPES[dtype]
    blocks = np.random.default_rng(seed).integers(0, 256, (int(np.prod(shape)) // block.values, block.nbytes), np.uint8)
    for at in block.halves:
        blocks[:, at + 1] = blocks[:, at + 1] & 0x83 | 0x20
    for at in block.exponents:
        blocks[:, at] = 118 + blocks[:, at] % 4
    return Stored(dtype, shape, blocks.tobytes())


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value_bytes(value: Any) -> bytes:
    """Type and value: str, bool, int (u32), float (f32), a scalar or array of numpy, or a list of strings."""
    if isinstance(value, (str, bytes)):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", 9, _SCALARS[value.dtype.str[1:]], value.size) + value.tobytes()
    if isinstance(value, np.generic):
        return struct.pack("<I", _SCALARS[value.dtype.str[1:]]) + value.tobytes()
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def write_gguf(
    path: Path,
    tensors: Mapping[str, Stored] | Sequence[tuple[str, Stored]],
    values: Mapping[str, Any] | Sequence[tuple[str | bytes, Any]] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    offsets: Mapping[str, int] | None = None,
    types: Mapping[str, int] | None = None,
    counts: tuple[int | None, int | None] = (None, None),
    tail: bytes = b"",
) -> Path:
    """Write a file; what is given after ``values`` makes it wrong.

    Args:
        tensors, values: in the order of the file; pairs may name one twice.
        version: of the format.
        alignment: of the data; stated where it is not 32.
        offsets, types: of tensors, in place of the right ones.
        counts: of tensors and values, in place of the right ones.
        tail: bytes after the last tensor.
    """
    listed = list(tensors.items() if isinstance(tensors, Mapping) else tensors)
    pairs = list(values.items() if isinstance(values, Mapping) else values)
    if alignment != 32:
        pairs.append(("general.alignment", alignment))
    header = b"GGUF" + struct.pack("<I", version)
    header += struct.pack("<QQ", counts[0] or len(listed), counts[1] or len(pairs))
    for key, value in pairs:
        header += text(key) + value_bytes(value)
    places: list[tuple[int, bytes]] = []
    end = 0
    for name, (dtype, shape, items) in listed:
        end += -end % alignment
        number = (types or {}).get(name, NUMBERS.get(dtype, 0))
        offset = (offsets or {}).get(name, end)
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, offset)
        if isinstance(items, bytes):
            places.append((end, items))
        end += items if isinstance(items, int) else len(items)
    header += b"\0" * (-len(header) % alignment)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        for place, items in [*places, (end, tail)]:
            file.seek(len(header) + place)
            file.write(items)
        file.truncate(len(header) + end + len(tail))
    return path


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return entry(dtype, shape).nbytes

"""How the two containers arrange tensors: the bytes that come first, and where each tensor lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ltx2rt.convert.encoders.encoder import Entry
from ltx2rt.weights.tensor_source import DTYPES

# Ids of the GGUF types that are written.
_GGUF_TYPES = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}
_GGUF_ALIGNMENT = 32
_GGUF_UINT32, _GGUF_STRING = 4, 8
_GGUF_MOSTLY_Q8_0 = 7
ARCHITECTURE = "ltxv"


class Arrangement(NamedTuple):
    """A file before its tensors are written: its beginning, name -> position of a tensor, and the whole size."""

    head: bytes
    positions: Mapping[str, int]
    size: int


class Container(NamedTuple):
    """A kind of file: the ending of its name, and how it arranges tensors with the strings of the header."""

    suffix: str
    arrange: Callable[[Mapping[str, Entry], Mapping[str, str]], Arrangement]


def _safetensors(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Arrangement:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # Widest items first keeps every tensor aligned to its own item size.
    order = sorted(entries, key=lambda name: -DTYPES[entries[name].dtype].itemsize)
    offsets, position = {}, 0
    for name in order:
        dtype, shape, nbytes = entries[name]
        offsets[name] = position
        position += nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offsets[name], position]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return Arrangement(head, {name: len(head) + offset for name, offset in offsets.items()}, len(head) + position)


def _gguf(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Arrangement:
    numbers = {"general.quantization_version": 2, "general.file_type": _GGUF_MOSTLY_Q8_0}
    texts = {"general.architecture": ARCHITECTURE} | dict(metadata)
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(entries), len(texts) + len(numbers))]
    parts += [_text(key) + struct.pack("<I", _GGUF_STRING) + _text(value) for key, value in texts.items()]
    parts += [_text(key) + struct.pack("<II", _GGUF_UINT32, value) for key, value in numbers.items()]
    offsets, position = {}, 0
    for name, (dtype, shape, nbytes) in entries.items():
        sizes = shape[::-1] or (1,)  # fastest first
        offsets[name] = position
        position += nbytes + -nbytes % _GGUF_ALIGNMENT
        record = struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, _GGUF_TYPES[dtype], offsets[name])
        parts.append(_text(name) + record)
    head = b"".join(parts)
    head += bytes(-len(head) % _GGUF_ALIGNMENT)
    return Arrangement(head, {name: len(head) + offset for name, offset in offsets.items()}, len(head) + position)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


SAFETENSORS = Container(".safetensors", _safetensors)
GGUF = Container(".gguf", _gguf)

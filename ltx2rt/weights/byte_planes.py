"""Safetensors files with all low bytes before all high bytes, which archives, such as wheels, compress better.

Of a bfloat16 weight the byte with sign and exponent is often the same as another's, the one with the mantissa hardly
ever. In an ordinary file they alternate, and deflate finds little in the mixture. Here the data section holds the same
bytes in two planes: those at even positions, then those at odd positions. For other programs that is a tensor of bytes
called ``MARK``, of shape [2, n]. The entry ``MARK`` of the metadata is the header that the ordinary file would have,
without its ``__metadata__``: those entries stand beside ``MARK``.
"""

from __future__ import annotations

import json

import numpy as np

from ltx2rt.types import Array
from ltx2rt.weights.positioned_file import PositionedFile

MARK = "ltx2rt_byte_planes"

# Bytes that are put together at a time; half as many are in memory beside them.
_PIECE = 1 << 20


class BytePlanes:
    """Reads a file of two planes as if it were the ordinary one.

    Args:
        file: with the planes; it is closed with this one.
        start: position where the first plane begins; the second one ends with the file.
    """

    def __init__(self, file: PositionedFile, start: int) -> None:
        self._file = file
        self._start = start
        self._planes = start, start + (file.length - start) // 2

    def read_into(self, offset: int, *targets: memoryview) -> None:
        """Fill ``targets``, one after the other, with what would stand in the ordinary file from ``offset`` on.

        Raises:
            CheckpointError: see `PositionedFile.read_into`.
        """
        position = offset - self._start
        for target in targets:
            items: Array = np.ndarray(len(target), np.uint8, target)  # numpy fills every second byte 16 times as fast
            for done in range(0, len(items), _PIECE):
                self._fill(items[done : done + _PIECE], position + done)
            position += len(items)

    def _fill(self, items: Array, position: int) -> None:
        """All bytes of ``items``, whose first one is at ``position`` of the ordinary data."""
        for parity, plane in enumerate(self._planes):
            first = (position + parity) % 2  # of the items, that is at such a position
            read = np.empty_like(items[first::2], order="C")
            self._file.read_into(plane + (position + first) // 2, read.data)
            items[first::2] = read

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def in_byte_planes(content: bytes) -> bytes:
    """The content of a safetensors file with its data in two planes.

    Args:
        content: of an ordinary file, sound, with an even number of bytes of data.

    Raises:
        ValueError: an odd number of bytes of data.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    data = content[start:]
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes of data do not fill two planes; only an even number does.")
    metadata = header.pop("__metadata__", {}) | {MARK: json.dumps(header, separators=(",", ":"))}
    entry = {"dtype": "U8", "shape": [2, len(data) // 2], "data_offsets": [0, len(data)]}
    text = json.dumps({"__metadata__": metadata, MARK: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[::2] + data[1::2]

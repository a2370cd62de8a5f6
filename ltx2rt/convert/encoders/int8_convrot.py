"""8-bit integers with a scale per row, of weights whose inputs are rotated in groups: the official LTX-2.5 form."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ltx2rt.convert.encoders.encoder import Encoder, Entry, Piece, Reader, energy, largest
from ltx2rt.weights.rotation import DEFAULT_GROUP, rotate

_CODES = 127


class Int8Convrot(Encoder):
    """Stored are rint(W R / scale), scale = max|row of W R| / 127; R is the rotation of the largest group.

    Source: Comfy-Org/comfy-kitchen TensorWiseINT8Layout @ 0.2.40.
    """

    name = "int8-convrot"

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and shape[1] > 0 and shape[1] % 4 == 0

    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        rows, columns = shape
        marker = len(_marker(_group(columns)))
        return {
            ".weight": Entry("I8", shape, rows * columns),
            ".weight_scale": Entry("F32", (rows, 1), 4 * rows),
            ".comfy_quant": Entry("U8", (marker,), marker),
        }

    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        group = _group(shape[1])
        yield Piece({".comfy_quant": _marker(group)})
        for values in read():
            rotated = rotate(values, group)
            scale = largest(rotated, where, axis=1) / np.float32(_CODES)
            scale[scale == 0] = 1  # a row of zeros
            codes = rotated / scale
            np.rint(codes, out=codes)
            items = {".weight": codes.astype(np.int8), ".weight_scale": scale}
            codes *= scale
            codes -= rotated
            # The rotation keeps lengths: what is lost here is what is lost of W.
            yield Piece(items, energy(rotated), energy(codes))


def _group(columns: int) -> int:
    """The largest power of 4 up to `DEFAULT_GROUP` that divides ``columns``."""
    group = 4
    while group < DEFAULT_GROUP and columns % (4 * group) == 0:
        group *= 4
    return group


def _marker(group: int) -> bytes:
    """The JSON text of the marker, byte for byte as in the official files."""
    return json.dumps({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}).encode()

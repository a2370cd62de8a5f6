"""GGML's Q8_0: 8-bit integers in blocks of 32 columns, each with a float16 scale in front."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ltx2rt.convert.encoders.encoder import Encoder, Entry, Piece, Reader, energy, largest
from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array

_BLOCK, _BLOCK_BYTES, _CODES = 32, 34, 127


class Q8_0(Encoder):
    """W = d * q with d = max|block| / 127, rounded to float16 after the codes are taken.

    Source: quantize_row_q8_0_ref of ggml @ d99724f, which rounds halves away from zero.
    """

    name = "gguf-q8_0"

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and shape[1] > 0 and shape[1] % _BLOCK == 0

    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        return {".weight": Entry("Q8_0", shape, shape[0] * (shape[1] // _BLOCK) * _BLOCK_BYTES)}

    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        for values in read():
            blocks = values.reshape(-1, _BLOCK)
            scale = largest(blocks, where, axis=1) / np.float32(_CODES)
            inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
            codes = blocks * inverse
            codes = np.copysign(np.floor(np.abs(codes) + np.float32(0.5)), codes)
            items = np.empty((len(blocks), _BLOCK_BYTES), np.uint8)
            half = _halves(scale, where)
            items[:, :2] = half.astype("<f2").view(np.uint8)
            items[:, 2:] = codes.astype(np.int8).view(np.uint8)
            error = codes * half.astype(np.float32) - blocks
            yield Piece({".weight": items}, energy(values), energy(error))


def _halves(scale: Array, where: str) -> Array:
    """The scales in float16; `CheckpointError` where they are too large for it."""
    most = float(scale.max(initial=0.0))
    if most > float(np.finfo(np.float16).max):
        raise CheckpointError(
            f"{where}: holds a value of {most * _CODES:.3g}, too large for the float16 scales of Q8_0; choose another "
            "format."
        )
    result: Array = scale.astype(np.float16)
    return result

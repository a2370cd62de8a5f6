"""8-bit floats (E4M3) with one scale per tensor, as in the official FP8 files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ltx2rt.convert.encoders.encoder import Encoder, Entry, Piece, Reader, energy, largest
from ltx2rt.kernels.host import from_numbers
from ltx2rt.weights.float8 import E4M3_MAX, encode_e4m3
from ltx2rt.weights.tensor_source import widen


class Float8(Encoder):
    """W = value * scale with scale = max|W| / 448. The weight is read twice, once for its largest value."""

    name = "fp8"

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        return {".weight": Entry("F8_E4M3", shape, shape[0] * shape[1]), ".weight_scale": Entry("F32", (), 4)}

    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        most = max((float(largest(values, where)) for values in read()), default=0.0)
        scale = from_numbers(most / E4M3_MAX or 1.0, np.float32)
        yield Piece({".weight_scale": scale})
        for values in read():
            codes = encode_e4m3(values / scale)
            error = widen(codes, "F8_E4M3") * scale - values
            yield Piece({".weight": codes}, energy(values), energy(error))

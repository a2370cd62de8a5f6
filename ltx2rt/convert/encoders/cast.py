"""Plain floating point: each value rounded once, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import ml_dtypes
import numpy as np

from ltx2rt.convert.encoders.encoder import Encoder, Entry, Piece, Reader, energy
from ltx2rt.weights.tensor_source import DTYPES

_NUMPY = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


class Cast(Encoder):
    """Values of one dtype, F32, F16 or BF16; tensors of any shape."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.name = dtype.lower()

    def takes(self, shape: tuple[int, ...]) -> bool:
        return True

    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        return {"": Entry(self.dtype, shape, prod(shape) * DTYPES[self.dtype].itemsize)}

    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        for values in read():
            stored = values.astype(_NUMPY[self.dtype])
            lost = 0.0 if self.dtype == "F32" else energy(stored.astype(np.float32) - values)
            yield Piece({"": stored.view(DTYPES[self.dtype].numpy)}, energy(values), lost)

"""Tensors stored as their values: floating point, which the kernels take, and whatever else a file holds."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import to_numpy, writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.formats.linear_format import FLOATS, Encoding, LinearFormat, Stored, slabs
from ltx2rt.weights.tensor_source import DTYPES, check_dimensions, to_mlx, widen


class Dense(LinearFormat):
    """The values themselves, in the dtype of the file; float64 becomes float32, which is all that GPUs have."""

    name = "dense"

    def recognises(self, encoding: Encoding) -> bool:
        return True

    def array_dtype(self, encoding: Encoding) -> mx.Dtype:
        dtype = encoding.info.dtype
        return mx.bfloat16 if dtype == "BF16" else DTYPES[dtype].mlx or mx.float32

    def own_fault(self, encoding: Encoding) -> str | None:
        dtype = encoding.info.dtype
        if dtype in FLOATS:
            return None
        return f"{dtype} without the scales of a known format cannot be used as a weight"

    def made_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return 0 if DTYPES[encoding.info.dtype].mlx is not None else self.weight_bytes(encoding, shape)

    def array(self, stored: Stored, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> mx.array:
        if axes is None:
            return stored.mlx()
        # Without an ordered copy between.
        raw, dtype = stored.raw().transpose(axes), stored.info.dtype
        kind = DTYPES[dtype].mlx
        if kind is None or raw.size == 0:
            return to_mlx(raw.copy(), dtype, stored.where)
        check_dimensions(raw.shape, stored.where)
        array = uninitialized(raw.shape, kind)
        writable_view(array)[...] = raw
        return array.view(mx.bfloat16) if dtype == "BF16" else array

    def values(self, stored: Stored, shape: tuple[int, ...]) -> mx.array:
        array = self.load(stored, shape).values
        array = mx.array(to_numpy(array)) if array.dtype == mx.float32 else array.astype(mx.float32)
        mx.eval(array)
        return array

    def value_slabs(self, stored: Stored, shape: tuple[int, ...]) -> Iterator[Array]:
        self.require_sound(stored, shape)
        for rows in slabs(shape):
            yield widen(stored.rows(rows), stored.info.dtype).astype(np.float32, copy=False)

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        self.require_sound(stored, shape)
        return LinearWeight("dense", stored.mlx())

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", values.astype(self.array_dtype(Encoding(stored.info))))

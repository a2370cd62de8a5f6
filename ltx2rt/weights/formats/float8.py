"""8-bit floats, without a scale or with one per tensor or per row."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import writable_view
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.float8 import E4M3_MAX, encode_e4m3
from ltx2rt.weights.formats.linear_format import Encoding, ExpandedFormat, Rows, Stored, scales, slabs
from ltx2rt.weights.tensor_source import widen

_EXPECTED = "supported are one float scale per tensor, and one per row of a matrix"


class Float8(ExpandedFormat):
    """8-bit floats of one kind with one scale, W = value * scale; without a scale it is 1. Expanded to bfloat16.

    Args:
        dtype: safetensors code.
    """

    companions = (".weight_scale", ".scale_weight")
    bias_companions = (".bias_scale",)
    unused = (".input_scale", ".scale_input")  # to quantise activations
    dtype: str

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype == self.dtype

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale, raw = self._scale(stored), stored.raw()
        return lambda rows: widen(raw[rows], self.dtype) * scale

    def _scale(self, stored: Stored) -> np.float32:
        suffix = next(
            (suffix for suffix in (*self.companions, *self.bias_companions) if suffix in stored.companions), None
        )
        if suffix is None:
            one_scale: np.float32 = np.float32(1)
            return one_scale
        one = [(1,) * rank for rank in range(3)]
        result: np.float32 = np.float32(scales(stored, suffix, one, _EXPECTED).reshape(()))
        return result


class E5M2(Float8):
    """E5M2, which no kernel takes."""

    name = "fp8 E5M2"
    markers = ("float8_e5m2",)
    dtype = "F8_E5M2"


class E4M3(Float8):
    """E4M3 (fn): as a matrix it stays as it is, which the kernels take; a LoRA gives it a fresh scale max|W| / 448."""

    name = "fp8"
    markers = ("float8_e4m3fn",)
    dtype = "F8_E4M3"

    def weight_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return encoding.nbytes

    def is_held_as_stored(self, encoding: Encoding) -> bool:
        return True

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        scale = mx.array(float(self._scale(stored)), dtype=mx.float32)
        return LinearWeight("e4m3", stored.mlx(), scale)

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        items = writable_view(values)
        largest = max((float(np.abs(items[rows]).max(initial=0.0)) for rows in slabs(items.shape)), default=0.0)
        scale = np.float32(max(largest, 1e-12) / E4M3_MAX)
        codes = np.empty(items.shape, np.uint8)
        for rows in slabs(items.shape):
            codes[rows] = encode_e4m3(items[rows] / scale)
        return LinearWeight("e4m3", mx.array(codes), mx.array(scale))

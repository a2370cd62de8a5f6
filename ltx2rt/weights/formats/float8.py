"""8-bit floats, without a scale or with one per tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import writable_view
from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.float8 import E4M3_MAX, encode_e4m3
from ltx2rt.weights.formats.linear_format import (
    FLOATS,
    Encoding,
    ExpandedFormat,
    Stored,
    companion_values,
    slabs,
    wrong_scales,
)
from ltx2rt.weights.markers import FILE_KIND
from ltx2rt.weights.tensor_source import Rows, widen

SCALES = (".weight_scale", ".scale_weight")
_BIAS_SCALES = (".bias_scale",)
_ONE = [(1,) * rank for rank in range(3)]


def float8_kind(encoding: Encoding) -> str | None:
    """The dtype code of the 8-bit floats that a tensor holds; None for anything else.

    Their bytes may sit in a U8 tensor, which a marker or a single scale gives away. E5M2 is then declared.
    """
    dtype = encoding.info.dtype
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return dtype
    declared = encoding.declared or ""
    scale = encoding.companion(*SCALES)
    scaled = scale is not None and scale[1].size == 1 and scale[1].dtype in FLOATS
    if dtype != "U8" or not (declared.startswith("float8_") or scaled):
        return None
    return "F8_E5M2" if "e5m2" in (declared or encoding.marker.get(FILE_KIND, "")) else "F8_E4M3"


class Float8(ExpandedFormat):
    """8-bit floats of one kind with one scale, W = value * scale; without a scale it is 1. Expanded to bfloat16.

    Args:
        dtype: safetensors code.
    """

    companions = SCALES
    bias_companions = _BIAS_SCALES
    unused = (".input_scale", ".scale_input")  # to quantise activations
    slab_bytes = 6
    dtype: str

    def recognises(self, encoding: Encoding) -> bool:
        return float8_kind(encoding) == self.dtype

    def own_fault(self, encoding: Encoding) -> str | None:
        scale = encoding.companion(*SCALES, *_BIAS_SCALES)
        if scale is not None:
            rows = encoding.info.shape[0] if encoding.info.shape else 1
            return wrong_scales(encoding, scale[0], _ONE, f"one value, [{rows}] or [{rows}, 1]")
        if FILE_KIND in encoding.marker:
            return "the file is marked scaled_fp8, but the layer has no scale_weight"
        return None

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {"": self.dtype}

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale = self._scale(stored)

        def decode(rows: Rows) -> Array:
            values = widen(stored.rows(rows), self.dtype)
            values *= scale
            return values

        return decode

    def _scale(self, stored: Stored) -> np.float32:
        found = stored.encoding.companion(*SCALES, *_BIAS_SCALES)
        scale: np.float32 = np.float32(1 if found is None else companion_values(stored, found[0]).reshape(()))
        return scale


class E5M2(Float8):
    """E5M2, which no kernel takes."""

    name = "fp8 E5M2"
    markers = ("float8_e5m2",)
    marked_dtypes = ("F8_E5M2", "U8")
    dtype = "F8_E5M2"


class E4M3(Float8):
    """E4M3 (fn): as a matrix it stays as it is, which the kernels take; a LoRA gives it a fresh scale max|W| / 448."""

    name = "fp8"
    markers = ("float8_e4m3fn",)
    marked_dtypes = ("F8_E4M3", "U8")
    dtype = "F8_E4M3"

    def weight_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return encoding.info.nbytes + FLOAT32_BYTES

    def encoded_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return encoding.info.nbytes + FLOAT32_BYTES

    def made_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return 0

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        self.require_sound(stored, shape)
        scale = mx.array(float(self._scale(stored)), dtype=mx.float32)
        return LinearWeight("e4m3", stored.mlx(), scale)

    def load_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> LinearWeight:
        return self.load(stored.only(rows, shape[0]), (len(rows), *shape[1:]))

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        items = writable_view(values)
        largest = max((float(np.abs(items[rows]).max(initial=0.0)) for rows in slabs(items.shape)), default=0.0)
        scale = np.float32(max(largest, 1e-12) / E4M3_MAX)
        codes = np.empty(items.shape, np.uint8)
        for rows in slabs(items.shape):
            codes[rows] = encode_e4m3(items[rows] / scale)
        return LinearWeight("e4m3", mx.array(codes), mx.array(scale))

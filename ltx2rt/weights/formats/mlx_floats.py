"""MLX's modes of small floats: packed codes with an 8-bit scale per group of columns and no zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import writable_view
from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.block_floats import E8M0, LOW_FIRST
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats.affine import ZEROS
from ltx2rt.weights.formats.linear_format import Encoding, Packed, PackedFormat, Stored, made_of_slabs
from ltx2rt.weights.tensor_source import Rows, widen

_SCALES = ".scales"


class _Mode(NamedTuple):
    """One of MLX's modes: bits of a code, columns of a group, whether the scale is a power of two (else E4M3)."""

    name: str
    bits: int
    group_size: int
    power_of_two: bool


_NVFP4, _MXFP8 = _Mode("nvfp4", 4, 16, False), _Mode("mxfp8", 8, 32, True)
_MODES = (_Mode("mxfp4", 4, 32, True), _NVFP4, _MXFP8)


class MlxFloats(PackedFormat):
    """W = value * scale: ``weight`` U32 (N, K bits / 32), the first code lowest; ``scales`` U8 (N, K / group).

    The mode follows from the two widths. Nothing is padded or in tile order, and there is no scale of the matrix.
    Kernels take nvfp4 with its nibbles exchanged, and mxfp8, in which a scale of code 0, 2 ** -127, counts as zero.
    """

    name = "MLX small floats"
    companions = (_SCALES, ZEROS)

    def recognises(self, encoding: Encoding) -> bool:
        scales = encoding.companions.get(_SCALES)
        return encoding.info.dtype == "U32" and scales is not None and scales.dtype == "U8"

    def label(self, encoding: Encoding, shape: tuple[int, ...] | None = None) -> str:
        mode = _mode(encoding)
        return self.name if mode is None else f"MLX {mode.name}"

    def own_fault(self, encoding: Encoding) -> str | None:
        if ZEROS in encoding.companions:
            return "packed with '.scales' of U8 and '.biases', which no mode of MLX has"
        if _mode(encoding) is None:
            listed = ", ".join(mode.name for mode in _MODES)
            return (
                f"packed {list(encoding.info.shape)} with scales U8 {list(encoding.companions[_SCALES].shape)} is none "
                f"of MLX's modes {listed}"
            )
        return None

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        mode = _mode(encoding)
        return {_SCALES: "F8_E8M0" if mode is not None and mode.power_of_two else "F8_E4M3"}

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        mode = _mode(encoding)
        return [] if mode is None else [(encoding.info.shape[0], encoding.info.shape[1] * 32 // mode.bits)]

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        mode = _mode(encoding)
        if mode == _NVFP4:
            return Packed(encoding.nbytes + FLOAT32_BYTES, encoding.info.nbytes + FLOAT32_BYTES)
        return Packed(encoding.nbytes, 0) if mode == _MXFP8 else None

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        file, name = stored.companions[_SCALES]
        scale, mode = file.mlx(name), _mode(stored.encoding)
        require_finite(writable_view(scale), "F8_E8M0" if mode == _MXFP8 else "F8_E4M3", file.where(name))
        if mode == _MXFP8:
            return LinearWeight("mxfp8", stored.mlx().view(mx.uint8), scale)

        def exchanged(rows: Rows) -> Array:
            packed = stored.rows(rows).view(np.uint8)
            return packed << 4 | packed >> 4

        values = made_of_slabs((shape[0], shape[1] // 2), mx.uint8, exchanged)
        return LinearWeight("nvfp4", values, scale, mx.array(1.0))

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        mode = _mode(stored.encoding)
        assert mode is not None
        file, name = stored.companions[_SCALES]

        def decode(rows: Rows) -> Array:
            codes = file.rows(name, rows)
            scale = E8M0[codes] if mode.power_of_two else widen(codes, "F8_E4M3")
            require_finite(scale, "F32", file.where(name))
            packed = stored.rows(rows).view(np.uint8)
            values: Array = widen(packed, "F8_E4M3") if mode.bits == 8 else LOW_FIRST[packed]
            values = values.reshape(-1, scale.shape[1], mode.group_size) * scale[:, :, None]
            return values.reshape(-1, shape[1])

        return decode


def _mode(encoding: Encoding) -> _Mode | None:
    packed, scales = encoding.info.shape, encoding.companions[_SCALES].shape
    if len(packed) != 2 or len(scales) != 2 or packed[0] != scales[0] or 0 in packed:
        return None
    found = (mode for mode in _MODES if packed[1] * 32 == scales[1] * mode.group_size * mode.bits)
    return next(found, None)

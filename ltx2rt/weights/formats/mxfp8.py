"""MXFP8: 8-bit floats with a power of two per 32 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.block_floats import E8M0, padded, tiled_shape
from ltx2rt.weights.formats.linear_format import CURE, Encoding, Packed, PackedFormat, Stored, made_of_slabs
from ltx2rt.weights.formats.tiled_scales import tiled_scales
from ltx2rt.weights.tensor_source import Rows, widen

_SCALES = ".weight_scale"
_BLOCK = 32
_NO_NUMBER = 255
# As the format's own kernels have it: code 0, which blocks of zeros have, is zero and not 2 ** -127.
_POWERS = np.concatenate([np.zeros(1, np.float32), E8M0[1:]])


class Mxfp8(PackedFormat):
    """W = value * scale, stored padded to multiples of 32 in both directions.

    ``weight`` E4M3 (N', K'); ``weight_scale`` E8M0 in tile order, also as U8. Where no columns are added it stays
    packed, its scales in rows.
    """

    name = "mxfp8"
    companions = (_SCALES,)
    unused = (".weight_scalar",)  # one scale for the matrix, for programs without block scales
    markers = ("mxfp8", "hybrid_mxfp8")
    marked_dtypes = ("F8_E4M3", "U8")

    def recognises(self, encoding: Encoding) -> bool:
        scales = encoding.companions.get(_SCALES)
        if scales is None or (encoding.info.dtype not in ("F8_E4M3", "F8_E5M2") and scales.dtype != "F8_E8M0"):
            return False
        return scales.dtype == "F8_E8M0" or (scales.dtype == "U8" and len(scales.shape) == 2)

    def own_fault(self, encoding: Encoding) -> str | None:
        info, scales = encoding.info, encoding.companions.get(_SCALES)
        if scales is None:
            return "mxfp8 needs weight_scale"
        if encoding.declared is None and info.dtype not in ("F8_E4M3", "U8"):
            return f"mxfp8 scales, but the weight is {info.dtype}; expected F8_E4M3"
        if len(info.shape) != 2:
            return f"mxfp8 of shape {list(info.shape)}; only matrices can be stored so"
        if info.shape[0] % _BLOCK or info.shape[1] % _BLOCK:
            return f"mxfp8 of shape {list(info.shape)}, which is not padded to multiples of {_BLOCK} rows and columns"
        expected = tiled_shape(info.shape[0], info.shape[1] // _BLOCK)
        if scales.shape != expected:
            return (
                f"mxfp8 block scales (weight_scale) have shape {list(scales.shape)}; expected {list(expected)} in tile "
                "order"
            )
        if scales.dtype not in ("F8_E8M0", "U8"):
            return f"mxfp8 block scales (weight_scale) are {scales.dtype}; expected F8_E8M0 or U8"
        return None

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {"": "F8_E4M3", _SCALES: "F8_E8M0"}

    def fits(self, encoding: Encoding, shape: tuple[int, ...]) -> bool:
        return tuple(padded(n, _BLOCK) for n in shape) == encoding.info.shape

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        rows, columns = shape
        if columns % _BLOCK:
            return None
        made = rows * columns // _BLOCK + (rows * columns if encoding.info.shape[0] != rows else 0)
        return Packed(rows * columns + rows * columns // _BLOCK, made)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        scale = made_of_slabs((shape[0], shape[1] // _BLOCK), mx.uint8, _scale_rows(stored, shape))
        values = stored.mlx() if stored.info.shape[0] == shape[0] else mx.array(stored.rows(slice(0, shape[0])))
        return LinearWeight("mxfp8", values, scale)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        scale_rows, blocks = _scale_rows(stored, shape), padded(shape[1], _BLOCK) // _BLOCK

        def decode(rows: Rows) -> Array:
            values = widen(stored.rows(rows), "F8_E4M3").reshape(-1, blocks, _BLOCK)
            values *= _POWERS[scale_rows(rows)][:, :, None]
            return values.reshape(-1, blocks * _BLOCK)[:, : shape[1]]

        return decode


def _scale_rows(stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
    return tiled_scales(stored, _SCALES, shape, _BLOCK, _require_numbers)


def _require_numbers(codes: Array, where: str) -> None:
    if (codes == _NO_NUMBER).any():
        raise CheckpointError(f"{where}: scales of code {_NO_NUMBER}, which is no number; {CURE}.")

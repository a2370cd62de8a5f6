"""4- and 6-bit codes whose groups are scaled to 8-bit levels, rotated (asym_w4a8_int8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import writable_view
from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats.int8 import rotation_fault
from ltx2rt.weights.formats.linear_format import (
    FLOATS,
    Encoding,
    Packed,
    PackedFormat,
    Stored,
    companion_values,
    made_of_slabs,
    row_scales,
    whole_number,
    wrong_scales,
)
from ltx2rt.weights.rotation import DEFAULT_GROUP, rotate
from ltx2rt.weights.tensor_source import Rows, widen

_RELATIVE, _CHANNEL = ".weight_s_rel", ".weight_s_channel"
_CODEBOOK, _CORRECTION = ".weight_codebook", ".weight_correction"
_DEFAULT_GROUP = 16
_LARGEST_LEVEL = 127


class W4A8(PackedFormat):
    """W = rotation of (level * channel scale + correction), level = round(value of the code * scale of the group).

    ``weight`` I8 (N, K / 2) or (N, 3 K / 4); ``weight_s_rel`` (N, K / g) E4M3 or float32; ``weight_s_channel`` (N,);
    ``weight_codebook`` (16,) and ``weight_correction`` (K / g, N) may be there.

    Codes of 4 bits with scales of 8 bits stay packed; others become their levels, 8-bit integers; with a correction
    everything is expanded.
    """

    name = "w4a8"
    companions = (_RELATIVE, _CHANNEL, _CODEBOOK, _CORRECTION)
    markers = ("asym_w4a8_int8",)
    marked_dtypes = ("I8", "U8")

    def recognises(self, encoding: Encoding) -> bool:
        named = _RELATIVE in encoding.companions or _CHANNEL in encoding.companions
        return encoding.info.dtype in ("I8", "U8") and named

    def label(self, encoding: Encoding, shape: tuple[int, ...] | None = None) -> str:
        return "w6a8" if _bits(encoding) == 6 else self.name

    def own_fault(self, encoding: Encoding) -> str | None:
        shape, found = encoding.info.shape, encoding.companions
        for suffix in (_RELATIVE, _CHANNEL):
            if suffix not in found:
                return f"asym_w4a8_int8 needs {suffix.removeprefix('.')}"
        relative = found[_RELATIVE]
        if relative.dtype not in ("F8_E4M3", "U8", *FLOATS):
            return f"weight_s_rel is {relative.dtype}; expected F8_E4M3, U8 or F32"
        if len(shape) != 2 or len(relative.shape) != 2 or relative.shape[0] != shape[0]:
            return (
                f"weight_s_rel has shape {list(relative.shape)} for a weight of {list(shape)}; expected a row for each"
            )
        group = whole_number(encoding.marker, "group_size", _DEFAULT_GROUP)
        if group is None or group < 4 or (group % 16 and 16 % group):
            return (
                f"group_size {encoding.marker.get('group_size')!r}; expected a number from 4 on that divides 16 or is "
                "a multiple of it"
            )
        columns, bits = group * relative.shape[1], _bits(encoding)
        if bits is None:
            return f"{shape[1]} bytes per row fit neither 4 nor 6 bits for {columns} inputs"
        wrong = wrong_scales(encoding, _CHANNEL, [(shape[0],), (shape[0], 1)])
        if wrong is None and _CODEBOOK in found:
            entries = found[_CODEBOOK].size
            wrong = (
                f"weight_codebook has {entries} entries, expected 16"
                if entries != 16
                else wrong_scales(encoding, _CODEBOOK, [(16,)])
            )
        if wrong is None and _CORRECTION in found:
            wrong = wrong_scales(encoding, _CORRECTION, [(relative.shape[1], shape[0])])
        if wrong is None and bits == 6:
            for suffix in (_CODEBOOK, _CORRECTION):
                if suffix in found:
                    wrong = f"6-bit weights have no {suffix.removeprefix('.')}"
            if group % 16 or columns % 32:
                wrong = f"6-bit weights of {columns} inputs in groups of {group}; expected groups of a multiple of 16"
        return wrong or rotation_fault(_rotation(encoding), columns)

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        return {_RELATIVE: "F8_E4M3"}

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        columns = _columns(encoding)
        return [] if columns is None else [(encoding.info.shape[0], columns)]

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        rows, columns = shape
        if _CORRECTION in encoding.companions:
            return None
        channel = encoding.companions[_CHANNEL]
        channel_made = 0 if channel.dtype == "F32" else FLOAT32_BYTES * rows
        if not _keeps_codes(encoding):
            return Packed(rows * (columns + FLOAT32_BYTES), rows * columns + channel_made)
        relative, table = encoding.companions[_RELATIVE], 16 * FLOAT32_BYTES
        stored = encoding.companions.get(_CODEBOOK)
        table_made = 0 if stored is not None and stored.dtype == "F32" else table
        nbytes = encoding.info.nbytes + relative.nbytes + FLOAT32_BYTES * rows + table
        return Packed(nbytes, channel_made + table_made)

    def rotation(self, encoding: Encoding) -> int:
        return 0 if _CORRECTION in encoding.companions else _rotation(encoding)

    def as_int8(self, encoding: Encoding) -> bool:
        return _CORRECTION not in encoding.companions and not _keeps_codes(encoding)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        encoding = stored.encoding
        channel, rotation = row_scales(stored, _CHANNEL, shape[0]), _rotation(encoding)
        if not _keeps_codes(encoding):
            levels = _levels(stored, shape)
            return LinearWeight("int8", made_of_slabs(shape, mx.int8, levels), channel, rotation=rotation)
        file, name = stored.companions[_RELATIVE]
        values, scale = stored.mlx().view(mx.uint8), file.mlx(name)
        require_finite(writable_view(scale), "F8_E4M3", file.where(name))
        group = shape[1] // file.info(name).shape[1]
        codebook = encoding.companions.get(_CODEBOOK)
        if codebook is not None and codebook.dtype == "F32":
            table_file, table_name = stored.companions[_CODEBOOK]
            table = table_file.mlx(table_name, finite=True)
        else:
            table = mx.array(_codebook(stored))
        return LinearWeight("w4a8", values, scale, channel, group_size=group, table=table, rotation=rotation)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        columns, rotation = shape[1], _rotation(stored.encoding)
        levels = _levels(stored, shape)
        channel = companion_values(stored, _CHANNEL).reshape(-1, 1)
        correction = companion_values(stored, _CORRECTION).T if _CORRECTION in stored.companions else None

        def decode(rows: Rows) -> Array:
            values = levels(rows)
            values *= channel[rows]
            if correction is not None:
                added = correction[rows][:, :, None]
                groups = values.reshape(len(values), added.shape[1], -1)
                groups += added
            return rotate(values.reshape(-1, columns), rotation)

        return decode


def _levels(stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
    """What gives the levels of some rows, whole numbers of float32."""
    encoding = stored.encoding
    file, name = stored.companions[_RELATIVE]
    dtype = "F8_E4M3" if encoding.companions[_RELATIVE].dtype == "U8" else file.info(name).dtype
    six_bits, codebook = _bits(encoding) == 6, _codebook(stored)

    def levels_of(rows: Rows) -> Array:
        scale = widen(file.rows(name, rows), dtype).astype(np.float32, copy=False)
        require_finite(scale, "F32", file.where(name))
        packed = stored.rows(rows).view(np.uint8)
        codes = _six_bit_codes(packed, shape[1]) if six_bits else _nibbles(packed)
        values: Array = codebook[codes].reshape(len(codes), scale.shape[1], -1)
        values *= scale[:, :, None]
        np.rint(values, out=values)
        np.clip(values, -_LARGEST_LEVEL, _LARGEST_LEVEL, out=values)
        return values.reshape(len(codes), shape[1])

    return levels_of


def _codebook(stored: Stored) -> Array:
    """The value of every code, float32."""
    if _CODEBOOK in stored.companions:
        return companion_values(stored, _CODEBOOK)
    count = 64 if _bits(stored.encoding) == 6 else 16
    values: Array = np.arange(count, dtype=np.float32) - np.float32(count // 2)
    return values


def _keeps_codes(encoding: Encoding) -> bool:
    """Whether kernels take the codes: 4 bits, and scales of 8 bits."""
    return _bits(encoding) == 4 and encoding.companions[_RELATIVE].dtype in ("F8_E4M3", "U8")


def _columns(encoding: Encoding) -> int | None:
    relative = encoding.companions.get(_RELATIVE)
    group = whole_number(encoding.marker, "group_size", _DEFAULT_GROUP)
    is_matrix = relative is not None and len(relative.shape) == len(encoding.info.shape) == 2
    return group * relative.shape[1] if group is not None and relative is not None and is_matrix else None


def _bits(encoding: Encoding) -> int | None:
    """Bits per code; None where the sizes go with neither number."""
    columns = _columns(encoding)
    if not columns:
        return None
    bits, rest = divmod(8 * encoding.info.shape[1], columns)
    return bits if rest == 0 and bits in (4, 6) else None


def _rotation(encoding: Encoding) -> int:
    group: int = encoding.marker.get("convrot_groupsize", DEFAULT_GROUP)
    return group


def _nibbles(packed: Array) -> Array:
    """Two codes per byte, the low nibble first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _six_bit_codes(packed: Array, columns: int) -> Array:
    """A row holds the low nibbles of all codes, two per byte, then their high pairs, four per byte."""
    low = _nibbles(packed[:, : columns // 2])
    pairs = packed[:, columns // 2 :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    codes: Array = low | pairs.reshape(len(packed), columns) << 4
    return codes

"""Matrices in the formats that files hold, made bit by bit from their definitions, with the values they must give.

Nothing here is shared with the decoders: rotations are products with whole matrices, codes are read from bit strings,
and the place of a scale in tile order is found by walking through the tiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ltx2rt.weights.safetensors import RawTensor

Array = np.ndarray[Any, Any]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Encoded:
    """A stored matrix.

    Attributes:
        tensors: suffix after the name of the layer (``weight``) -> tensor.
        values: float32 that it stands for.
        marker: what a file declares about it.
        label: name of the format for people.
    """

    tensors: dict[str, Any]
    values: Array
    marker: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def named(self, layer: str, *, with_marker: bool = True) -> dict[str, Any]:
        """Name in a file -> tensor, the marker among them."""
        tensors = {f"{layer}.{suffix}": value for suffix, value in self.tensors.items()}
        if with_marker and self.marker:
            tensors[f"{layer}.comfy_quant"] = marker(self.marker)
        return tensors


def marker(content: Any) -> Array:
    """A marker tensor."""
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def float8(code: int, exponent_bits: int, bias: int) -> float:
    """The value of a finite code with a sign, exponent and mantissa."""
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = (code >> mantissa_bits) & (2**exponent_bits - 1), code & (2**mantissa_bits - 1)
    fraction = mantissa / 2**mantissa_bits
    magnitude = 2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction)
    return -magnitude if code & 0x80 else magnitude


E4M3 = np.array([float8(code, 4, 7) for code in range(256)], np.float32)
E5M2 = np.array([float8(code, 5, 15) for code in range(256)], np.float32)


def e2m1(code: int) -> float:
    return -E2M1[code & 7] if code & 8 else E2M1[code]


def rotation(group: int) -> Array:
    """The rotation matrix, float64."""
    one = np.ones((4, 4))
    for i in range(4):
        one[i, 3 - i] = -1
    result = np.ones((1, 1))
    while len(result) < group:
        result = np.kron(result, one)
    return result / np.sqrt(group)


def rotated(values: Array, group: int) -> Array:
    """Every group of columns times the rotation, in float64."""
    rows, columns = values.shape
    return (values.astype(np.float64).reshape(rows, -1, group) @ rotation(group)).reshape(rows, columns)


def finite_codes(generator: np.random.Generator, shape: tuple[int, ...], largest: int) -> Array:
    """Random codes of 8-bit floats of at most this magnitude."""
    return (generator.integers(0, largest + 1, shape) | generator.integers(0, 2, shape) << 7).astype(np.uint8)


def tiled(scales: Array, rows: int, blocks: int) -> Array:
    """Scales (rows, blocks) in tile order, padded with zeros: tiles of 128 x 4, each as 32 x (4 x 4)."""
    down, across = -(-rows // 128), -(-blocks // 4)
    padded = np.zeros((down * 128, across * 4), scales.dtype)
    padded[: scales.shape[0], : scales.shape[1]] = scales
    items = []
    for tile_row in range(down):
        for tile_column in range(across):
            tile = padded[tile_row * 128 :, tile_column * 4 :][:128, :4]
            for line in range(32):
                for quarter in range(4):
                    items += list(tile[quarter * 32 + line])
    return np.array(items, scales.dtype).reshape(down * 128, across * 4)


def nibbles(codes: Array, *, high_first: bool = False) -> Array:
    """Two 4-bit codes per byte."""
    even, odd = codes[:, 0::2], codes[:, 1::2]
    return ((even << 4 | odd) if high_first else (odd << 4 | even)).astype(np.uint8)


def words(codes: Array, bits: int) -> Array:
    """Rows of codes as one string of bits each, the first code lowest, in words of 32 bits."""
    rows = []
    for row in codes:
        text = sum(int(code) << (bits * place) for place, code in enumerate(row))
        rows.append(np.frombuffer(text.to_bytes(len(row) * bits // 8, "little"), "<u4"))
    return np.array(rows, np.uint32)


def fp8(
    n: int, k: int, seed: int, *, scale: tuple[int, ...] = (), raw: bool = False, name: str = "weight_scale"
) -> Encoded:
    generator = np.random.default_rng(seed)
    codes, value = finite_codes(generator, (n, k), 126), np.float32(generator.uniform(0.001, 0.1))
    tensors = {"weight": RawTensor("U8" if raw else "F8_E4M3", codes), name: np.full(scale, value, np.float32)}
    return Encoded(tensors, E4M3[codes] * value, {"format": "float8_e4m3fn"}, "fp8")


def fp8_e5m2(n: int, k: int, seed: int, *, raw: bool = False) -> Encoded:
    generator = np.random.default_rng(seed)
    codes, value = finite_codes(generator, (n, k), 0x50), np.float32(generator.uniform(0.001, 0.1))
    tensors = {"weight": RawTensor("U8" if raw else "F8_E5M2", codes), "weight_scale": np.array(value)}
    return Encoded(tensors, E5M2[codes] * value, {"format": "float8_e5m2"}, "fp8 E5M2")


def fp8_blocks(n: int, k: int, seed: int, *, size: int, runs: bool) -> Encoded:
    generator = np.random.default_rng(seed)
    codes = finite_codes(generator, (n, k), 126)
    height = 1 if runs else size
    scales = generator.uniform(0.001, 0.1, (n // height, k // size)).astype(np.float32)
    values = E4M3[codes] * np.kron(scales, np.ones((height, size), np.float32))
    kind = "float8_e4m3fn_block3d" if runs else "float8_e4m3fn_blockwise"
    tensors = {"weight": RawTensor("F8_E4M3", codes), "weight_scale": scales[..., None] if runs else scales}
    return Encoded(tensors, values, {"format": kind, "group_size": size}, "fp8 with block scales")


def int8(n: int, k: int, seed: int, *, scale: tuple[int, ...] | None = None, group: int | None = None) -> Encoded:
    """``scale``: shape; by default one per row. ``group``: rotated in groups of this size."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(-128, 128, (n, k)).astype(np.int8)
    shape = (n, 1) if scale is None else scale
    scales = generator.uniform(0.001, 0.01, shape).astype(np.float32)
    values = codes.astype(np.float32) * scales.reshape(-1, 1)
    tensors = {"weight": codes, "weight_scale": scales}
    if group is None:
        return Encoded(tensors, values, {"format": "int8_tensorwise"}, "int8")
    declared = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}
    return Encoded(tensors, rotated(values, group).astype(np.float32), declared, "int8 convrot")


def int8_blocks(n: int, k: int, seed: int, *, size: int) -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(-127, 128, (n, k)).astype(np.int8)
    scales = generator.uniform(0.001, 0.01, (n // size, k // size)).astype(np.float32)
    values = codes * np.kron(scales, np.ones((size, size), np.float32))
    declared = {"format": "int8_blockwise", "group_size": size}
    return Encoded({"weight": codes, "weight_scale": scales}, values, declared, "int8 with block scales")


def nvfp4(n: int, k: int, seed: int, *, raw_scales: bool = False) -> Encoded:
    generator = np.random.default_rng(seed)
    rows, columns = -(-n // 16) * 16, -(-k // 16) * 16
    codes = np.zeros((rows, columns), np.uint8)
    codes[:n, :k] = generator.integers(0, 16, (n, k))
    scales = np.zeros((rows, columns // 16), np.uint8)
    scales[:n] = generator.integers(1, 127, (n, columns // 16))
    whole = np.float32(generator.uniform(0.001, 0.01))
    values = np.array([[e2m1(int(code)) for code in row] for row in codes], np.float32)
    values = (values * np.repeat(E4M3[scales] * whole, 16, axis=1))[:n, :k]
    tensors = {
        "weight": nibbles(codes, high_first=True),
        "weight_scale": RawTensor("U8" if raw_scales else "F8_E4M3", tiled(scales, rows, columns // 16)),
        "weight_scale_2": np.array(whole),
    }
    return Encoded(tensors, values, {"format": "nvfp4"}, "nvfp4")


def mxfp8(n: int, k: int, seed: int, *, raw_scales: bool = False) -> Encoded:
    generator = np.random.default_rng(seed)
    rows, columns = -(-n // 32) * 32, -(-k // 32) * 32
    codes = np.zeros((rows, columns), np.uint8)
    codes[:n, :k] = finite_codes(generator, (n, k), 126)
    scales = np.zeros((rows, columns // 32), np.uint8)
    scales[:n] = generator.integers(110, 130, (n, columns // 32))
    scales[n // 2] = 0  # a row of blocks that count as zeros
    powers = np.where(scales == 0, 0.0, 2.0 ** (scales.astype(np.float64) - 127)).astype(np.float32)
    values = (E4M3[codes] * np.repeat(powers, 32, axis=1))[:n, :k]
    tensors = {
        "weight": RawTensor("F8_E4M3", codes),
        "weight_scale": RawTensor("U8" if raw_scales else "F8_E8M0", tiled(scales, rows, columns // 32)),
    }
    return Encoded(tensors, values, {"format": "mxfp8"}, "mxfp8")


def w4a8(
    n: int,
    k: int,
    seed: int,
    *,
    group: int = 16,
    rotated_group: int = 64,
    scales: str = "F8_E4M3",
    table: bool = False,
    correction: bool = False,
) -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 16, (n, k)).astype(np.uint8)
    codebook = (
        np.sort(generator.uniform(-12, 12, 16)).astype(np.float32) if table else np.arange(-8, 8, dtype=np.float32)
    )
    tensors: dict[str, Any] = {"weight": nibbles(codes).view(np.int8)}
    tensors |= {"weight_codebook": codebook} if table else {}
    return _leveled(generator, tensors, codebook[codes], n, k, group, rotated_group, scales, correction, "w4a8")


def w6a8(n: int, k: int, seed: int, *, group: int = 16, rotated_group: int = 64) -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 64, (n, k)).astype(np.uint8)
    high = codes >> 4
    pairs = high[:, 0::4] | high[:, 1::4] << 2 | high[:, 2::4] << 4 | high[:, 3::4] << 6
    packed = np.concatenate([nibbles(codes & 15), pairs], axis=1)
    values = codes.astype(np.float32) - 32
    tensors = {"weight": packed.view(np.int8)}
    return _leveled(generator, tensors, values, n, k, group, rotated_group, "F8_E4M3", False, "w6a8")


def _leveled(
    generator: np.random.Generator,
    tensors: dict[str, Any],
    values: Array,
    n: int,
    k: int,
    group: int,
    rotated_group: int,
    dtype: str,
    correction: bool,
    label: str,
) -> Encoded:
    codes = generator.integers(0x30, 0x60, (n, k // group)).astype(np.uint8)
    relative = E4M3[codes]
    if dtype == "F32":
        relative = generator.uniform(0.5, 30, (n, k // group)).astype(np.float32)
    channel = generator.uniform(0.001, 0.01, n).astype(np.float32)
    scaled = values * np.repeat(relative, group, axis=1)
    levels = np.clip(np.round(scaled), -127, 127).astype(np.float32)  # ties to even
    dense = levels * channel[:, None]
    tensors["weight_s_rel"] = relative if dtype == "F32" else RawTensor(dtype, codes)
    tensors["weight_s_channel"] = channel
    if correction:
        added = generator.normal(size=(k // group, n)).astype(np.float32)
        tensors["weight_correction"] = added
        dense = dense + np.repeat(added.T, group, axis=1)
    declared = {"format": "asym_w4a8_int8", "group_size": group, "convrot_groupsize": rotated_group}
    return Encoded(tensors, rotated(dense, rotated_group).astype(np.float32), declared, label)


def w4a4(n: int, k: int, seed: int, *, group: int = 64) -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(-8, 8, (n, k))
    scales = generator.uniform(0.01, 0.1, n).astype(np.float32)
    packed = nibbles((codes & 15).astype(np.uint8)).view(np.int8)
    values = rotated(codes.astype(np.float32) * scales[:, None], group).astype(np.float32)
    declared = {"format": "convrot_w4a4", "convrot_groupsize": group, "quant_group_size": 64, "linear_dtype": "int4"}
    return Encoded({"weight": packed, "weight_scale": scales}, values, declared, "w4a4")


def awq(n: int, k: int, seed: int, *, group: int = 64, zeros: str = "weight_zero", dtype: str = "float32") -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 16, (n, k)).astype(np.uint8)
    scales = generator.uniform(0.01, 0.1, (k // group, n)).astype(dtype)
    zero = generator.normal(size=(k // group, n)).astype(dtype)
    values = (codes.astype(np.float32) - 8) * np.repeat(scales.T.astype(np.float32), group, axis=1)
    values += np.repeat(zero.T.astype(np.float32), group, axis=1)
    tensors = {"weight": nibbles(codes).view(np.int8), "weight_scale": scales, zeros: zero}
    return Encoded(tensors, values, {"format": "awq_w4a16", "group_size": group}, "awq int4")


def affine(n: int, k: int, seed: int, *, bits: int, group: int, dtype: str = "float32") -> Encoded:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 2**bits, (n, k))
    scales = generator.uniform(0.01, 0.1, (n, k // group)).astype(dtype)
    zeros = generator.normal(size=(n, k // group)).astype(dtype)
    values = codes.astype(np.float32) * np.repeat(scales.astype(np.float32), group, axis=1)
    values += np.repeat(zeros.astype(np.float32), group, axis=1)
    return Encoded({"weight": words(codes, bits), "scales": scales, "biases": zeros}, values, label="MLX int")


def mlx_floats(n: int, k: int, seed: int, *, mode: str) -> Encoded:
    generator = np.random.default_rng(seed)
    bits, group = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}[mode]
    codes = generator.integers(0, 16, (n, k)) if bits == 4 else finite_codes(generator, (n, k), 126).astype(np.int64)
    scales = generator.integers(1, 127, (n, k // group)).astype(np.uint8)
    scales[0] = 0
    powers = E4M3[scales] if mode == "nvfp4" else (2.0 ** (scales.astype(np.float64) - 127)).astype(np.float32)
    plain = np.array([[e2m1(int(c)) for c in row] for row in codes], np.float32) if bits == 4 else E4M3[codes]
    values = plain * np.repeat(powers, group, axis=1)
    return Encoded({"weight": words(codes, bits), "scales": scales}, values, label=f"MLX {mode}")


# What is tried, on matrices of odd sizes and of more rows than are decoded at a time: name -> encoder, rows, columns.
Case = tuple[Callable[[int, int, int], Encoded], int, int]


def _with(encoder: Callable[..., Encoded], **options: Any) -> Callable[[int, int, int], Encoded]:
    return lambda n, k, seed: encoder(n, k, seed, **options)


CASES: dict[str, Case] = {
    "fp8": (_with(fp8), 37, 40),
    "fp8 [1]": (_with(fp8, scale=(1,)), 37, 40),
    "fp8 old name": (_with(fp8, name="scale_weight"), 37, 40),
    "fp8 in bytes": (_with(fp8, raw=True), 530, 24),
    "e5m2": (_with(fp8_e5m2), 530, 24),
    "e5m2 in bytes": (_with(fp8_e5m2, raw=True), 5, 24),
    "fp8 tiles": (_with(fp8_blocks, size=64, runs=False), 640, 128),
    "fp8 runs": (_with(fp8_blocks, size=32, runs=True), 530, 96),
    "int8 row": (_with(int8), 530, 40),
    "int8 row [N]": (_with(int8, scale=(37,)), 37, 40),
    "int8 tensor": (_with(int8, scale=()), 530, 40),
    "int8 tensor [1]": (_with(int8, scale=(1,)), 37, 40),
    "int8 tiles": (_with(int8_blocks, size=32), 544, 64),
    "convrot 4": (_with(int8, group=4), 37, 20),
    "convrot 16": (_with(int8, group=16), 530, 48),
    "convrot 64 tensor": (_with(int8, group=64, scale=()), 5, 192),
    "convrot 256": (_with(int8, group=256), 13, 768),
    "nvfp4": (_with(nvfp4), 530, 80),
    "nvfp4 padded": (_with(nvfp4, raw_scales=True), 13, 72),
    "nvfp4 several tiles": (_with(nvfp4), 300, 144),
    "mxfp8": (_with(mxfp8), 530, 96),
    "mxfp8 padded": (_with(mxfp8, raw_scales=True), 13, 72),
    "mxfp8 several tiles": (_with(mxfp8), 300, 288),
    "w4a8": (_with(w4a8), 530, 64),
    "w4a8 table": (_with(w4a8, table=True, scales="U8"), 13, 128),
    "w4a8 group 4": (_with(w4a8, group=4, scales="F32", rotated_group=16), 13, 48),
    "w4a8 correction": (_with(w4a8, group=32, correction=True), 13, 128),
    "w6a8": (_with(w6a8), 530, 64),
    "w6a8 group 32": (_with(w6a8, group=32, rotated_group=256), 13, 256),
    "w4a4": (_with(w4a4), 530, 64),
    "w4a4 256": (_with(w4a4, group=256), 13, 512),
    "awq": (_with(awq), 530, 128),
    "awq zeros": (_with(awq, group=32, zeros="weight_zeros", dtype="float16"), 13, 96),
    **{
        f"affine {bits} {group}": (_with(affine, bits=bits, group=group), 13, 2 * group)
        for bits in (2, 3, 4, 5, 6, 8)
        for group in (32, 64, 128)
    },
    "affine 6 halves": (_with(affine, bits=6, group=64, dtype="float16"), 530, 128),
    "mxfp4 of MLX": (_with(mlx_floats, mode="mxfp4"), 13, 96),
    "nvfp4 of MLX": (_with(mlx_floats, mode="nvfp4"), 530, 48),
    "mxfp8 of MLX": (_with(mlx_floats, mode="mxfp8"), 13, 96),
}


def encoded(case: str, seed: int = 3) -> Encoded:
    """A case of `CASES`."""
    encoder, rows, columns = CASES[case]
    return encoder(rows, columns, seed)

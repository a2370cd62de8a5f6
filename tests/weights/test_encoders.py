"""Encoders one by one: markers, groups, special values, and what GGML's own quantiser does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ltx2rt.convert.encoders.affine4 import Affine4
from ltx2rt.convert.encoders.cast import Cast
from ltx2rt.convert.encoders.encoder import Encoder
from ltx2rt.convert.encoders.float8 import Float8
from ltx2rt.convert.encoders.int8_convrot import Int8Convrot
from ltx2rt.convert.encoders.q8_0 import Q8_0
from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array
from ltx2rt.weights.rotation import rotate, rotation_matrix

ENCODERS = (Int8Convrot(), Float8(), Affine4(), Q8_0())


def encoded(encoder: Encoder, values: Array, slab: int = 3) -> dict[str, Array]:
    """Suffix -> everything that is written of a matrix, read some rows at a time."""

    def read() -> Iterator[Array]:
        yield from (values[first : first + slab] for first in range(0, len(values), slab))

    parts: dict[str, list[Array]] = {}
    for piece in encoder.pieces(read, values.shape, "file: layer"):
        for suffix, items in piece.items.items():
            flat = np.frombuffer(items, np.uint8) if isinstance(items, bytes) else items.reshape(-1)
            parts.setdefault(suffix, []).append(flat)
    return {suffix: np.concatenate(items) for suffix, items in parts.items()}


def normal(*shape: int) -> Array:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_bytes_are_as_many_as_announced_however_rows_are_read(encoder: Encoder) -> None:
    values = normal(10, 256)
    parts = encoded(encoder, values)
    assert {suffix: items.nbytes for suffix, items in parts.items()} == {
        suffix: entry.nbytes for suffix, entry in encoder.entries(values.shape).items()
    }
    whole = encoded(encoder, values, slab=10)
    assert {suffix: items.tobytes() for suffix, items in parts.items()} == {
        suffix: items.tobytes() for suffix, items in whole.items()
    }


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_values_that_are_no_numbers_are_refused(encoder: Encoder) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = normal(4, 64)
        values[3, 5] = bad
        with pytest.raises(CheckpointError, match="file: layer: holds values that are not finite"):
            encoded(encoder, values)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_zeros(encoder: Encoder) -> None:
    parts = encoded(encoder, np.zeros((4, 64), np.float32))
    for suffix in (".weight_scale", ".scales"):
        if suffix in parts:
            assert np.isfinite(parts[suffix].astype(np.float32)).all()
    if encoder.name != "mlx-int4":  # there a code means nothing without its zero
        assert not parts[".weight"].any()


@pytest.mark.parametrize(("columns", "group"), [(512, 256), (320, 64), (1040, 16), (36, 4)])
def test_marker_and_group_of_the_official_files(columns: int, group: int) -> None:
    text = f'{{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": {group}}}'
    assert encoded(Int8Convrot(), normal(4, columns))[".comfy_quant"].tobytes() == text.encode()
    assert Int8Convrot().entries((4, columns))[".weight_scale"].shape == (4, 1)


def test_rotation() -> None:
    for group in (4, 16, 64, 256):
        turned = rotation_matrix(group)
        assert (turned == turned.T).all()
        assert (turned @ turned == np.eye(group)).all()
        values = normal(3, 2 * group)
        rotated = (values.reshape(-1, group) @ turned).reshape(values.shape)
        assert np.abs(rotated - rotate(values, group)).max() < 1e-5
    assert (rotation_matrix(4) * 2 == [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]).all()


def test_shapes_that_do_not_fit() -> None:
    takes = {encoder.name: [n for n in (32, 34, 64, 96, 100) if encoder.takes((8, n))] for encoder in ENCODERS}
    assert takes == {
        "int8-convrot": [32, 64, 96, 100],
        "fp8": [32, 34, 64, 96, 100],
        "mlx-int4": [64],
        "gguf-q8_0": [32, 64, 96],
    }
    assert not any(encoder.takes((8, 8, 64)) for encoder in ENCODERS)


def test_q8_0_rounds_as_ggml_does() -> None:
    """Halves go away from zero; the scale is a float16; a block of zeros stays one."""
    values = np.zeros((2, 32), np.float32)
    values[0, :4] = 127.0, 0.5, -0.5, 1.5
    blocks = encoded(Q8_0(), values)[".weight"].reshape(-1, 34)
    assert blocks[0, :2].copy().view("<f2")[0] == 1
    assert blocks[0, 2:6].view(np.int8).tolist() == [127, 1, -1, 2]
    assert not blocks[1].any()


def test_q8_0_refuses_what_float16_cannot_scale() -> None:
    with pytest.raises(CheckpointError, match="file: layer: holds a value of 1e\\+07, too large"):
        encoded(Q8_0(), np.full((1, 32), 1e7, np.float32))


def test_fp8_uses_its_whole_range() -> None:
    values = normal(8, 64)
    parts = encoded(Float8(), values)
    assert parts[".weight_scale"][0] == np.float32(np.abs(values).max() / 448)
    assert (parts[".weight"] & 0x7F).max() == 0x7E  # 448


def test_casts_round_once() -> None:
    values = normal(5, 6, 7)
    assert encoded(Cast("F32"), values)[""].tobytes() == values.tobytes()
    half = encoded(Cast("F16"), values)[""]
    assert half.tobytes() == values.astype(np.float16).tobytes()
    pieces = list(Cast("BF16").pieces(lambda: iter([values]), values.shape, "x"))
    assert 0 < pieces[0].lost / pieces[0].energy < 2e-5

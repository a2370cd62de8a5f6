"""Block types of GGUF: every decoder against the `gguf` package, bit for bit, and what a file gives when loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import quants
from tiny_gguf import Stored, of_array, random_blocks, write_gguf

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import format_of
from ltx2rt.weights.formats.ggml import GGML_FORMATS
from ltx2rt.weights.formats.linear_format import Encoding
from ltx2rt.weights.tensor_source import entry

MODULE = "transformer_blocks.{}.attn1.to_q"
ROWS, COLUMNS = 600, 512  # more than one slab


def spec(block: int = 0, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> ParamSpec:
    return ParamSpec(f"{MODULE.format(block)}.weight", shape, layout="linear")


def checkpoint_of(path: Path, *tensors: Stored, **values: Any) -> Checkpoint:
    named = {f"{MODULE.format(index)}.weight": stored for index, stored in enumerate(tensors)}
    return Checkpoint.open(write_gguf(path / "a.gguf", named, {"general.architecture": "ltxv", **values}))


def decoded(stored: Stored) -> np.ndarray[Any, Any]:
    """float32 values as the `gguf` package gives them."""
    kind = gguf.GGMLQuantizationType[stored.dtype]
    return quants.dequantize(np.frombuffer(stored.data, np.uint8), kind).reshape(stored.shape)


def loaded(checkpoint: Checkpoint, wanted: ParamSpec) -> np.ndarray[Any, Any]:
    weight = checkpoint.load("transformer", [wanted])[wanted.name]
    assert isinstance(weight, LinearWeight)
    assert weight.mode == "dense"
    assert weight.values.dtype == mx.bfloat16
    return np.array(weight.values.astype(mx.float32))


def to_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def test_every_block_type_has_a_format_and_the_sizes_of_the_gguf_package() -> None:
    assert {known.name for known in GGML_FORMATS} == set(BLOCK_TYPES)
    for name, block in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, gguf.GGML_QUANT_SIZES[kind]) == (block.number, (block.values, block.nbytes))
        assert format_of(Encoding(entry(name, (4, 256)))).name == name


@pytest.mark.parametrize("known", GGML_FORMATS, ids=lambda known: known.name)
def test_decoding_is_that_of_the_gguf_package(known: Any) -> None:
    """Any bytes, scales of either sign and any size, but for those that are not finite."""
    block = BLOCK_TYPES[known.name]
    blocks = np.random.default_rng(block.number).integers(0, 256, (3000, block.nbytes), np.uint8)
    for at in block.halves:
        blocks[:, at + 1] = np.where(blocks[:, at + 1] & 0x7C == 0x7C, 0x3B, blocks[:, at + 1])
    for at in block.exponents:
        blocks[:, at] = np.minimum(blocks[:, at], 252)
    ours = known.decode(blocks)
    theirs = quants.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType[known.name]).reshape(-1, block.values)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


# Block type -> how the kernels get it, if it is not dense.
MODES = {
    "Q8_0": "q8_0",
    "Q4_K": "q4_k",
    "Q5_K": "q5_k",
    "Q6_K": "q6_k",
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1"), "affine"),
}


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_loaded_matrix(tmp_path: Path, dtype: str) -> None:
    stored = random_blocks(dtype, (ROWS, COLUMNS))
    checkpoint = checkpoint_of(tmp_path, stored)
    assert checkpoint.formats("transformer") == {dtype: 1}
    (weight,) = checkpoint.load("transformer", [spec()]).values()
    assert isinstance(weight, LinearWeight)
    assert weight.mode == MODES.get(dtype, "dense")
    values = decoded(stored)
    if weight.mode == "dense":
        values = to_bf16(values)
    np.testing.assert_allclose(np.array(dequantise(weight)), values, rtol=1e-6, atol=1e-6 * np.abs(values).max())
    planned = checkpoint.loaded_bytes("transformer", [spec()])
    assert planned.arrays == weight.nbytes
    assert planned.made == (0 if weight.mode == dtype.lower() else weight.nbytes)


def test_rows_of_an_embedding(tmp_path: Path) -> None:
    stored = random_blocks("Q8_0", (ROWS, COLUMNS))
    checkpoint = checkpoint_of(tmp_path, stored)
    rows = checkpoint.load_rows("transformer", spec(), [599, 3, 4])
    assert isinstance(rows, LinearWeight)
    values = np.array(rows.values.astype(mx.float32))
    np.testing.assert_array_equal(values, to_bf16(decoded(stored)[[599, 3, 4]]))


def test_matrix_whose_rows_are_no_whole_blocks(tmp_path: Path) -> None:
    """Packed under another shape, which ``comfy.gguf.orig_shape`` undoes; 2560 rows of 80 are five slabs."""
    stored = random_blocks("Q6_K", (800, 256))
    key = f"comfy.gguf.orig_shape.{MODULE.format(0)}.weight"
    checkpoint = checkpoint_of(tmp_path, stored, **{key: np.array([2560, 80])})
    values = loaded(checkpoint, spec(shape=(2560, 80)))
    np.testing.assert_array_equal(values, to_bf16(decoded(stored)).reshape(2560, 80))


def test_streamed_blocks_are_those_that_are_loaded(tmp_path: Path) -> None:
    tensors = [random_blocks("Q4_K", (ROWS, COLUMNS), 1), random_blocks("Q6_K", (ROWS, COLUMNS), 2)]
    tensors += [random_blocks("Q4_K", (ROWS, COLUMNS), 3), of_array(np.ones((ROWS, COLUMNS), np.float16))]
    checkpoint = checkpoint_of(tmp_path, *tensors)
    stream = checkpoint.stream("transformer", [[spec(index)] for index in range(4)])
    for index in (0, 1, 2, 3, 0, 2, 1):
        (streamed,) = stream(index).values()
        (whole,) = checkpoint.load("transformer", [spec(index)]).values()
        assert isinstance(streamed, LinearWeight)
        assert isinstance(whole, LinearWeight)
        assert mx.array_equal(streamed.values, whole.values)
    stream.clear()


def test_bytes_that_are_planned(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, random_blocks("Q3_K", (ROWS, COLUMNS)))
    planned = checkpoint.loaded_bytes("transformer", [spec()])
    assert planned.stored == ROWS * COLUMNS // 256 * 110
    assert planned.arrays == planned.made == ROWS * COLUMNS * 2
    assert planned.loading > 0


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    stored = random_blocks("Q8_0", (ROWS, COLUMNS))
    data = bytearray(stored.data)
    data[34 * 700 : 34 * 700 + 2] = b"\x00\x7c"
    checkpoint = checkpoint_of(tmp_path, stored._replace(data=bytes(data)))
    with pytest.raises(CheckpointError, match=r"to_q.weight': 32 of \d+ values are not finite numbers"):
        checkpoint.load("transformer", [spec()])


def test_another_shape_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, random_blocks("Q4_0", (ROWS, COLUMNS)))
    with pytest.raises(CheckpointError, match=r"is Q4_0 \[600, 512\], expected \[512, 600\]"):
        checkpoint.load("transformer", [spec(shape=(512, 600))])

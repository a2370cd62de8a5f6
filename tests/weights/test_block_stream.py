"""Streamed blocks: what loading gives, in any order, with reads ahead, and clear ends."""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights import positioned_file
from ltx2rt.weights.block_stream import BlockLayout, BlockStream, slots_bytes
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.positioned_file import PositionedFile
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, SelectedRows, write_safetensors

PREFIX = "model.diffusion_model.transformer_blocks"
BLOCKS = 5


def specs(index: int) -> list[ParamSpec]:
    name = f"transformer_blocks.{index}"
    return [
        ParamSpec(f"{name}.attn1.to_q.weight", (64, 64), layout="linear"),
        ParamSpec(f"{name}.attn1.to_q.bias", (64,)),
        ParamSpec(f"{name}.attn1.to_k.weight", (64, 64), layout="linear"),
        ParamSpec(f"{name}.scale_shift_table", (6, 64), "F32"),
    ]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Blocks in three precisions, as in published FP8 files whose first and last blocks are bf16."""
    rng = np.random.default_rng(0)
    tensors: dict[str, mx.array | np.ndarray | RawTensor] = {}
    for index in range(BLOCKS):
        name = f"{PREFIX}.{index}"
        for layer in ("to_q", "to_k"):
            values = rng.standard_normal((64, 64)).astype(np.float32)
            base = f"{name}.attn1.{layer}"
            if index in (1, 2):
                tensors[f"{base}.weight"] = RawTensor("F8_E4M3", encode_e4m3(values))
                tensors[f"{base}.weight_scale"] = np.array(0.5 + index, np.float32)
            elif index == 3:
                packed, scales, biases = mx.quantize(mx.array(values).astype(mx.bfloat16), group_size=32, bits=4)
                tensors |= {f"{base}.weight": packed, f"{base}.scales": scales, f"{base}.biases": biases}
            else:
                tensors[f"{base}.weight"] = mx.array(values).astype(mx.bfloat16)
        tensors[f"{name}.attn1.to_q.bias"] = mx.array(rng.standard_normal(64)).astype(mx.bfloat16)
        tensors[f"{name}.scale_shift_table"] = rng.standard_normal((6, 64)).astype(np.float32)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)
    return Checkpoint.open(path)


def stream_of(checkpoint: Checkpoint, depth: int = 2) -> BlockStream:
    return checkpoint.stream("transformer", [specs(index) for index in range(BLOCKS)], depth=depth)


def assert_same(one: mx.array | LinearWeight, other: mx.array | LinearWeight) -> None:
    if isinstance(one, LinearWeight):
        assert isinstance(other, LinearWeight)
        assert (one.mode, one.group_size, one.bits) == (other.mode, other.group_size, other.bits)
        pairs = [(a, b) for a, b in zip(one[1:4], other[1:4], strict=True) if a is not None or b is not None]
    else:
        pairs = [(one, other)]
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_are_those_that_loading_gives_in_any_order(checkpoint: Checkpoint, depth: int) -> None:
    stream = stream_of(checkpoint, depth)
    for index in (0, 1, 2, 3, 4, 0, 1, 4, 4, 2, 0):
        arrays = stream(index)
        loaded = checkpoint.load("transformer", specs(index))
        assert arrays.keys() == loaded.keys()
        for name, value in arrays.items():
            assert_same(value, loaded[name])
    stream.clear()


def test_neighbours_in_the_file_are_one_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {name: np.full(3, index, np.float32) for index, name in enumerate("abcd")})
    file = SafetensorsFile(path)
    layout = BlockLayout.of([(file, "d"), (file, "a"), (file, "b")])
    assert [[place.name for place in run] for run in layout.reads] == [["a", "b"], ["d"]]
    assert layout.nbytes == 36
    assert layout.counts == {("F32", (3,)): 3}


def test_the_next_block_is_read_while_one_is_used(checkpoint: Checkpoint) -> None:
    stream = stream_of(checkpoint)
    stream(0)
    one_block = sum(info.nbytes for name, info in checkpoint.names("transformer").items() if "blocks.0." in name)
    deadline = time.monotonic() + 5
    while stream.bytes_read <= one_block and time.monotonic() < deadline:
        time.sleep(0.001)
    assert stream.bytes_read > one_block
    assert stream.waited_seconds >= 0
    stream.clear()


def test_slots_hold_what_was_said(checkpoint: Checkpoint) -> None:
    assert slots_bytes([5, 1, 1, 4], 2) == 9  # the last block and, behind it, the first
    assert slots_bytes([5, 1], 3) == 6
    stream = stream_of(checkpoint)
    gc.collect()
    mx.clear_cache()  # a larger buffer that another test left would be taken and counted whole
    before = mx.get_active_memory()
    for index in range(BLOCKS):
        stream(index)
    assert mx.get_active_memory() - before <= stream.nbytes
    stream.clear()
    assert mx.get_active_memory() < before + 1


def test_clearing_ends_the_reader(checkpoint: Checkpoint) -> None:
    before = set(threading.enumerate())
    stream = stream_of(checkpoint)
    arrays = stream(0)
    started = set(threading.enumerate()) - before
    assert [thread.name for thread in started] == ["ltx2rt-reader_0"]
    stream.clear()
    assert arrays == {}
    assert not started & set(threading.enumerate())


def test_a_file_that_shrinks_between_blocks(checkpoint: Checkpoint) -> None:
    stream = stream_of(checkpoint, depth=1)
    stream(0)
    with checkpoint.path.open("r+b") as file:
        file.truncate(checkpoint.path.stat().st_size // 4)
    with pytest.raises(CheckpointError, match="shrank from"):
        deque((stream(index) for index in range(1, BLOCKS)), maxlen=0)
    stream.clear()


def test_missing_tensors_are_named_before_anything_is_read(checkpoint: Checkpoint) -> None:
    wanted = [*specs(0), ParamSpec("transformer_blocks.0.attn1.to_v.weight", (64, 64), layout="linear")]
    with pytest.raises(CheckpointError, match=r"1 tensors missing: transformer_blocks\.0\.attn1\.to_v\.weight"):
        checkpoint.stream("transformer", [wanted])
    with pytest.raises(ValueError, match="depth must be at least 1"):
        stream_of(checkpoint, depth=0)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_rows_of_a_matrix(checkpoint: Checkpoint, index: int) -> None:
    spec = specs(index)[0]
    whole = checkpoint.load("transformer", [spec])[spec.name]
    rows = [3, 4, 5, 0, 63, 3]
    some = checkpoint.load_rows("transformer", spec, rows)
    assert isinstance(whole, LinearWeight)
    assert isinstance(some, LinearWeight)
    per_row = whole.mode == "affine"
    picked = whole._replace(
        values=whole.values[mx.array(rows)],
        scale=whole.scale[mx.array(rows)] if per_row else whole.scale,
        zero=whole.zero[mx.array(rows)] if per_row else whole.zero,
    )
    assert_same(some, picked)


def test_selected_rows_read_no_more_than_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": np.arange(600, dtype=np.float32).reshape(100, 6)})
    file = SafetensorsFile(path)
    sizes = []
    original = PositionedFile.read_into

    def counted(self: PositionedFile, offset: int, *targets: memoryview) -> None:
        sizes.append(sum(len(target) for target in targets))
        original(self, offset, *targets)

    monkeypatch.setattr(PositionedFile, "read_into", counted)
    rows = SelectedRows(file, [7, 8, 2], 100).numpy("x")
    np.testing.assert_array_equal(rows[:, 0], [42, 48, 12])
    assert sizes == [48, 24]


def test_reads_are_scattered_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positioned_file, "_BYTES_PER_READ", 7)
    monkeypatch.setattr(positioned_file, "_TARGETS_PER_READ", 2)
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    targets = [bytearray(n) for n in (3, 0, 20, 1, 1, 1, 30)]
    PositionedFile(path).read_into(10, *(memoryview(target) for target in targets))
    assert b"".join(targets) == bytes(range(10, 66))

"""Streams the blocks of a model from disk: a reader thread fetches the next ones while one computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import LinearWeight
from ltx2rt.weights.positioned_file import PositionedFile
from ltx2rt.weights.safetensors import SafetensorsFile
from ltx2rt.weights.tensor_source import DTYPES, Array, TensorInfo, TensorSource, check_dimensions, to_mlx

Loaded = mx.array | LinearWeight
Wanted = tuple[SafetensorsFile, str]

# Reads begin at multiples of this in a slot; kernels prefer weights that start on a cache line.
_ALIGNMENT = 64


class _Read(NamedTuple):
    """A range of a file and where in a slot it goes."""

    file: PositionedFile
    offset: int
    start: int
    nbytes: int


@dataclass(frozen=True)
class BlockLayout:
    """Where the tensors of one block lie in a slot.

    Attributes:
        reads: tensors that are neighbours in the file are one read.
        places: position and entry of each tensor, by file and name.
        nbytes: length of the slot that is needed.
    """

    reads: tuple[_Read, ...]
    places: Mapping[tuple[Path, str], tuple[int, TensorInfo]]
    nbytes: int

    @classmethod
    def of(cls, wanted: Sequence[Wanted]) -> BlockLayout:
        """The layout of some tensors, each named once."""
        ordered = sorted(wanted, key=lambda item: (str(item[0].path), item[0].info(item[1]).offset))
        reads: list[_Read] = []
        places = {}
        end = 0
        for file, name in ordered:
            info = file.info(name)
            follows = bool(reads) and reads[-1].file is file.file and reads[-1].offset + reads[-1].nbytes == info.offset
            if follows and end % DTYPES[info.dtype].itemsize == 0:
                reads[-1] = reads[-1]._replace(nbytes=reads[-1].nbytes + info.nbytes)
            else:
                end = -(-end // _ALIGNMENT) * _ALIGNMENT
                reads.append(_Read(file.file, info.offset, end, info.nbytes))
            places[file.path, name] = end, info
            end += info.nbytes
        return cls(tuple(reads), places, end)


class _Slot:
    """Memory for one block: an MLX array, and the same bytes as the reader thread sees them."""

    def __init__(self, nbytes: int) -> None:
        self.array = mx.zeros((max(1, nbytes),), dtype=mx.uint8)
        mx.eval(self.array)
        self.items: Array = np.array(self.array, copy=False)


class SlotTensors(TensorSource):
    """The tensors of one file in a filled slot. MLX arrays are windows of the slot, valid until it is filled again."""

    def __init__(self, path: Path, layout: BlockLayout, slot: _Slot) -> None:
        self.path = path
        self._layout = layout
        self._slot = slot

    def info(self, name: str) -> TensorInfo:
        return self._layout.places[self.path, name][1]

    def raw(self, name: str) -> Array:
        start, info = self._layout.places[self.path, name]
        return self._slot.items[start : start + info.nbytes].view(DTYPES[info.dtype].numpy).reshape(info.shape)

    def read_into(self, name: str, target: memoryview) -> None:
        start, info = self._layout.places[self.path, name]
        target[:] = self._slot.items[start : start + info.nbytes].data

    def mlx(self, name: str) -> mx.array:
        start, info = self._layout.places[self.path, name]
        dtype = mx.bfloat16 if info.dtype == "BF16" else DTYPES[info.dtype].mlx
        if dtype is None or info.size == 0:
            return to_mlx(self.raw(name), info.dtype, f"{self.path}: tensor {name!r}")
        check_dimensions(info.shape, f"{self.path}: tensor {name!r}")
        return self._slot.array[start : start + info.nbytes].view(dtype).reshape(info.shape)


Build = Callable[[int, Callable[[SafetensorsFile], TensorSource]], dict[str, Loaded]]


class BlockStream:
    """The blocks of a model, one at a time, in turn: the block after the last is the first.

    Args:
        layouts: of the blocks.
        build: makes the arrays of block ``index`` from the tensors of a slot; second argument: file -> its tensors
            there. Runs in the thread that asks for the block.
        depth: slots; depth - 1 blocks are read ahead.

    Attributes:
        bytes_read: by the reader so far.
        read_seconds: the reader has spent reading.
        waited_seconds: the caller has spent waiting for the reader.
    """

    def __init__(self, layouts: Sequence[BlockLayout], build: Build, depth: int = 2) -> None:
        if depth < 1 or not layouts:
            raise ValueError(f"depth must be at least 1 and there must be blocks, got {depth} and {len(layouts)}.")
        self.bytes_read = 0
        self.read_seconds = 0.0
        self.waited_seconds = 0.0
        self._layouts = layouts
        self._build = build
        self._free = [_Slot(self.slot_bytes) for _ in range(min(depth, len(layouts)))]
        self._depth = len(self._free)
        self._coming: list[tuple[int, _Slot, Future[None]]] = []
        self._current: tuple[_Slot, dict[str, Loaded]] | None = None
        self._closing = threading.Event()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ltx2rt-reader")

    @property
    def slot_bytes(self) -> int:
        """Length of each slot."""
        return max(layout.nbytes for layout in self._layouts)

    @property
    def nbytes(self) -> int:
        """What the slots take."""
        return self._depth * self.slot_bytes

    def __call__(self, index: int) -> dict[str, Loaded]:
        """The arrays of block ``index``. Those of the block before must not be needed any more.

        Raises:
            CheckpointError: the file shrank or cannot be read.
        """
        self._release()
        if self._coming and self._coming[0][0] != index:
            self._drop_coming()
        self._fetch_from(index)
        _, slot, arrival = self._coming.pop(0)
        start = time.perf_counter()
        try:
            arrival.result()
        finally:
            self.waited_seconds += time.perf_counter() - start
        layout = self._layouts[index]
        arrays = self._build(index, lambda file: SlotTensors(file.path, layout, slot))
        self._current = slot, arrays
        return arrays

    def clear(self) -> None:
        """Stop reading and give the slots back; nothing can be asked for afterwards."""
        self._closing.set()
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._release()
        self._coming.clear()
        self._free.clear()

    def _release(self) -> None:
        if self._current is not None:
            slot, arrays = self._current
            arrays.clear()
            self._free.append(slot)
            self._current = None

    def _drop_coming(self) -> None:
        for _, slot, arrival in self._coming:
            if not arrival.cancel():
                arrival.exception()  # waits
            self._free.append(slot)
        self._coming.clear()

    def _fetch_from(self, index: int) -> None:
        """Have block ``index`` and as many after it as there are slots on the way."""
        while self._free and len(self._coming) < self._depth:
            following = (index + len(self._coming)) % len(self._layouts)
            slot = self._free.pop()
            try:
                arrival = self._reader.submit(self._read, self._layouts[following], slot)
            except RuntimeError as error:
                self._free.append(slot)
                raise CheckpointError(f"cannot start the thread that reads weights ({error}).") from error
            self._coming.append((following, slot, arrival))

    def _read(self, layout: BlockLayout, slot: _Slot) -> None:
        start = time.perf_counter()
        for read in layout.reads:
            read.file.announce(read.offset, read.nbytes)
        target = slot.items.data
        for read in layout.reads:
            if self._closing.is_set():
                return
            read.file.read_into(read.offset, target[read.start : read.start + read.nbytes])
            self.bytes_read += read.nbytes
        self.read_seconds += time.perf_counter() - start

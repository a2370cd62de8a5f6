"""Streams the blocks of a model from disk: a reader thread fetches the next ones while one computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.tensor_source import (
    Rows,
    TensorInfo,
    TensorSource,
    WeightFile,
    bytes_of,
    check_dimensions,
    to_mlx,
)

Loaded = mx.array | LinearWeight
Wanted = tuple[WeightFile, str]

Kind = tuple[str, tuple[int, ...]]


class _Place(NamedTuple):
    """A tensor of a block: file and name, its entry, and which array of its kind in the slot holds it."""

    file: WeightFile
    name: str
    info: TensorInfo
    number: int

    @property
    def kind(self) -> Kind:
        """What arrays must have in common to hold it."""
        return self.info.dtype, self.info.shape


@dataclass(frozen=True)
class BlockLayout:
    """The tensors of one block.

    Attributes:
        reads: runs of tensors that are neighbours in their file: each is one read.
        counts: how many arrays of each kind they need.
    """

    reads: tuple[tuple[_Place, ...], ...]
    counts: Mapping[Kind, int]

    @classmethod
    def of(cls, wanted: Sequence[Wanted]) -> BlockLayout:
        """The layout of some tensors, each named once."""
        ordered = sorted(wanted, key=lambda item: (str(item[0].path), item[0].info(item[1]).offset))
        reads: list[list[_Place]] = []
        counts: dict[Kind, int] = {}
        for file, name in ordered:
            info = file.info(name)
            kind = info.dtype, info.shape
            place = _Place(file, name, info, counts.get(kind, 0))
            counts[kind] = place.number + 1
            last = reads[-1][-1] if reads else None
            if last is not None and last.file is file and last.info.offset + last.info.nbytes == info.offset:
                reads[-1].append(place)
            else:
                reads.append([place])
        return cls(tuple(tuple(run) for run in reads), counts)

    @property
    def nbytes(self) -> int:
        return sum(place.info.nbytes for run in self.reads for place in run)


class _Held(NamedTuple):
    """Memory of one tensor: an MLX array, and the same items as the reader thread sees them."""

    array: mx.array
    items: Array


class _Slot:
    """Memory for one block. What the next block can use again is kept, the rest is replaced."""

    def __init__(self) -> None:
        self._held: dict[Kind, list[_Held]] = {}

    def prepare(self, counts: Mapping[Kind, int]) -> None:
        """Have as many arrays of each kind as are wanted, and no others."""
        for kind in list(self._held):
            del self._held[kind][counts.get(kind, 0) :]
            if not self._held[kind]:
                del self._held[kind]
        for kind, count in counts.items():
            held = self._held.setdefault(kind, [])
            while len(held) < count:
                held.append(_new(*kind))

    def held(self, place: _Place) -> _Held:
        return self._held[place.kind][place.number]


def _new(dtype: str, shape: tuple[int, ...]) -> _Held:
    numpy, kind, raw = TensorInfo(dtype, shape).raw
    if kind is None or 0 in shape:  # for numpy alone
        items: Array = np.empty(raw, numpy)
        return _Held(mx.zeros(0), items)
    array = uninitialized(raw, kind)
    return _Held(array, writable_view(array))


class SlotTensors(TensorSource):
    """The tensors of one file in a filled slot. MLX arrays are the slot's own, valid until it is filled again."""

    def __init__(self, file: WeightFile, layout: BlockLayout, slot: _Slot) -> None:
        self.path = file.path
        self._places = {place.name: place for run in layout.reads for place in run if place.file is file}
        self._slot = slot

    def info(self, name: str) -> TensorInfo:
        return self._places[name].info

    def raw(self, name: str, *, finite: bool = False) -> Array:
        items = self._slot.held(self._places[name]).items
        if finite:
            require_finite(items, self._places[name].info.dtype, self.where(name))
        return items

    def rows(self, name: str, rows: Rows) -> Array:
        part: Array = self.raw(name)[rows]
        return part

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        target[:] = bytes_of(self.raw(name))[start : start + len(target)]

    def mlx(self, name: str, *, finite: bool = False) -> mx.array:
        place = self._places[name]
        where = self.where(name)
        check_dimensions(place.info.raw.shape, where)
        if finite:
            require_finite(self.raw(name), place.info.dtype, where)
        if place.info.raw.mlx is None or place.info.size == 0:
            return to_mlx(self.raw(name), place.info.dtype, where)
        array = self._slot.held(place).array
        return array.view(mx.bfloat16) if place.info.dtype == "BF16" else array


Build = Callable[[int, Callable[[WeightFile], TensorSource]], dict[str, Loaded]]


def slots_bytes(blocks: Sequence[int], depth: int) -> int:
    """Most bytes of ``depth`` slots that blocks of these sizes go through in turn, again and again."""
    count = len(blocks)
    return max(sum(blocks[(first + i) % count] for i in range(min(depth, count))) for first in range(count))


class BlockStream:
    """The blocks of a model, one at a time, in turn: the block after the last is the first.

    Args:
        layouts: of the blocks.
        build: makes the arrays of block ``index`` from the tensors of a slot; second argument: file -> its tensors
            there. Runs in the thread that asks for the block.
        depth: slots; depth - 1 blocks are read ahead.
        uses: how many blocks will be asked for in all, after which none is read ahead; None: unknown.

    Attributes:
        bytes_read: by the reader so far.
        read_seconds: the reader has spent reading.
        waited_seconds: the caller has spent waiting for the reader.
    """

    def __init__(self, layouts: Sequence[BlockLayout], build: Build, depth: int = 2, uses: int | None = None) -> None:
        if depth < 1 or not layouts:
            raise ValueError(f"depth must be at least 1 and there must be blocks, got {depth} and {len(layouts)}.")
        self.bytes_read = 0
        self.read_seconds = 0.0
        self.waited_seconds = 0.0
        self._layouts = layouts
        self._build = build
        self._free = [_Slot() for _ in range(min(depth, len(layouts)))]
        self._depth = len(self._free)
        self._coming: list[tuple[int, _Slot, Future[None]]] = []
        self._current: tuple[_Slot, dict[str, Loaded]] | None = None
        self._left = uses
        self._following = 0
        self._closing = threading.Event()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ltx2rt-reader")

    @property
    def nbytes(self) -> int:
        """Most bytes of all slots together."""
        return slots_bytes([layout.nbytes for layout in self._layouts], self._depth)

    def __call__(self, index: int) -> dict[str, Loaded]:
        """The arrays of block ``index``. Those of the block before must not be needed any more.

        Raises:
            CheckpointError: the file shrank or cannot be read.
        """
        self._release()
        if self._coming and self._coming[0][0] != index:
            self._drop_coming()
        self._fetch_from(index, at_least=1)
        self._following = (index + 1) % len(self._layouts)
        if self._left is not None:
            self._left -= 1
        _, slot, arrival = self._coming.pop(0)
        start = time.perf_counter()
        try:
            arrival.result()
        finally:
            self.waited_seconds += time.perf_counter() - start
        layout = self._layouts[index]
        arrays = self._build(index, lambda file: SlotTensors(file, layout, slot))
        self._current = slot, arrays
        return arrays

    def release(self) -> None:
        """Say that the block that was asked for last is not needed any more: its slot is filled with a coming one."""
        if self._current is not None:
            self._release()
            self._fetch_from(self._following)

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

    def _fetch_from(self, index: int, at_least: int = 0) -> None:
        """Have block ``index`` and as many after it as there are slots on the way, and as will be asked for."""
        wanted = self._depth if self._left is None else min(self._depth, max(at_least, self._left))
        while self._free and len(self._coming) < wanted:
            following = (index + len(self._coming)) % len(self._layouts)
            slot = self._free.pop()
            slot.prepare(self._layouts[following].counts)
            try:
                arrival = self._reader.submit(self._read, self._layouts[following], slot)
            except RuntimeError as error:
                self._free.append(slot)
                raise CheckpointError(f"cannot start the thread that reads weights ({error}).") from error
            self._coming.append((following, slot, arrival))

    def _read(self, layout: BlockLayout, slot: _Slot) -> None:
        start = time.perf_counter()
        for run in layout.reads:
            if self._closing.is_set():
                return
            targets = [bytes_of(slot.held(place).items) for place in run]
            run[0].file.read_neighbours([place.name for place in run], targets)
            self.bytes_read += sum(place.info.nbytes for place in run)
        self.read_seconds += time.perf_counter() - start

"""The one place that frees memory: a stage holds arrays while it runs and empties them when it ends."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import mlx.core as mx

from ltx2rt.errors import Ltx2rtError, OutOfMemory
from ltx2rt.memory.allocator import give_back, settled
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.limits import format_bytes, tightest_limit
from ltx2rt.memory.measure import reset_resident_peak, resident_peak_bytes
from ltx2rt.memory.need import Need
from ltx2rt.refusals import memory_was_refused
from ltx2rt.types import LinearWeight


class Stream(Protocol):
    """Weights that come and go: buffers held by a stage that are filled again and again."""

    bytes_read: int
    read_seconds: float
    waited_seconds: float

    @property
    def nbytes(self) -> int:
        """Of the buffers."""

    def clear(self) -> None:
        """Stop, and drop the buffers."""


AnyStream = TypeVar("AnyStream", bound=Stream)


@dataclass(frozen=True)
class StageReport:
    """What one stage cost.

    Attributes:
        name: stage name.
        seconds: wall time from entering to having emptied it.
        weight_bytes: arrays and buffers held by the stage.
        peak_bytes: peak of MLX's allocator during the stage.
        resident_peak_bytes: peak resident set of the process during the stage; None where the system, macOS for one,
            only tells the peak since the process began.
        left_bytes: what MLX still held after the stage was emptied.
        loaded_bytes: the part of ``weight_bytes`` that was read from files, as arrays.
        window: of a clip that is made in several, from 1; 0: of all of it.
        kept_bytes: weights of this and earlier stages that stay for later ones and later calls; 0: each frees its own.
        planned_peak_bytes: the resident peak that was predicted; 0 without a plan.
        streamed_bytes: weights read from disk while the stage ran.
        read_seconds: the reader thread spent reading them.
        waited_seconds: the computation waited for them.
    """

    name: str
    seconds: float
    weight_bytes: int
    peak_bytes: int
    resident_peak_bytes: int | None
    left_bytes: int
    planned_peak_bytes: int = 0
    streamed_bytes: int = 0
    read_seconds: float = 0.0
    waited_seconds: float = 0.0
    loaded_bytes: int = 0
    kept_bytes: int = 0
    window: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stage:
    """A running stage. What is given to `hold` and `hold_stream` is emptied when the stage ends.

    Args:
        name: of the stage.
        need: what it declared.
        ledger: the accounts it is held to.
    """

    def __init__(self, name: str, need: Need | None = None, ledger: Ledger | None = None) -> None:
        self.name = name
        self.weight_bytes = 0
        self.loaded_bytes = 0
        self.streams: list[Stream] = []
        self._need = need
        self._ledger = ledger
        self._held: list[dict[str, Any]] = []

    def hold(self, arrays: dict[str, Any], loaded: int | None = None) -> dict[str, Any]:
        """Take ownership of a component's arrays until the stage ends; returns the same mapping.

        Args:
            arrays: emptied when the stage ends; arrays that somebody else keeps stay with them.
            loaded: bytes of them that were read from files; None: all.
        """
        self._held.append(arrays)
        nbytes = sum(_nbytes(a) for a in arrays.values())
        self.loaded_bytes += nbytes if loaded is None else loaded
        self._count(nbytes)
        return arrays

    def hold_stream(self, stream: AnyStream) -> AnyStream:
        """Take ownership of streamed weights until the stage ends; returns the same stream."""
        self.streams.append(stream)
        self._count(stream.nbytes)
        return stream

    def _count(self, nbytes: int) -> None:
        self.weight_bytes += nbytes
        if self._ledger is not None and self._need is not None:
            self._ledger.charge(self._need, self.weight_bytes)

    def empty(self) -> None:
        """Drop everything held, wait for running work and give the memory back."""
        for stream in self.streams:
            stream.clear()
        for arrays in self._held:
            arrays.clear()
        self._held.clear()
        mx.synchronize()
        gc.collect()
        give_back()


class StageRunner:
    """Runs stages one after the other and keeps a report of each.

    Args:
        ledger: the accounts that stages are admitted to.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.reports: list[StageReport] = []
        self.ledger = ledger

    @contextmanager
    def stage(self, name: str, need: Need | None = None) -> Iterator[Stage]:
        """Enter a stage; on leaving, also by an exception, it is emptied and the report is written.

        Raises:
            MemoryBudgetError: the stage is not admitted.
            OutOfMemory: the system refused it memory while it ran.
        """
        with settled():
            yield from self._run(name, need)

    def _run(self, name: str, need: Need | None) -> Iterator[Stage]:
        if self.ledger is not None and need is not None:
            self.ledger.admit(need)
        stage = Stage(name, need, self.ledger)
        mx.reset_peak_memory()
        knows_peak = reset_resident_peak()
        start = time.perf_counter()
        refusal: str | None = None
        try:
            yield stage
        except (MemoryError, RuntimeError, OSError) as error:
            if isinstance(error, Ltx2rtError) or not memory_was_refused(error):
                raise
            refusal = str(error)
        finally:
            peak = mx.get_peak_memory()
            resident = resident_peak_bytes() if knows_peak else None
            stage.empty()
            self.reports.append(
                StageReport(
                    name=name,
                    seconds=time.perf_counter() - start,
                    weight_bytes=stage.weight_bytes,
                    peak_bytes=peak,
                    resident_peak_bytes=resident,
                    left_bytes=mx.get_active_memory(),
                    planned_peak_bytes=0 if need is None or self.ledger is None else self.ledger.peak(need),
                    streamed_bytes=sum(stream.bytes_read for stream in stage.streams),
                    read_seconds=sum(stream.read_seconds for stream in stage.streams),
                    waited_seconds=sum(stream.waited_seconds for stream in stage.streams),
                    loaded_bytes=stage.loaded_bytes,
                    kept_bytes=0 if need is None else need.left,
                    window=0 if need is None else need.window,
                )
            )
        if refusal is not None:
            # Raised here, after the stage is empty.
            raise OutOfMemory(_out_of_memory(name, need, refusal)) from None


def _out_of_memory(name: str, need: Need | None, refusal: str) -> str:
    limit = tightest_limit()
    return (
        f"stage {name!r} ran out of memory ({refusal or 'the system refused it'}); the {limit.reason} leaves "
        f"{format_bytes(limit.spare)} more. Give a budget below that with --memory, so that the run is planned for it, "
        f"or {need.advice if need is not None and need.advice else 'run with fewer frames or a smaller size'}."
    )


def _nbytes(array: Any) -> int:
    return array.nbytes if isinstance(array, (mx.array, LinearWeight)) else 0

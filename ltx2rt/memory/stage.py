"""The one place that frees memory: a stage holds arrays while it runs and empties them when it ends."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.memory.measure import reset_resident_peak, resident_peak_bytes
from ltx2rt.types import LinearWeight


@dataclass(frozen=True)
class StageReport:
    """What one stage cost.

    Attributes:
        name: stage name.
        seconds: wall time from entering to having emptied it.
        weight_bytes: arrays held by the stage.
        peak_bytes: peak of MLX's allocator during the stage.
        resident_peak_bytes: peak resident set of the process during the stage
            (since process start where the system cannot reset it).
        left_bytes: what MLX still held after the stage was emptied.
    """

    name: str
    seconds: float
    weight_bytes: int
    peak_bytes: int
    resident_peak_bytes: int
    left_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stage:
    """A running stage. Arrays given to `hold` are emptied when the stage ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._held: list[dict[str, Any]] = []
        self.weight_bytes = 0

    def hold(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Take ownership of a component's arrays until the stage ends; returns the same mapping."""
        self._held.append(arrays)
        self.weight_bytes += sum(_nbytes(a) for a in arrays.values())
        return arrays

    def empty(self) -> None:
        """Drop every held array, wait for running work and give the memory back."""
        for arrays in self._held:
            arrays.clear()
        self._held.clear()
        mx.synchronize()
        gc.collect()
        mx.clear_cache()


class StageRunner:
    """Runs stages one after the other and keeps a report of each."""

    def __init__(self) -> None:
        self.reports: list[StageReport] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Enter a stage; on leaving, also by an exception, its arrays are emptied and the report is written."""
        stage = Stage(name)
        mx.reset_peak_memory()
        reset_resident_peak()
        start = time.perf_counter()
        try:
            yield stage
        finally:
            weight_bytes = stage.weight_bytes
            peak = mx.get_peak_memory()
            resident = resident_peak_bytes()
            stage.empty()
            self.reports.append(
                StageReport(
                    name=name,
                    seconds=time.perf_counter() - start,
                    weight_bytes=weight_bytes,
                    peak_bytes=peak,
                    resident_peak_bytes=resident,
                    left_bytes=mx.get_active_memory(),
                )
            )


def _nbytes(array: Any) -> int:
    return array.nbytes if isinstance(array, (mx.array, LinearWeight)) else 0

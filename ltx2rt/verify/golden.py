"""Golden files: saved inputs and outputs of the official code, with a record of which tensors were looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.weights.safetensors import SafetensorsFile

Array = np.ndarray[Any, np.dtype[Any]]


class GoldenFile:
    """One golden file (safetensors, or JSON without tensors).

    Reading a tensor marks it as covered; what nobody reads is reported as not covered.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.name = path.name
        self._file = SafetensorsFile(path) if path.suffix == ".safetensors" else None
        self._unread = set(self._file.tensors) if self._file else set()

    def keys(self) -> list[str]:
        return sorted(self._file.tensors) if self._file else []

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: str) -> bool:
        return self._file is not None and key in self._file.tensors

    def __getitem__(self, key: str) -> Array:
        """The tensor as numpy; BF16 and F8_E4M3 are widened to float32."""
        if self._file is None:
            raise KeyError(key)
        self._unread.discard(key)
        return self._file.numpy(key)

    def json(self) -> Any:
        """The content of a JSON golden file."""
        return json.loads(self.path.read_text())

    def skip(self, *keys: str) -> None:
        """Mark tensors as covered that are only bookkeeping (not inputs, not outputs)."""
        self._unread.difference_update(keys)

    @property
    def unread(self) -> list[str]:
        return sorted(self._unread)

    @property
    def metadata(self) -> dict[str, Any]:
        """The file metadata; values that parse as JSON are parsed."""
        parsed: dict[str, Any] = {}
        for key, value in (self._file.metadata if self._file else {}).items():
            try:
                parsed[key] = json.loads(value)
            except ValueError:
                parsed[key] = value
        return parsed


@dataclass(frozen=True)
class Check:
    """One comparison: passes when max|actual - expected| <= atol + rtol * max|expected| and the shapes agree."""

    name: str
    actual: Array
    expected: Array
    atol: float
    rtol: float = 0.0

    @property
    def error(self) -> float:
        """Largest absolute difference relative to the largest expected value; infinite for NaN or a wrong shape."""
        if self.actual.shape != self.expected.shape:
            return float("inf")
        if self.expected.size == 0:
            return 0.0
        difference = np.abs(self.actual.astype(np.float64) - self.expected.astype(np.float64))
        return float(difference.max()) / self._scale if np.isfinite(difference).all() else float("inf")

    @property
    def tolerance(self) -> float:
        """What `error` may be at most."""
        return self.atol / self._scale + self.rtol

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # a NaN is never within it

    @property
    def _scale(self) -> float:
        """Largest expected magnitude; 1 where all is zero, so that the error is then absolute."""
        largest = float(np.abs(self.expected.astype(np.float64)).max()) if self.expected.size else 0.0
        return largest if largest > 0 else 1.0


@dataclass(frozen=True)
class Case:
    """One golden case: ``run`` computes with our code and yields the comparisons."""

    name: str
    run: Callable[[], Iterable[Check]]


CaseFinder = Callable[[GoldenFile], Iterator[Case]]

"""Golden files: saved inputs and results of the official code, with a record of which ones a case used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.weights.safetensors import SafetensorsFile


class GoldenFile:
    """One golden file: tensors in safetensors, or entries in JSON.

    A case takes its inputs with `given` and compares results with `check` or `expected`. What remains in `unread` when
    all cases have run is a saved result that nothing compared.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.name = path.name
        self._file = SafetensorsFile(path) if path.suffix == ".safetensors" else None
        self._entries: dict[str, Any] = json.loads(path.read_text()) if path.suffix == ".json" else {}
        self._unread = set(self._file.tensors if self._file else self._entries)

    def keys(self) -> list[str]:
        return sorted(self._file.tensors if self._file else self._entries)

    def numbered(self, stem: str) -> list[str]:
        """The tensors ``stem.N`` in the order of their numbers."""
        keys = [key for key in self.keys() if re.fullmatch(re.escape(stem) + r"\.\d+", key)]
        return sorted(keys, key=lambda key: int(key.rpartition(".")[2]))

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of every tensor, as the file states them."""
        return {key: (entry.dtype, entry.shape) for key, entry in self._file.tensors.items()} if self._file else {}

    def __contains__(self, key: str) -> bool:
        return self._file is not None and key in self._file.tensors

    def given(self, key: str) -> Array:
        """A saved input, as numpy; BF16 and F8_E4M3 are widened to float32.

        Raises:
            KeyError: the file does not hold it.
        """
        return self._read(key)

    def result_as_input(self, key: str) -> Array:
        """A saved result that one case compares and another one starts from; as `given`, but it stays unread."""
        return self._tensor(key)

    def expected(self, key: str) -> Array:
        """A saved result that the caller compares; as `given`."""
        return self._read(key)

    def check(self, key: str, actual: Array, atol: float, rtol: float = 0.0) -> Check:
        """Our ``actual`` beside the saved result ``key``; errors as `given`."""
        return Check(key, actual, self._read(key), atol, rtol)

    def check_all(self, stem: str, actual: Sequence[Array], atol: float, rtol: float = 0.0) -> Iterator[Check]:
        """Our results, in order, beside ``stem.00``, ``stem.01``, ...: the same number, and each compared."""
        keys = self.numbered(stem)
        yield Check(f"number of {stem}", from_numbers(len(actual)), from_numbers(len(keys)), 0.0)
        for i, value in enumerate(actual):
            yield self.check(f"{stem}.{i:02d}", value, atol, rtol)

    def _read(self, key: str) -> Array:
        tensor = self._tensor(key)
        self._unread.discard(key)
        return tensor

    def _tensor(self, key: str) -> Array:
        if self._file is None or key not in self._file.tensors:
            raise KeyError(f"{self.name} holds no tensor {key}")
        return self._file.numpy(key)

    def entry(self, key: str) -> Any:
        """A top-level entry of a JSON file, all of which the caller compares.

        Raises:
            KeyError: the file does not hold it.
        """
        if key not in self._entries:
            raise KeyError(f"{self.name} holds no entry {key}")
        self._unread.discard(key)
        return self._entries[key]

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
    """One golden case: ``run`` computes with our code and yields the comparisons; ``not_covered``: why it does not."""

    name: str
    run: Callable[[], Iterable[Check]]
    not_covered: str = ""


CaseFinder = Callable[[GoldenFile], Iterator[Case]]

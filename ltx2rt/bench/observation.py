"""Watches the kernel calls of a model: what each has to do, how long it takes, and what is spent between them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import mlx.core as mx

from ltx2rt.bench.case import Arithmetic, Work
from ltx2rt.kernels import selection
from ltx2rt.kernels.host import to_numpy

KERNELS = (
    *("quantized_linear", "rope_attention", "neighborhood_attention"),
    *("causal_conv3d", "modulated_norm", "antialiased_snake"),
)
BETWEEN = "between"
"""Name of everything that is not a kernel call: element-wise chains, copies and reductions that MLX computes."""


@dataclass
class KernelTotal:
    """Calls of one kernel, or the time between the kernels."""

    calls: int = 0
    seconds: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0


@dataclass
class Observation:
    """Totals by kernel name, and `BETWEEN` when the calls were timed."""

    totals: dict[str, KernelTotal] = field(default_factory=dict)

    def work(self, arithmetic: Arithmetic) -> Work:
        """Everything the kernels have to do, as if nothing stayed in a cache between them."""
        return Work(
            sum(t.operations for t in self.totals.values()), sum(t.bytes for t in self.totals.values()), arithmetic
        )

    @property
    def seconds(self) -> float:
        return sum(t.seconds for t in self.totals.values())

    def of(self, name: str) -> KernelTotal:
        return self.totals.setdefault(name, KernelTotal())


class _Observer:
    """Stands in for the extension: forwards every call and books it."""

    def __init__(self, timed: bool) -> None:
        self.observation = Observation()
        self._timed = timed

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(selection.ext, name)
        if name not in KERNELS:
            return kernel

        def call(*args: Any, **kwargs: Any) -> mx.array:
            inputs = [a for a in _arrays((args, kwargs)) if isinstance(a, mx.array)]
            if self._timed:
                self.between(lambda: mx.eval(inputs))
            start = time.perf_counter()
            out: mx.array = kernel(*args, **kwargs)
            total = self.observation.of(name)
            if self._timed:
                mx.eval(out)
                total.seconds += time.perf_counter() - start
            total.calls += 1
            total.operations += operations(name, args, kwargs, out)
            total.bytes += out.nbytes + sum(a.nbytes for a in inputs)
            return out

        return call

    def between(self, evaluate: Callable[[], object]) -> None:
        start = time.perf_counter()
        evaluate()
        self.observation.of(BETWEEN).seconds += time.perf_counter() - start


def _arrays(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and dictionaries."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)
    else:
        yield value


def operations(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: mx.array) -> float:
    """Multiplications and additions of the products in one kernel call."""
    if name == "quantized_linear":
        return float(2.0 * out.size * args[0].shape[-1])
    if name == "rope_attention":
        products = 4.0 * out.size * args[1].shape[1]
        return float(products / 2 if kwargs["causal"] and out.shape[1] == args[1].shape[1] else products)
    if name == "neighborhood_attention":  # every query with a whole window in each frame that it sees
        seen = int((to_numpy(args[3]) >= 0).sum()) / max(1, out.shape[1])
        return float(4.0 * out.size * seen * prod(kwargs["window"]))
    if name == "causal_conv3d":
        weight = args[1]
        return float(2.0 * out.size * (weight.size // weight.shape[0]))
    if name == "antialiased_snake":
        return float(2.0 * out.size * (args[3].size + args[4].size))
    return 0.0


@contextlib.contextmanager
def observed(timed: bool) -> Iterator[_Observer]:
    """Books every kernel call made inside the block.

    With ``timed`` every call is evaluated on its own: first its inputs (booked as `BETWEEN`), then itself. That is the
    order of the graph, only without the chance to run two ops at a time, which MLX's CPU backend does not do either.
    """
    observer = _Observer(timed)
    front_ends = [sys.modules[f"ltx2rt.kernels.{name}"] for name in KERNELS]
    for module in front_ends:
        module.ext = observer  # type: ignore[attr-defined]  # found by name
    try:
        yield observer
    finally:
        for module in front_ends:
            module.ext = selection.ext  # type: ignore[attr-defined]  # likewise


def count(build: Callable[[], object]) -> Observation:
    """What the kernel calls of a graph have to do; builds it and evaluates nothing here."""
    with observed(timed=False) as observer:
        build()
    return observer.observation


def profile(build: Callable[[], Any]) -> Observation:
    """Seconds per kernel and between them while ``build`` runs and its result is evaluated."""
    with observed(timed=True) as observer:
        start = time.perf_counter()
        out = build()
        observer.between(lambda: mx.eval(out))
        elapsed = time.perf_counter() - start
    # Building the graph is neither a kernel nor between them for MLX, but the user waits for it.
    observation = observer.observation
    observation.of("graph building").seconds = max(0.0, elapsed - observation.seconds)
    return observation

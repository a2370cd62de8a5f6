"""The self-proof of one kernel variant: compared with the reference on small problems, timed against MLX's own ops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import to_numpy
from ltx2rt.kernels.proof_problems import Problem, check_problems, exact_arguments, timing_problem
from ltx2rt.kernels.proof_store import Outcome
from ltx2rt.kernels.selection import Implementation, forced
from ltx2rt.kernels.variants import Variant
from ltx2rt.refusals import memory_was_refused, work_was_dropped

# The public function of an op.
FrontEnd = Callable[..., mx.array]
# MLX's own ops replace a sound kernel only where they are clearly faster, so that noise does not decide.
CLEARLY_FASTER = 0.9
_ROUNDS = 7
# Added to twice the error of plain code, as a share of the largest value: a GPU's sums run in another order, and its
# functions are not those of the C library.
_SLACK = {"float32": 1e-5, "float16": 1e-6, "bfloat16": 1e-6}


class Runner(Protocol):
    """Where candidates run: a GPU, or a stand-in for one in tests."""

    def compute(self, front_end: FrontEnd, implementation: Implementation, problem: Problem) -> np.ndarray:
        """The result as float32. Raises RuntimeError when the kernel does not compile or run."""

    def seconds(self, front_end: FrontEnd, implementation: Implementation, problem: Problem) -> float:
        """How long one call takes, everything compiled already."""


class DeviceRunner:
    """Runs on MLX's default device."""

    def compute(self, front_end: FrontEnd, implementation: Implementation, problem: Problem) -> np.ndarray:
        with forced(implementation):
            return _float32(front_end(**problem))

    def seconds(self, front_end: FrontEnd, implementation: Implementation, problem: Problem) -> float:
        with forced(implementation):
            start = time.perf_counter()
            mx.eval(front_end(**problem))
            return time.perf_counter() - start


def prove(front_end: FrontEnd, variant: Variant, runner: Runner, *, timed: bool, metal: bool = True) -> Outcome:
    """Compares, and if ``timed`` times, one variant.

    The kernel may err at most twice as much as plain code of the same dtype (MLX's own ops on the CPU), both measured
    against the float32 reference on the CPU. Where it errs more, or does not compile or run, the reference graph takes
    its place. Without ``metal`` the kernels are those of the CPU.

    Raises:
        MemoryError, RuntimeError: memory was refused or the device dropped the work, which says nothing about the
            kernel.
    """
    worst = Outcome("kernel")
    ways: list[Implementation] = ["kernel"]
    if timed:
        ways += ["fenced"] if variant.has_fences else []
        ways += ["half", "half_fenced"] if variant.has_half else []
        ways += ["mlx"]
    for problem in check_problems(variant, metal=metal):
        exact, plain = _on_cpu(front_end, "reference", exact_arguments(problem)), _on_cpu(front_end, "mlx", problem)
        tolerance = _tolerance(exact, plain, variant.dtype)
        try:
            error = _difference(runner.compute(front_end, "kernel", problem), exact)
        except (RuntimeError, ValueError) as failure:
            _raise_if_blameless(failure)
            return Outcome("reference", fault=f"does not run: {_first_lines(failure)}")
        if not error <= tolerance:
            fault = f"differs from the reference by {error:.3g}, {tolerance:.3g} is allowed"
            return Outcome("reference", error if math.isfinite(error) else -1.0, tolerance, fault=fault)
        if worst.error < 0 or error * worst.tolerance > worst.error * tolerance:
            worst = Outcome("kernel", error, tolerance)
        ways[1:] = [way for way in ways[1:] if _agrees(front_end, way, runner, problem, exact, tolerance)]
    if len(ways) == 1:
        return worst
    seconds = _race(front_end, variant, runner, ways)
    # With fences or without, the bits are the same, so the faster one it is. Products of halves may have others: they
    # must be clearly faster.
    ours = _faster(seconds, "kernel", "fenced")
    halves = _faster(seconds, "half", "half_fenced")
    if seconds.get(halves, math.inf) < CLEARLY_FASTER * seconds[ours]:
        ours = halves
    choice: Implementation = "mlx" if seconds.get("mlx", math.inf) < CLEARLY_FASTER * seconds[ours] else ours
    return Outcome(choice, worst.error, worst.tolerance, seconds)


def _faster(seconds: dict[str, float], plain: Implementation, fenced: Implementation) -> Implementation:
    return fenced if seconds.get(fenced, math.inf) < seconds.get(plain, math.inf) else plain


def _agrees(
    front_end: FrontEnd, way: Implementation, runner: Runner, problem: Problem, exact: np.ndarray, tolerance: float
) -> bool:
    """Whether another way on the device would do; one that fails is left out of the race."""
    try:
        return _difference(runner.compute(front_end, way, problem), exact) <= tolerance
    except (RuntimeError, ValueError) as failure:
        _raise_if_blameless(failure)
        return False


def _raise_if_blameless(failure: Exception) -> None:
    if memory_was_refused(failure) or work_was_dropped(failure):
        raise failure


def _race(front_end: FrontEnd, variant: Variant, runner: Runner, ways: Sequence[Implementation]) -> dict[str, float]:
    """The best time of each, in turns, after one call that compiles and warms up."""
    problem = timing_problem(variant)
    best: dict[str, float] = dict.fromkeys(ways, math.inf)
    for way in ways:
        runner.seconds(front_end, way, problem)
    for _ in range(_ROUNDS):
        for way in ways:
            best[way] = min(best[way], runner.seconds(front_end, way, problem))
    return best


def _on_cpu(front_end: FrontEnd, implementation: Implementation, problem: Problem) -> np.ndarray:
    with mx.stream(mx.cpu), forced(implementation):
        return _float32(front_end(**problem))


def _float32(values: mx.array) -> np.ndarray:
    return to_numpy(values.astype(mx.float32))


def _tolerance(exact: np.ndarray, plain: np.ndarray, dtype: str) -> float:
    # Plain code gives NaN for a query that sees nothing; there the definition says 0 and the slack alone counts.
    there = np.isfinite(plain)
    return float(2 * np.abs(plain - exact)[there].max(initial=0.0) + _SLACK[dtype] * np.abs(exact).max(initial=0.0))


def _difference(values: np.ndarray, exact: np.ndarray) -> float:
    """The largest; infinite for another shape or a value that is not finite."""
    if values.shape != exact.shape or not np.isfinite(values).all():
        return math.inf
    return float(np.abs(values - exact).max(initial=0.0))


def _first_lines(failure: Any) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400] or type(failure).__name__

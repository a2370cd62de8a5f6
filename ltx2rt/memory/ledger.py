"""The ledger: chooses for every stage the first way of running it that fits the budget, and holds it to that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import mlx.core as mx

from ltx2rt.errors import MemoryBudgetError
from ltx2rt.kernels.selection import ext
from ltx2rt.memory.allocator import trim_heap
from ltx2rt.memory.limits import format_bytes, hard_limits
from ltx2rt.memory.measure import freed_pages_leave, resident_bytes
from ltx2rt.memory.need import Need

# What the process takes more once stages have run in it: code pages, Python's objects, the stacks and heaps of the
# kernels' threads. Measured with the embedded model (Zen 4, November 2026) before each stage of a first run: 3.5 MB at
# the first, at the last but one 9.5 MB with 1 thread, 10.1 MB with 2, 11.8 to 12.2 MB with 16; with 2 threads on a
# Sapphire Rapids 11.6 MB. Nothing more in a second run.
_RUNTIME_BYTES, _RUNTIME_BYTES_PER_THREAD = 10 << 20, 176 << 10
# How far below the measured peak a predicted one may lie: room that is left in the budget for that. The lowest ratios
# measured are 0.997 at the middle size (docs/memory.md) and 0.97 for stages of the embedded model, 3 MB of 100.
_UNCERTAINTY = 0.02
# What a stage may find more in the process than was planned for: modules imported since, heaps, a program's own values.
# Measured before the stages of the embedded model: 6 MB at most. The rest keeps a run from being given up half way for
# what a program did meanwhile.
_DRIFT_BYTES = 64 << 20
# Addresses that are reserved and not used, which only a limit of the address space notices: 8 MB for the stack of every
# thread, and up to two heaps of 64 MB. Measured: 150 MB with 2 threads. With 16 threads 900 MB, of which 770 MB are
# heaps that glibc does without where it cannot have them.
_RESERVED_BYTES = 256 << 20


_has_run = False  # whether any stage has run in this process


def _process_bytes() -> int:
    """What the process will take without any stage: what it takes now, less what goes back as the first one begins."""
    trim_heap()
    threads = 0 if ext is None else int(ext.num_threads())
    coming = 0 if _has_run else _RUNTIME_BYTES + threads * _RUNTIME_BYTES_PER_THREAD
    return resident_bytes() - mx.get_cache_memory() + coming


class Ledger:
    """Memory accounts of one run.

    Args:
        budget: what the whole process may take, in bytes; None: no limit.
        base: what the process takes without any stage; default: what it takes now, less ``kept``.
        kept: bytes of weights that are there from earlier calls; those that stay are part of the needs of the stages.

    Attributes:
        reserved: bytes of all weights that stay after their stages. Every stage must fit beside all of them, also when
            most are still to be loaded, so that the next call finds no less room.
        needs: what was chosen for each stage, in order.
        carried: bytes that earlier stages leave to later ones, set by who runs the stages.
    """

    def __init__(self, budget: int | None = None, base: int | None = None, kept: int = 0) -> None:
        self.budget = budget
        self.base = max(0, _process_bytes() - kept) if base is None else base
        self.reserved = 0
        self._arrays_before = mx.get_active_memory() - kept
        self.needs: list[Need] = []
        self.carried = 0

    def unused(self) -> Ledger:
        """Accounts like these before any stage, for planning what these will be used for."""
        return Ledger(self.budget, self.base)

    def peak(self, need: Need) -> int:
        """Predicted peak of the process while the stage runs."""
        return self.base + need.total

    def least_budget(self, need: Need) -> int:
        """The smallest budget in which the stage would run."""
        beside_all = need.total - need.weights - need.kept + self.reserved
        return math.ceil((self.base + max(need.total, beside_all)) * (1 + _UNCERTAINTY))

    def spare(self, need: Need) -> float:
        """Bytes that the stage leaves of the budget."""
        if self.budget is None:
            return math.inf
        return max(0.0, self.budget / (1 + _UNCERTAINTY) - self.peak(need) - 1)

    def choose(self, options: Iterable[Need]) -> Need:
        """The first of ``options`` (best first) that fits.

        Raises:
            MemoryBudgetError: none does; names the stage, what it needs and what to change.
        """
        smallest: Need | None = None
        for option in options:
            need = replace(option, caches=option.caches + self.carried)
            if self.budget is None or self.least_budget(need) <= self.budget:
                self.needs.append(need)
                return need
            if smallest is None or need.total < smallest.total:
                smallest = need
        if smallest is None or self.budget is None:
            raise ValueError("a stage must offer at least one way of running.")
        raise MemoryBudgetError(self._refusal(smallest, self.budget), self.least_budget(smallest))

    def admit(self, need: Need) -> None:
        """Check, as a stage begins, that what is really free suffices.

        Raises:
            MemoryBudgetError: earlier stages left too much behind, or the system allows less than the plan needs.
        """
        global _has_run
        _has_run = True
        now, more = self._taken(), max(0, need.total - self.carried - need.kept - need.present)
        if self.budget is not None and now + more > self.budget + _DRIFT_BYTES:
            raise MemoryBudgetError(
                f"stage {need.name!r} needs {format_bytes(more)} and the process already takes "
                f"{format_bytes(now)}, {format_bytes(now + more - self.budget)} above the budget of "
                f"{format_bytes(self.budget)}; give more with --memory, or close what else runs in this process."
            )
        wanted = {"memory": more, "addresses": more + _RESERVED_BYTES, "arrays": max(0, more - need.host)}
        for limit in hard_limits():
            if wanted[limit.counts] > limit.spare:
                raise MemoryBudgetError(
                    f"stage {need.name!r} needs {format_bytes(wanted[limit.counts])} more, but the {limit.reason} "
                    f"leaves {format_bytes(limit.spare)}; raise that limit"
                    + (f", or {need.advice}." if need.advice else ".")
                )

    def _taken(self) -> int:
        """What the process takes now and no stage can have."""
        if freed_pages_leave():
            return resident_bytes()
        # Elsewhere the resident set still holds what earlier stages freed. What MLX holds is known everywhere.
        return self.base + max(0, mx.get_active_memory() - self._arrays_before)

    def charge(self, need: Need, held: int) -> None:
        """Check what a stage holds against what it declared.

        Raises:
            MemoryBudgetError: it holds more than it declared, and that is above the budget.
        """
        excess = held - need.resident
        if excess > 0 and self.budget is not None and self.peak(need) + excess > self.budget + _DRIFT_BYTES:
            raise MemoryBudgetError(
                f"stage {need.name!r} holds {format_bytes(held)} of weights where {format_bytes(need.resident)} were "
                f"planned, {format_bytes(self.peak(need) + excess - self.budget)} above the budget of "
                f"{format_bytes(self.budget)}; give more with --memory."
            )

    def _refusal(self, need: Need, budget: int) -> str:
        enough = self.least_budget(need)
        taken = {"the process": self.base, **{kind: size for kind, size in need.parts.items() if size >= 1 << 20}}
        parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in taken.items())
        return (
            f"stage {need.name!r} needs {format_bytes(enough)} at the least ({parts}, "
            f"{_UNCERTAINTY:.0%} to spare), {format_bytes(enough - budget)} more than the budget of "
            f"{format_bytes(budget)}; {advice(need, enough)}"
        )


def advice(need: Need, enough: int) -> str:
    """What a user may change when a stage does not fit; ``enough``: a budget that would do."""
    more = f"give at least --memory {rounded_up(enough)}"
    return f"{need.advice}, or {more}." if need.advice else f"{more}."


def rounded_up(nbytes: int) -> str:
    """A budget of at least so many bytes, as a user writes it: ``1.3GB``."""
    step = 10**7 if nbytes < 10**9 else 10**8
    size = -(-nbytes // step) * step
    return f"{size / 1e9:.10g}GB" if size >= 10**9 else f"{size // 10**6}MB"

"""The ledger: chooses for every stage the first way of running it that fits the budget, and holds it to that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from ltx2rt.errors import MemoryBudgetError
from ltx2rt.memory.limits import format_bytes, free_on_machine, hard_limits
from ltx2rt.memory.measure import file_resident_bytes, resident_bytes, virtual_bytes
from ltx2rt.memory.need import Need

# What the process takes more once the first stage has run: the kernels' threads, code pages, Python's objects.
_RUNTIME_BYTES = 9 << 20
# Share of the program's pages that the system takes back once twice as much has been read as it had free: pages that
# were used since it looked last get a second chance.
_COLD_SHARE = 0.15
# How far below the measured peak a predicted one may lie: room that is left in the budget for that.
_UNCERTAINTY = 0.02
# What a stage may find more in the process than was there before the first stage: modules imported since, heaps.
_DRIFT_BYTES = 64 << 20
# Kernels and MLX reserve addresses before they use them; only a limit of the address space notices.
_RESERVED_BYTES = 256 << 20


class Ledger:
    """Memory accounts of one run.

    Args:
        budget: what the whole process may take, in bytes; None: no limit.
        base: what the process takes without any stage; default: what it takes now.

    Attributes:
        needs: what was chosen for each stage, in order.
        carried: bytes that earlier stages leave to later ones, set by who runs the stages.
    """

    def __init__(self, budget: int | None = None, base: int | None = None) -> None:
        self.budget = budget
        self.base = resident_bytes() + _RUNTIME_BYTES if base is None else base
        self._cold = int(_COLD_SHARE * file_resident_bytes()) if base is None else 0
        self._free = free_on_machine()
        self._read = 0
        self.needs: list[Need] = []
        self.carried = 0

    def unused(self) -> Ledger:
        """Accounts like these before any stage, for planning what these will be used for."""
        return Ledger(self.budget, self.base)

    def peak(self, need: Need) -> int:
        """Predicted peak of the process while the stage runs."""
        return (need.process or self.base) + need.total

    def least_budget(self, need: Need) -> int:
        """The smallest budget in which the stage would run."""
        return math.ceil(self.peak(need) * (1 + _UNCERTAINTY))

    def choose(self, options: Iterable[Need]) -> Need:
        """The first of ``options`` (best first) that fits.

        Raises:
            MemoryBudgetError: none does; names the stage, what it needs and what to change.
        """
        smallest: Need | None = None
        for option in options:
            read = self._read + option.weights + option.streamed
            process = self.base - (self._cold if read > 2 * self._free else 0)
            need = replace(option, caches=option.caches + self.carried, process=process)
            if self.budget is None or self.least_budget(need) <= self.budget:
                self.needs.append(need)
                self._read = read
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
        now = resident_bytes()
        if self.budget is not None and now + need.total > self.budget + _DRIFT_BYTES:
            raise MemoryBudgetError(
                f"stage {need.name!r} needs {format_bytes(need.total)} and the process already takes "
                f"{format_bytes(now)}, {format_bytes(now + need.total - self.budget)} above the budget of "
                f"{format_bytes(self.budget)}; give more with --memory, or close what else runs in this process."
            )
        for limit in hard_limits():
            used = virtual_bytes() + _RESERVED_BYTES if limit.address_space else now
            if used + need.total > limit.nbytes:
                raise MemoryBudgetError(
                    f"stage {need.name!r} needs {format_bytes(need.total)} more, but the {limit.reason} leaves "
                    f"{format_bytes(max(0, limit.nbytes - used))}; raise that limit"
                    + (f", or {need.advice}." if need.advice else ".")
                )

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
        parts = ", ".join(f"{kind} {format_bytes(nbytes)}" for kind, nbytes in need.parts.items() if nbytes >= 1 << 20)
        return (
            f"stage {need.name!r} needs {format_bytes(enough)} at the least (the process {format_bytes(need.process)}, "
            f"{parts}, {_UNCERTAINTY:.0%} to spare), {format_bytes(enough - budget)} more than the budget of "
            f"{format_bytes(budget)}; {advice(need, enough)}"
        )


def advice(need: Need, enough: int) -> str:
    """What a user may change when a stage does not fit; ``enough``: a budget that would do."""
    step = 10**7 if enough < 10**9 else 10**8
    size = -(-enough // step) * step
    text = f"{size / 1e9:.10g}GB" if size >= 10**9 else f"{size // 10**6}MB"
    more = f"give at least --memory {text}"
    return f"{need.advice}, or {more}." if need.advice else f"{more}."

"""Budgets as a user writes them, and plans of what a call would take."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines.plan import Rates
from ltx2rt.kernels.speed import stage_flops
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.limits import default_budget, parse_bytes
from ltx2rt.spelling import spelled

# Bytes per second from disk where the user does not say: a solid-state disk.
READ_RATE = 2e9


def ledger(memory: str | int | None, kept: int = 0, beside: int = 0) -> Ledger:
    """Accounts with a budget.

    Args:
        memory: ``12GB`` or bytes for the whole process; None: a fixed share of what is free.
        kept: bytes of weights that are in memory from earlier calls.
        beside: bytes that the process will take besides its stages.

    Raises:
        UsageError: not a size.
    """
    if memory is None:
        return _beside(Ledger(default_budget(), kept=kept), beside)
    if isinstance(memory, bool) or not isinstance(memory, (str, int)):
        raise UsageError(f"{spelled('memory')} must be like 12GB, or a whole number of bytes, got {memory!r}.")
    budget = memory if isinstance(memory, int) else parse_bytes(memory)
    if budget <= 0:
        raise UsageError(f"memory must be positive, got {budget}.")
    return _beside(Ledger(budget, kept=kept), beside)


def _beside(accounts: Ledger, nbytes: int) -> Ledger:
    accounts.base += nbytes
    return accounts


def rates(flops: float | None = None, read: float | None = None) -> Rates:
    """Speeds of this machine: measured in a moment (arithmetic) or assumed (disk), where not given."""
    return Rates(stage_flops() if flops is None else flops, READ_RATE if read is None else read)

"""Threads that stand for machines: what one process can show of several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.kernels.host import to_numpy
from ltx2rt.team.team import Rules, Team


class Table:
    """Where the machines lay what they exchange; all must take part in the same operation, with as many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def exchange(self, rank: int, operation: str, x: mx.array) -> list[np.ndarray]:
        self.slots[rank] = operation, to_numpy(x)
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        assert len({(name, values.shape) for name, values in found}) == 1, found
        return [values for _, values in found]


class ThreadGroup:
    """A `Group` among threads."""

    def __init__(self, table: Table, rank: int) -> None:
        self.rank, self.size, self._table = rank, table.size, table

    def all_gather(self, x: mx.array) -> mx.array:
        return mx.array(np.concatenate(self._table.exchange(self.rank, "gather", x)))

    def all_sum(self, x: mx.array) -> mx.array:
        return mx.array(np.sum(self._table.exchange(self.rank, "sum", x), axis=0, dtype=np.uint8))

    def give_up(self) -> None:
        self._table.barrier.abort()


def on_machines(
    size: int, work: Callable[[Team], Any], *, patience: float = 60.0, rules: Rules | None = None
) -> list[Any]:
    """What ``work`` gives on each of ``size`` machines; an exception of one is raised here."""
    results = outcomes(size, [work] * size, patience=patience, rules=rules)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def outcomes(
    size: int,
    works: Sequence[Callable[[Team], Any]],
    *,
    patience: float = 60.0,
    rules: Rules | None = None,
) -> list[Any]:
    """The same with what is raised in the place of results."""
    table = Table(size)
    found: list[Any] = [None] * size

    def machine(rank: int) -> None:
        try:
            with Team(ThreadGroup(table, rank), patience, rules) as team:
                found[rank] = works[rank](team)
                if not team.leads and team.is_there:
                    list(team.messages())  # until the leader lets it go
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=machine, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

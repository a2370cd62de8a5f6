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
        self._changed = threading.Condition()
        self._turns = [0] * size
        self._laid: list[dict[int, tuple[str, np.ndarray]]] = []
        self._ended = False
        self._smaller: dict[tuple[int, ...], Table] = {}

    def smaller(self, members: tuple[int, ...]) -> Table:
        """The one of some of the machines alone."""
        with self._changed:
            return self._smaller.setdefault(members, Table(len(members)))

    def exchange(self, rank: int, operation: str, x: mx.array) -> list[np.ndarray]:
        """What every machine laid in this turn; what is complete is had also when another one has left since."""
        values = to_numpy(x)
        with self._changed:
            turn = self._turns[rank]
            self._turns[rank] += 1
            if turn == len(self._laid):
                self._laid.append({})
            laid = self._laid[turn]
            laid[rank] = operation, values
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(laid) == self.size or self._ended)
            if len(laid) < self.size:
                raise RuntimeError("a machine has left")
        found = [laid[number] for number in range(self.size)]
        assert len({(name, array.shape) for name, array in found}) == 1, found
        return [array for _, array in found]

    def end(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class ThreadGroup:
    """A `Group` among threads."""

    def __init__(self, table: Table, rank: int) -> None:
        self.rank, self.size, self._table = rank, table.size, table

    def all_gather(self, x: mx.array) -> mx.array:
        return mx.array(np.concatenate(self._table.exchange(self.rank, "gather", x)))

    def all_sum(self, x: mx.array) -> mx.array:
        return mx.array(np.sum(self._table.exchange(self.rank, "sum", x), axis=0, dtype=np.uint8))

    def give_up(self) -> None:
        self._table.end()

    addresses = ()

    def offer(self) -> str:
        return f"machine {self.rank}"

    def smaller(self, members: Sequence[int], offers: Sequence[str], patience: float) -> ThreadGroup:
        assert list(offers) == [f"machine {member}" for member in members]
        return ThreadGroup(self._table.smaller(tuple(members)), members.index(self.rank))


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

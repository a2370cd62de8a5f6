"""A group of machines as MLX's distributed engine gives it: two operations on bytes, and a way to end what hangs."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from contextlib import suppress
from typing import Protocol

import mlx.core as mx

from ltx2rt.errors import MachineLost, UsageError
from ltx2rt.kernels.selection import ext
from ltx2rt.team.environment import Asked

# What MLX says where nobody listens at an address yet; it tries for 31 seconds.
_NOT_THERE_YET = "Couldn't connect"
_MOST_DESCRIPTORS = 4096


class Group(Protocol):
    """Machines that take part in the same operations in the same order.

    Only what every backend has, and only bytes: sums of floats would round otherwise than one machine does, and 8-bit
    sums are exact where all but one machine add zeros.
    """

    @property
    def rank(self) -> int:
        """Number of this machine."""

    @property
    def size(self) -> int:
        """How many machines there are."""

    def all_gather(self, x: mx.array) -> mx.array:
        """(N, n) uint8, evaluated: ``x`` (1, n) of every machine.

        Raises:
            RuntimeError: a connection is lost; the group can do nothing more.
        """

    def all_sum(self, x: mx.array) -> mx.array:
        """(n,) uint8, evaluated: the sum of ``x`` (n,) over the machines; raises as `all_gather`."""

    def give_up(self) -> None:
        """End an operation that hangs in another thread, if that is possible, and tell the others by doing so."""


class MlxGroup:
    """A group of `mx.distributed`. One thread alone may use its operations: it has a CPU stream of its own there, so
    that nothing else waits for the net."""

    def __init__(self, backend: str, sockets: frozenset[int]) -> None:
        group = mx.distributed.init(strict=True, backend=backend)  # it is there already
        self.rank: int = group.rank()
        self.size: int = group.size()
        self._group = group
        self._sockets = sockets
        # Other backends have connections for their own purposes.
        self._meets = backend == "ring"
        self._stream: mx.Stream | None = None

    def all_gather(self, x: mx.array) -> mx.array:
        return self._run(mx.distributed.all_gather, x)

    def all_sum(self, x: mx.array) -> mx.array:
        return self._run(mx.distributed.all_sum, x)

    def _run(self, operation: object, x: mx.array) -> mx.array:
        if self._stream is None:
            self._stream = mx.new_stream(mx.cpu)
        if self._meets:
            self._meet()
        out: mx.array = operation(x, group=self._group, stream=self._stream)  # type: ignore[operator]  # no stubs
        mx.eval(out)
        return out

    def _meet(self) -> None:
        """Wait until the neighbours have come to the same operation, too.

        MLX looks for what comes without sleeping, which takes the time of what else this machine computes. Here the
        thread sleeps until a byte has come by each connection; what MLX sends there comes behind it.

        Raises:
            RuntimeError: a connection is lost.
        """
        try:
            for wanted, act in ((select.POLLOUT, self._greet), (select.POLLIN, self._hear)):
                waiting = select.poll()
                for number in self._sockets:
                    waiting.register(number, wanted)
                left = len(self._sockets)
                while left:
                    for number, _ in waiting.poll():
                        act(number)
                        waiting.unregister(number)
                        left -= 1
        except OSError as error:
            raise RuntimeError(f"[ring] {error.strerror}") from error

    @staticmethod
    def _greet(number: int) -> None:
        os.write(number, b"\0")

    @staticmethod
    def _hear(number: int) -> None:
        if not os.read(number, 1):
            raise RuntimeError("[ring] a neighbour has closed its connection")

    def give_up(self) -> None:
        """MLX waits without limit for a machine that has stopped; with its sockets shut it finds a connection lost."""
        for number in self._sockets:
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)


def join(asked: Asked, patience: float) -> MlxGroup:
    """The group that the environment of this process asks for, once all machines are there.

    Args:
        asked: from this environment.
        patience: seconds to wait for them.

    Raises:
        MachineLost: one did not come.
        UsageError: addresses or ports cannot work.
    """
    if ext is None:
        raise UsageError("several machines need the compiled module, which does not fit the installed MLX; install it.")
    absent = MachineLost(
        f"not all {asked.size} machines of the group came within {patience:g} s; start the same command on every "
        "one, and give more time with --patience."
    )
    before, deadline = _sockets(), time.monotonic() + patience
    while True:
        try:
            if not _joined(asked.backend, deadline - time.monotonic()):
                raise absent
        except RuntimeError as error:
            if _NOT_THERE_YET not in str(error):
                raise UsageError(
                    f"this machine cannot join the group ({error}); check the addresses of the machines, and that no "
                    "other run has their ports."
                ) from error
            if time.monotonic() >= deadline:
                raise absent from error
        else:
            return MlxGroup(asked.backend, frozenset(filter(_is_connected, _sockets() - before)))


def _joined(backend: str, seconds: float) -> bool:
    """Whether the group was joined within a time; raises what MLX does."""
    failures: list[BaseException] = []
    done = threading.Event()

    def join_group() -> None:
        try:
            ext.join_group(backend)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    # It may never come back: MLX waits for the others without limit.
    threading.Thread(target=join_group, name="ltx2rt-join", daemon=True).start()
    if not done.wait(max(0.0, seconds)):
        return False
    if failures:
        raise failures[0]
    return True


def _is_connected(number: int) -> bool:
    """Not one of the sockets that MLX leaves open where nobody listened yet."""
    with socket.socket(fileno=os.dup(number)) as own:
        try:
            own.getpeername()
        except OSError:
            return False
        return True


def _sockets() -> frozenset[int]:
    """The descriptors of this process that are sockets."""

    def is_socket(number: int) -> bool:
        try:
            return stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            return False

    return frozenset(filter(is_socket, range(_MOST_DESCRIPTORS)))

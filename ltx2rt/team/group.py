"""A group of machines as MLX's distributed engine gives it: two operations on bytes, and a way to end what hangs."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import mlx.core as mx

from ltx2rt.errors import ConnectionLost, Ltx2rtError, MachineLost, UsageError
from ltx2rt.kernels.selection import ext
from ltx2rt.team.environment import Asked, read_absence
from ltx2rt.team.smaller_rings import free_ports, ring_variables

# What MLX says where nobody listens at an address yet; it tries for 31 seconds.
_NOT_THERE_YET = "Couldn't connect"
_MOST_DESCRIPTORS = 4096
# MLX keeps two buffers of 8 MiB for each direction of a ring's cable.
RING_BYTES = 32 << 20
_SECONDS_BETWEEN_LOOKS = 0.1
# Exit codes of a machine that would be the same another time.
_FAILED, _USAGE = 1, 2


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

    @property
    def addresses(self) -> tuple[str, ...] | None:
        """Under which others reach this machine; None: some of the machines cannot have a group of their own."""

    def offer(self) -> str:
        """What others must know to have a group with this machine; empty: nothing that would do."""

    def smaller(self, members: Sequence[int], offers: Sequence[str], patience: float) -> Group:
        """Some of the machines as a group of their own, once all of these are there.

        Args:
            members: their numbers; this one is among them.
            offers: of each, the same text on all.
            patience: seconds to wait for them.

        Raises:
            ConnectionLost: a machine has gone. MachineLost: one did not come.
        """


class MlxGroup:
    """A group of `mx.distributed`. One thread alone may use its operations: it has a CPU stream of its own there, so
    that nothing else waits for the net."""

    def __init__(self, asked: Asked, sockets: frozenset[int]) -> None:
        group = mx.distributed.init(strict=True, backend=asked.backend)  # it is there already
        self._asked = asked
        self.rank: int = group.rank()
        self.size: int = group.size()
        self._group = group
        self._sockets = sockets
        # Other backends have connections for their own purposes.
        self._meets = asked.backend == "ring"
        self._stream: mx.Stream | None = None

    def all_gather(self, x: mx.array) -> mx.array:
        return self._run(mx.distributed.all_gather, x)

    def all_sum(self, x: mx.array) -> mx.array:
        return self._run(mx.distributed.all_sum, x)

    def _run(self, operation: object, x: mx.array) -> mx.array:
        if self._stream is None:
            self._stream = mx.new_stream(mx.cpu)
        if self._meets:
            meet(self._sockets)
        out: mx.array = operation(x, group=self._group, stream=self._stream)  # type: ignore[operator]  # no stubs
        mx.eval(out)
        return out

    def give_up(self) -> None:
        """MLX waits without limit for a machine that has stopped; with its sockets shut it finds a connection lost."""
        for number in self._sockets:
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def addresses(self) -> tuple[str, ...] | None:
        return self._asked.addresses if self._meets else None

    def offer(self) -> str:
        try:
            return json.dumps(free_ports(self._asked.addresses))
        except OSError:
            return ""

    def smaller(self, members: Sequence[int], offers: Sequence[str], patience: float) -> MlxGroup:
        """They join one more ring: MLX cannot split any."""
        rows = [json.loads(offer) if offer else [] for offer in offers]
        rank = members.index(self.rank)
        with ring_variables(rank, rows):
            return join(self._asked._replace(rank=rank, size=len(members)), patience, beside=self)

    def require_connected(self) -> None:
        """No neighbour has gone; what one has sent already stays where it is.

        Raises:
            ConnectionLost: one has.
        """
        for number in self._sockets:
            try:
                with socket.socket(fileno=os.dup(number)) as connection:
                    gone = not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                gone = True
            if gone:
                raise ConnectionLost("the connection to another machine is lost")


def meet(sockets: Collection[int]) -> None:
    """Wait until the neighbours have come to the same operation, too.

    MLX looks for what comes without sleeping, which takes the time of what else a machine computes. Here the thread
    sleeps until a byte has come by each connection; what MLX sends there comes behind it.

    Args:
        sockets: descriptors of the connections to the neighbours, each of which does the same.

    Raises:
        RuntimeError: a connection is lost.
    """
    try:
        for number in _when(select.POLLOUT, sockets):
            os.write(number, b"\0")
        for number in _when(select.POLLIN, sockets):
            if not os.read(number, 1):
                raise RuntimeError("a neighbour has closed its connection")
    except OSError as error:
        raise RuntimeError(str(error.strerror)) from error


def _when(what: int, sockets: Collection[int]) -> Iterator[int]:
    """Each of the sockets once, when it can do something."""
    waiting = select.poll()
    for number in sockets:
        waiting.register(number, what)
    left = len(sockets)
    while left:
        for number, _ in waiting.poll():
            waiting.unregister(number)
            left -= 1
            yield number


def join(asked: Asked, patience: float, beside: MlxGroup | None = None) -> MlxGroup:
    """The group that the environment of this process asks for, once all machines are there.

    Args:
        asked: from this environment.
        patience: seconds to wait for them.
        beside: a group of them and of others that was joined before.

    Raises:
        ConnectionLost: a machine of the other group has gone.
        MachineLost: one did not come.
        UsageError: addresses or ports cannot work, or another machine found that its options cannot.
        Ltx2rtError: another machine failed before it came.
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
            if not _joined(asked, deadline, beside):
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
            return MlxGroup(asked, frozenset(filter(_is_connected, _sockets() - before)))


def _joined(asked: Asked, deadline: float, beside: MlxGroup | None) -> bool:
    """Whether the group was joined in time; raises what MLX does, and what `_require_present` does."""
    failures: list[BaseException] = []
    done = threading.Event()

    def join_group() -> None:
        try:
            ext.join_group(asked.backend, anew=beside is not None)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    # It may never come back: MLX waits for the others without limit.
    threading.Thread(target=join_group, name="ltx2rt-join", daemon=True).start()
    while not done.wait(min(_SECONDS_BETWEEN_LOOKS, max(0.0, deadline - time.monotonic()))):
        _require_present(asked)
        if beside is not None:
            beside.require_connected()
        if time.monotonic() >= deadline:
            return False
    if failures:
        raise failures[0]
    return True


def _require_present(asked: Asked) -> None:
    """Nobody has ended before all machines have met.

    Raises:
        UsageError, MachineLost, Ltx2rtError: a machine has, with the meaning of its exit code.
    """
    absence = None if asked.absent is None else read_absence(asked.absent)
    if absence is None:
        return
    kind = {_FAILED: Ltx2rtError, _USAGE: UsageError}.get(absence.code, MachineLost)
    raise kind(
        f"{absence.machine} has ended with exit code {absence.code} before all machines had met; see above what it "
        "said, then start the same command again."
    )


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

"""A team: one machine leads, the others do what it asks for, and nobody waits for ever."""

from __future__ import annotations

import atexit
import concurrent.futures
import math
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

import mlx.core as mx

from ltx2rt.errors import ConnectionLost, MachineLost, UsageError
from ltx2rt.kernels.host import to_numpy
from ltx2rt.spelling import spelled
from ltx2rt.team.environment import asked_for
from ltx2rt.team.group import Group, join
from ltx2rt.team.messages import as_array, packed, unpacked
from ltx2rt.types import Array

DEFAULT_PATIENCE = 600.0
_SIZE_BYTES = 8  # of the number that says how long the next message is; 0: a sign of life
# Signs of life come at least so often, seconds, and so many of them within the patience.
_SECONDS_BETWEEN_SIGNS, _SIGNS_IN_PATIENCE = 20.0, 4
_SECONDS_TO_GIVE_UP = 5.0
_ALONE_WITH_THE_LEADER = 2  # machines
EX_TEMPFAIL = 75  # of sysexits.h, as everything that the same command may do another time


Split = Literal["auto", "passes", "tokens", "both"]
"""What machines share: the guidance passes of a step, the tokens of the video in every pass, passes among groups of
machines and the tokens within each, or what fits the stage."""
# Of "both" a machine alone in its group and two in another one are the least.
LEAST_FOR_BOTH = 3

Groups = tuple[tuple[int, ...], ...]
"""The numbers of the machines of each group; every machine is in one."""
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass
class Rules:
    """What a team keeps to; those of the leader count.

    Attributes:
        split: what the machines share.
        allow_mixed: machines of other kinds, whose results may differ in the last bits, may take part.
        shares: how fast each machine is beside the others, by its number; empty: all are alike.
        one_clip: the team parts when the last denoising stage of a clip has ended.
        terms: what must be the same on all machines besides weights and versions: fact -> value.
        request: what the clip is made of, for machines that are told to continue a run whose state they do not have:
            JSON values; None: such machines are not expected.
    """

    split: Split = "auto"
    allow_mixed: bool = False
    shares: Sequence[float] = ()
    one_clip: bool = False
    terms: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"{spelled('split')} must be one of {', '.join(SPLITS)}, got {self.split!r}.")
        if not isinstance(self.shares, (list, tuple)) or not all(map(_is_share, self.shares)):
            raise UsageError(
                f"{spelled('shares')} must be one positive number for each machine, got {self.shares!r}; give twice "
                "the number to a machine that is twice as fast."
            )
        self.shares = tuple(map(float, self.shares))

    def shares_of(self, size: int) -> tuple[float, ...]:
        """The shares of so many machines.

        Raises:
            UsageError: there are more or fewer shares than machines, or too few machines for the split.
        """
        if self.split == "both" and 1 < size < LEAST_FOR_BOTH:
            raise UsageError(
                f"{spelled('split')} both needs {LEAST_FOR_BOTH} machines or more, but there are {size}; leave it out."
            )
        if self.shares and len(self.shares) != size:
            there = "this is one machine alone" if size == 1 else f"there are {size} machines"
            raise UsageError(
                f"{spelled('shares')} has {len(self.shares)} numbers, but {there}; give one for each machine, that of "
                "machine 0 first, or none."
            )
        return tuple(self.shares) or (1.0,) * size


@dataclass
class Traffic:
    """What a machine has had from the others, by kind.

    Attributes:
        received: bytes.
        calls: operations in which all machines took part.
        seconds: spent waiting for them.
    """

    received: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


class Started(NamedTuple):
    """An exchange on its way.

    Attributes:
        result: its bytes.
        kind: of `Traffic`.
        dtype, shape: of what they are.
        received: how many of the bytes come from others.
    """

    result: Future[mx.array]
    kind: str
    dtype: mx.Dtype
    shape: tuple[int, ...]
    received: int


class Team:
    """The machines that make a clip together, seen from one of them.

    A thread of its own takes part in the operations of the group, in the order in which they are asked for, so that
    every wait ends: with a result, or when ``patience`` is over, or with Ctrl-C. An operation is done before anything
    that reads its result is begun; no command of a GPU ever waits for the net.

    Args:
        group: the machines.
        patience: seconds after which a machine that says nothing counts as lost; with three machines or more those
            that do not lead wait twice as long.
        rules: what the team keeps to.

    Attributes:
        rules: as given.
        traffic: what this machine has had from the others.
    """

    def __init__(self, group: Group, patience: float = DEFAULT_PATIENCE, rules: Rules | None = None) -> None:
        self.rules = Rules() if rules is None else rules
        self.traffic = Traffic()
        self._group = group
        # The leader decides what follows on silence. It may have begun to wait later, by what a machine may need for
        # its part, and would take another that gives up before for one that has gone.
        self._patience = patience if group.rank == 0 or group.size == _ALONE_WITH_THE_LEADER else 2 * patience
        self._smaller: dict[Groups, Group | None] = {}
        self._lost = ""
        self._closed = False
        self._rests = False
        self._tasks: queue.SimpleQueue[tuple[Future[mx.array], Callable[[mx.array], mx.array], mx.array] | None]
        self._tasks = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._communicate, name="ltx2rt-team", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, patience: float = DEFAULT_PATIENCE, rules: Rules | None = None) -> Team | None:
        """Join the group that the environment of this process asks for; None: it asks for none.

        Raises:
            UsageError: variables, hosts, ``patience`` or ``rules`` that cannot work.
            MachineLost: a machine did not come.
        """
        asked = asked_for(os.environ)
        if rules is not None:
            rules.shares_of(1 if asked is None else asked.size)
        if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not 0 < patience < math.inf:
            raise UsageError(f"{spelled('patience')} must be a positive number of seconds, got {patience!r}.")
        return None if asked is None else cls(join(asked, patience), patience, rules)

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    @property
    def rank(self) -> int:
        """Number of this machine."""
        return self._group.rank

    @property
    def size(self) -> int:
        """How many machines there are."""
        return self._group.size

    @property
    def leads(self) -> bool:
        """Whether this machine runs the pipeline; the others do what it asks for."""
        return self.rank == 0

    @property
    def is_there(self) -> bool:
        """Whether the others can still be asked for anything."""
        return not (self._lost or self._closed)

    def close(self) -> None:
        """The leader lets the others go; from now on this machine is alone."""
        if self.leads and self.is_there:
            with suppress(MachineLost):
                self.tell(None)
        self._closed = True
        self._tasks.put(None)

    def abandon(self) -> None:
        """Leave without a word, as after an error: the others find the connection lost."""
        self._lost = self._lost or "this machine has left"
        self._give_up()
        self._closed = True
        self._tasks.put(None)
        self._thread.join(_SECONDS_TO_GIVE_UP)
        if self._thread.is_alive():  # MLX would wait for it for ever as the process ends
            atexit.register(_end_at_once)

    # What is exchanged.

    def tell(self, head: Any, arrays: Sequence[Array | None] = ()) -> None:
        """Tell the others something; the leader does.

        Args:
            head: a JSON value; None: that they may go.
            arrays: of dtypes that numpy has.

        Raises:
            ConnectionLost: a machine has gone. MachineLost: one says nothing.
        """
        self._rests = False
        message = packed(head, arrays)
        self._wait("messages", self._submit(self._group.all_sum, _as_bytes(len(message))))
        self._wait("messages", self._submit(self._group.all_sum, _evaluated(mx.array(message))))
        for nbytes in (_SIZE_BYTES, len(message)):
            self._count("messages", _received_of_sum(nbytes, self.size))

    def messages(self) -> Iterator[tuple[Any, list[Array | None]]]:
        """What the leader tells the others, until it lets them go; raises as `tell`."""
        while True:
            size = self._told(_SIZE_BYTES).tobytes()
            if not any(size):
                continue
            head, arrays = unpacked(self._told(int.from_bytes(size, "little")))
            if head is None:
                self._closed = True
                return
            yield head, arrays

    def _told(self, nbytes: int) -> Array:
        found = to_numpy(
            self._wait("messages", self._submit(self._group.all_sum, _evaluated(mx.zeros(nbytes, mx.uint8))))
        )
        self._count("messages", _received_of_sum(nbytes, self.size))
        return found

    def rest(self) -> None:
        """The leader has nothing to ask for a while; signs of life keep the others waiting."""
        self._rests = True

    def gather(self, x: mx.array, kind: str) -> mx.array:
        """``x`` of every machine, (N, *shape), with every bit; all give the same dtype and shape.

        Raises:
            ConnectionLost: a machine has gone. MachineLost: one says nothing.
        """
        return self.finish(self.start(x, kind))

    def start(self, x: mx.array, kind: str, group: Group | None = None) -> Started:
        """Begin to gather ``x``, as soon as it is computed; what else this machine has to do goes on meanwhile.

        Args:
            x: of the same dtype and shape on all machines.
            kind: of `Traffic`.
            group: the machines that do; None: all.
        """
        among = self._group if group is None else group
        flat = _flat(x, (1, -1))
        received = (among.size - 1) * flat.nbytes
        return Started(self._submit(among.all_gather, flat), kind, x.dtype, (among.size, *x.shape), received)

    def start_sum(self, x: mx.array, kind: str, group: Group | None = None) -> Started:
        """The same for the sum of the bytes of ``x``: exact where all machines but one give zeros."""
        among = self._group if group is None else group
        flat = _flat(x, (-1,))
        received = _received_of_sum(flat.nbytes, among.size)
        return Started(self._submit(among.all_sum, flat), kind, x.dtype, x.shape, received)

    def finish(self, started: Started) -> mx.array:
        """What `start` (N, *shape) or `start_sum` (*shape) began; raises as `gather`."""
        found = self._wait(started.kind, started.result)
        self._count(started.kind, started.received)
        return found.view(started.dtype).reshape(started.shape)

    def gather_texts(self, text: str, kind: str = "facts") -> list[str]:
        """A text of every machine."""
        own = text.encode()
        sizes = to_numpy(self.gather(mx.array([len(own)]), kind))
        padded = as_array(own.ljust(max(1, int(sizes.max())), b"\0"))
        texts = to_numpy(self.gather(mx.array(padded), kind))
        return [row.tobytes()[: int(size)].decode() for row, size in zip(texts, sizes.ravel(), strict=True)]

    # Groups of machines.

    @property
    def addresses(self) -> tuple[str, ...] | None:
        """Under which others reach this machine; None: some of the machines cannot have a group of their own."""
        return self._group.addresses

    def group_of(self, groups: Groups) -> Group | None:
        """The machines of this one's group; None: it has nobody else. All machines ask for the same at the same time.

        Raises:
            ConnectionLost: a machine has gone. MachineLost: one did not come, or says nothing.
            UsageError: machines cannot reach each other.
        """
        if groups not in self._smaller:
            offers = self.gather_texts(self._group.offer(), "links")
            own = next(members for members in groups if self.rank in members)
            try:
                self._smaller[groups] = (
                    self._group.smaller(own, [offers[member] for member in own], self._patience)
                    if len(own) > 1
                    else None
                )
            except MachineLost as error:
                self._lost = str(error)
                self._give_up()
                raise
        return self._smaller[groups]

    def _give_up(self) -> None:
        """End what hangs in any group."""
        for group in (self._group, *self._smaller.values()):
            if group is not None:
                group.give_up()

    # How it is done.

    def _submit(self, operation: Callable[[mx.array], mx.array], x: mx.array) -> Future[mx.array]:
        result: Future[mx.array] = Future()
        if not self.is_there:
            result.set_exception(ConnectionLost(self._lost or "the team has parted"))
        else:
            self._tasks.put((result, operation, x))
        return result

    def _wait(self, kind: str, result: Future[mx.array]) -> mx.array:
        begun = time.perf_counter()
        try:
            return result.result(self._patience)
        except concurrent.futures.TimeoutError:
            silence = f"no word from another machine for {self._patience:g} s"
            self._lost = silence  # until the other thread finds its connections shut
            self._give_up()
            raise MachineLost(
                f"{silence}: it has stopped, or needs longer for its part; the same command on all machines, with "
                "--resume, continues, on any number of them. --patience SECONDS waits longer."
            ) from None
        finally:
            self.traffic.seconds[kind] = self.traffic.seconds.get(kind, 0.0) + time.perf_counter() - begun

    def _count(self, kind: str, nbytes: int) -> None:
        self.traffic.received[kind] += nbytes
        self.traffic.calls[kind] += 1

    def _communicate(self) -> None:
        """The thread that takes part in the operations."""
        pause = min(_SECONDS_BETWEEN_SIGNS, self._patience / _SIGNS_IN_PATIENCE) if self.leads else None
        while True:
            try:
                task = self._tasks.get(timeout=pause)
            except queue.Empty:
                if self._rests and self.is_there:
                    self._do(Future(), self._group.all_sum, _as_bytes(0))
                continue
            if task is None:
                return
            self._do(*task)
            del task  # with its arrays

    def _do(self, result: Future[mx.array], operation: Callable[[mx.array], mx.array], x: mx.array) -> None:
        if self._lost:  # a second operation on a broken group would wait for ever
            result.set_exception(ConnectionLost(self._lost))
            return
        try:
            mx.eval(x)
        except BaseException as error:
            result.set_exception(error)
            return
        try:
            result.set_result(operation(x))
        except RuntimeError as error:
            self._lost = f"the connection to another machine is lost ({error})"
            self._give_up()  # so that those notice who are no neighbours of the one that has gone
            result.set_exception(ConnectionLost(self._lost))
        except BaseException as error:
            result.set_exception(error)


def _end_at_once() -> None:
    """End the process without MLX's leave: an operation hangs that no backend but the ring can be made to end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(EX_TEMPFAIL)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _received_of_sum(nbytes: int, machines: int) -> int:
    """What each machine of a ring receives as they add up so many bytes."""
    return 2 * nbytes * (machines - 1) // machines


def _flat(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """The bytes of an array, on their way; the thread that sends them waits for them."""
    flat = mx.contiguous(x).reshape(shape).view(mx.uint8)
    mx.async_eval(flat)  # type: ignore[no-untyped-call]  # no types in MLX's stub
    return flat


def _evaluated(x: mx.array) -> mx.array:
    mx.eval(x)
    return x


def _as_bytes(number: int) -> mx.array:
    return _evaluated(mx.array(list(number.to_bytes(_SIZE_BYTES, "little")), mx.uint8))

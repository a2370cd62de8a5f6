"""How the machines of a team reach each other, and how fast, measured with the operation that a clip uses."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.team.team import Team

_SMALL_TIMES, _LARGE_TIMES = 21, 3
# Larger ones measure how fast a machine gets new memory.
_LARGE_BYTES = 4 << 20
_KIND = "links"
_SECONDS_TO_CONNECT = 2.0


@dataclass(frozen=True)
class Links:
    """Between all machines of a team together: an exchange is over when the slowest cable has brought its part.

    Attributes:
        latency: seconds that an exchange of a few bytes takes.
        bandwidth: bytes in a second that a machine receives from the others.
    """

    latency: float
    bandwidth: float

    def seconds(self, received: float, exchanges: float) -> float:
        """What it takes to receive so many bytes in so many exchanges, one after the other."""
        return received / self.bandwidth + exchanges * self.latency


def measured_links(team: Team) -> Links:
    """Measure; all machines do so at the same time.

    Raises:
        ConnectionLost: a machine has gone. MachineLost: one says nothing.
    """
    latency = _seconds(team, 1, _SMALL_TIMES)
    large = _seconds(team, _LARGE_BYTES, _LARGE_TIMES)
    return Links(latency, (team.size - 1) * _LARGE_BYTES / max(large - latency, 1e-9))


def _seconds(team: Team, nbytes: int, times: int) -> float:
    """Median of several exchanges, after one that opens the way."""
    x = mx.zeros(nbytes, mx.uint8)
    mx.eval(x)
    found = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        team.gather(x, _KIND)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def all_reach_all(team: Team) -> bool:
    """Whether some of the machines can have groups of their own: every machine connects to every address of all others.
    All ask at the same time. In a ring of cables machines reach their neighbours alone.

    Raises:
        ConnectionLost: a machine has gone. MachineLost: one says nothing.
    """
    with ExitStack() as stack:
        doors: list[tuple[str, int]] | None = None
        if team.addresses is not None:
            with suppress(OSError):  # an address may be another machine's that hands on what comes
                opened = [stack.enter_context(socket.create_server((host, 0))) for host in team.addresses]
                doors = [(host, door.getsockname()[1]) for host, door in zip(team.addresses, opened, strict=True)]
        offered = [json.loads(text) for text in team.gather_texts(json.dumps(doors), _KIND)]
        reached = all(of_machine is not None and all(map(_answers, of_machine)) for of_machine in offered)
        return all(json.loads(text) for text in team.gather_texts(json.dumps(reached), _KIND))


def _answers(door: Sequence[Any]) -> bool:
    host, port = door
    with suppress(OSError), socket.create_connection((host, port), _SECONDS_TO_CONNECT):
        return True
    return False

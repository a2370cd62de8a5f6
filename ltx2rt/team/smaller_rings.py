"""Rings among some of the machines of a ring, which MLX cannot split: they join one more."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


def free_ports(addresses: Sequence[str]) -> list[str]:
    """``HOST:PORT`` for each address of this machine, with a port that nobody has.

    Raises:
        OSError: an address is not this machine's.
    """
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.create_server((host, 0))) for host in addresses]
        return [f"{host}:{door.getsockname()[1]}" for host, door in zip(addresses, doors, strict=True)]


@contextmanager
def ring_variables(rank: int, rows: Sequence[Sequence[str]]) -> Iterator[None]:
    """While this lasts the environment asks for another ring.

    Args:
        rank: number of this machine in it.
        rows: ``HOST:PORT`` of each of its machines.
    """
    before = {name: os.environ[name] for name in ("MLX_RANK", "MLX_HOSTFILE")}
    with tempfile.TemporaryDirectory(prefix="ltx2rt-ring-") as folder:
        path = Path(folder) / "hosts.json"
        path.write_text(json.dumps(rows))
        os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(path)}
        try:
            yield
        finally:
            os.environ |= before

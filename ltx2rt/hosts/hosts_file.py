"""The hosts file: which machines make a clip together, as `mlx.launch` and `mlx.distributed_config` have it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ltx2rt.errors import UsageError
from ltx2rt.paths import read_text

Backend = Literal["ring", "jaccl", "jaccl-ring"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

# Names of the machine that the command is typed on: it is reached without ssh.
HERE = ("127.0.0.1", "localhost")
# Where the first machine listens, as in mlx.launch; each further address takes the next port.
FIRST_PORT = 32323

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE = '{"hosts": [{"ssh": "127.0.0.1", "ips": ["10.0.0.1"]}, {"ssh": "mac2", "ips": ["10.0.0.2"]}]}'


@dataclass(frozen=True)
class Machine:
    """One machine.

    Attributes:
        name: what ssh calls it, or one of `HERE`.
        addresses: under which the other machines reach it, one per cable.
        rdma: its device for each machine, for ``jaccl``; None where there is none.
        share: how fast it is beside the others.
    """

    name: str
    addresses: tuple[str, ...] = ()
    rdma: tuple[Any, ...] = ()
    share: float = 1.0

    @property
    def is_here(self) -> bool:
        """Whether it is the one that the command is typed on."""
        return self.name in HERE


@dataclass(frozen=True)
class Hosts:
    """What a hosts file says.

    Attributes:
        backend: of MLX.
        machines: the first one leads, and writes what is made.
        variables: of the environment, for every machine.
        first_port: where the first machine listens.
    """

    backend: Backend
    machines: tuple[Machine, ...]
    variables: Mapping[str, str]
    first_port: int = FIRST_PORT

    @property
    def shares(self) -> tuple[float, ...]:
        """How fast each machine is beside the others; empty: all are alike."""
        found = tuple(machine.share for machine in self.machines)
        return found if len(set(found)) > 1 else ()

    def settings_of(self, rank: int) -> tuple[dict[str, str], dict[str, str]]:
        """What tells MLX on the machine of a rank about the others.

        Returns:
            Variables of its environment, and those that name a file, with what is in it.
        """
        variables = {**self.variables, "MLX_RANK": str(rank)}
        if self.backend == "ring":
            port, addresses = self.first_port, []
            for machine in self.machines:
                addresses.append([f"{address}:{port + i}" for i, address in enumerate(machine.addresses)])
                port += len(machine.addresses)
            return variables, {"MLX_HOSTFILE": json.dumps(addresses)}
        variables["MLX_JACCL_COORDINATOR"] = f"{self.machines[0].addresses[0]}:{self.first_port}"
        if self.backend == "jaccl-ring":
            variables["MLX_JACCL_RING"] = "1"
        return variables, {"MLX_IBV_DEVICES": json.dumps([machine.rdma for machine in self.machines])}


def read_hosts(path: Path) -> Hosts:
    """Read and check a hosts file: a JSON object as ``mlx.distributed_config`` writes it, or the list of its hosts.

    Raises:
        UsageError: the file cannot be read, or cannot work; one sentence says why.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"the hosts file {path} cannot be read: {error.strerror}; check the path.") from error
    except ValueError as error:
        raise UsageError(f"the hosts file {path} is not JSON: {error}; it looks like {_EXAMPLE}") from error
    if isinstance(content, list):
        content = {"hosts": content}
    if not isinstance(content, dict) or not isinstance(content.get("hosts"), list):
        raise _wrong(path, f'has no list "hosts"; it looks like {_EXAMPLE}')
    backend = _backend(path, content.get("backend") or "ring")
    machines = tuple(_machine(path, number, entry) for number, entry in enumerate(content["hosts"], 1))
    if len(machines) < 2:
        raise _wrong(path, f"names {len(machines)} machine; a team has at least two, one alone needs no hosts file.")
    (_check_ring if backend == "ring" else _check_rdma)(path, machines)
    port = content.get("port", FIRST_PORT)
    last = 65535 - sum(len(machine.addresses) for machine in machines)
    if isinstance(port, bool) or not isinstance(port, int) or not 1024 <= port <= last:
        raise _wrong(path, f'has the port {port!r}; "port" must be a whole number from 1024 to {last}.')
    return Hosts(backend, machines, _variables(path, content.get("envs", [])), port)


def _wrong(path: Path, what: str) -> UsageError:
    return UsageError(f"the hosts file {path} {what}")


def _backend(path: Path, name: Any) -> Backend:
    for known in BACKENDS:
        if name == known:
            return known
    if name == "mpi":
        raise _wrong(path, "asks for mpi, which has a starter of its own; start the command with mpirun.")
    raise _wrong(path, f"asks for the backend {name!r}; use one of {', '.join(BACKENDS)}.")


def _machine(path: Path, number: int, entry: Any) -> Machine:
    name = entry.get("ssh") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name.strip() or name.startswith("-"):
        raise _wrong(
            path, f'has no usable name of machine {number}, got {name!r}; give "ssh" as you type it after ssh.'
        )
    addresses, rdma = entry.get("ips", []), entry.get("rdma", [])
    if not isinstance(addresses, list) or not all(isinstance(a, str) and a.strip() for a in addresses):
        raise _wrong(path, f'has "ips" of {name} that are no list of addresses, got {addresses!r}.')
    v6 = next((address for address in addresses if ":" in address), None)
    if v6 is not None:
        raise _wrong(path, f"gives {name} the address {v6}; MLX takes IPv4 addresses and names, without a port.")
    if not isinstance(rdma, list):
        raise _wrong(path, f'has "rdma" of {name} that is no list of devices, got {rdma!r}.')
    share = entry.get("share", 1.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
        raise _wrong(path, f'has the "share" {share!r} of {name}; it must be a positive number, 2 for twice as fast.')
    return Machine(name, tuple(addresses), tuple(rdma), float(share))


def _check_ring(path: Path, machines: Sequence[Machine]) -> None:
    spread = not all(machine.is_here for machine in machines)
    for machine in machines:
        if not machine.addresses:
            raise _wrong(path, f'has no address of {machine.name}; give "ips", under which the others reach it.')
        local = next((a for a in machine.addresses if a in HERE or a.startswith("127.")), None)
        if spread and local is not None:
            raise _wrong(
                path,
                f'gives {machine.name} the address {local}, which no other machine can reach; give in "ips" the one '
                "of its cable.",
            )


def _check_rdma(path: Path, machines: Sequence[Machine]) -> None:
    if not machines[0].addresses:
        raise _wrong(
            path, f'has no address of {machines[0].name}; give "ips": the others ask it for their connections.'
        )
    for rank, machine in enumerate(machines):
        if len(machine.rdma) != len(machines):
            raise _wrong(
                path,
                f'lists {len(machine.rdma)} devices in "rdma" of {machine.name}; give one for each of the '
                f"{len(machines)} machines, null for itself.",
            )
        if machine.rdma[rank] is not None:
            raise _wrong(path, f'has a device from {machine.name} to itself in "rdma"; that entry is null.')


def _variables(path: Path, entries: Any) -> dict[str, str]:
    if not isinstance(entries, list):
        raise _wrong(path, f'has "envs" that are no list of NAME=VALUE, got {entries!r}.')
    variables = {}
    for entry in entries:
        name, equals, value = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        if not equals or not _VARIABLE.fullmatch(name):
            raise _wrong(path, f'has {entry!r} in "envs"; write NAME=VALUE.')
        variables[name] = value
    return variables

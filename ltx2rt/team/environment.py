"""What the environment says about a group of machines; only variables and the file of hosts are read.

`mx.distributed` is not asked: merely asking it for MPI ends the process where MPICH is installed, and without a name it
tries one backend after the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from ltx2rt.errors import UsageError

Backend = Literal["ring", "jaccl", "mpi", "nccl"]
ABSENT = "LTX2RT_ABSENT"


class Asked(NamedTuple):
    """The group that a process is told to join.

    Attributes:
        backend: of `mx.distributed`.
        rank: number of this machine.
        size: how many machines there are.
        absent: file in which whoever started the machines writes which of them have ended badly (`written_absence`).
        addresses: under which the others reach this machine, without ports, in a ring over TCP.
    """

    backend: Backend
    rank: int
    size: int
    absent: Path | None = None
    addresses: tuple[str, ...] = ()


def asked_for(environ: Mapping[str, str]) -> Asked | None:
    """What is asked for; None: an ordinary run, also where the group would be of one machine.

    ``MLX_RANK`` and ``MLX_HOSTFILE`` ask for a ring over TCP, ``MLX_RANK`` and ``MLX_IBV_DEVICES`` for RDMA over
    Thunderbolt (jaccl), ``MLX_RANK`` and ``NCCL_HOST_IP`` for NCCL; the variables of Open MPI's ``mpirun`` for MPI.

    Raises:
        UsageError: variables that cannot work.
    """
    asked = _asked_of_mlx(environ)
    return asked if asked is None or ABSENT not in environ else asked._replace(absent=Path(environ[ABSENT]))


class Absence(NamedTuple):
    """A machine that has ended badly.

    Attributes:
        machine: its name.
        code: its exit code.
    """

    machine: str
    code: int


def written_absence(absence: Absence) -> str:
    """A line of the file that ``LTX2RT_ABSENT`` names."""
    return json.dumps(absence)


def read_absence(path: Path) -> Absence | None:
    """The first machine of the file that has ended badly; None: none has, or what was written is not whole yet."""
    line, end, _ = path.read_text().partition("\n")
    return Absence(*json.loads(line)) if end else None


def _asked_of_mlx(environ: Mapping[str, str]) -> Asked | None:
    if "MLX_RANK" not in environ:
        if "OMPI_COMM_WORLD_SIZE" not in environ:
            return None
        size = _number(environ, "OMPI_COMM_WORLD_SIZE")
        return _group("mpi", _number(environ, "OMPI_COMM_WORLD_RANK"), size, "OMPI_COMM_WORLD_SIZE")
    rank = _number(environ, "MLX_RANK")
    if "NCCL_HOST_IP" in environ:
        return _group("nccl", rank, _number(environ, "MLX_WORLD_SIZE"), "MLX_WORLD_SIZE")
    if "MLX_IBV_DEVICES" in environ:
        return _group("jaccl", rank, len(_rows(environ, "MLX_IBV_DEVICES")), "MLX_IBV_DEVICES")
    if "MLX_HOSTFILE" in environ:
        rows = [_addresses(row, environ["MLX_HOSTFILE"]) for row in _rows(environ, "MLX_HOSTFILE")]
        asked = _group("ring", rank, len(rows), "MLX_HOSTFILE")
        return asked if asked is None else asked._replace(addresses=rows[rank])
    raise UsageError(
        "MLX_RANK asks for a group of machines, but neither MLX_HOSTFILE (TCP) nor MLX_IBV_DEVICES (RDMA) says which; "
        "set one of them, or unset MLX_RANK."
    )


def _group(backend: Backend, rank: int, size: int, variable: str) -> Asked | None:
    if size <= 1:
        return None
    if rank >= size:
        raise UsageError(
            f"this machine has the rank {rank}, but {variable} says that there are {size}; ranks are 0 to {size - 1}."
        )
    return Asked(backend, rank, size)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"{name} must be a whole number, got {text!r}; set it for every machine.")
    return int(text)


def _rows(environ: Mapping[str, str], name: str) -> list[object]:
    """The list in a JSON file: one entry for each machine."""
    path = Path(environ[name])
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} is {str(path)!r}, which cannot be read as JSON ({error}); name the file.") from error
    if not isinstance(rows, list):
        raise UsageError(f"{name}: {path} holds no list with an entry for each machine; write one.")
    return rows


def _addresses(row: object, path: str) -> tuple[str, ...]:
    """The addresses of a machine, without their ports."""
    addresses = row if isinstance(row, list) else []
    for address in addresses:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not host or ":" in host or not port.isdecimal():
            raise UsageError(
                f'MLX_HOSTFILE: {path} has {address!r}; write "HOST:PORT" with a name or an IPv4 address, in a list '
                "for each machine."
            )
    if not addresses:
        raise UsageError(f'MLX_HOSTFILE: {path} has {row!r}; write a list of "HOST:PORT" for each machine.')
    return tuple(address.rpartition(":")[0] for address in addresses)

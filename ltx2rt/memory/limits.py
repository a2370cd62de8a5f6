"""How much memory this process may take: what the machine, a container or a shell leaves, and what a user says."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.memory.measure import available_bytes, resident_bytes, virtual_bytes

# Share of what is free that is used when no budget is given.
DEFAULT_SHARE = 0.8

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC_CGROUP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60


class Limit(NamedTuple):
    """An upper bound of this process's memory.

    Attributes:
        spare: bytes that the process may still take.
        reason: who says so.
        counts: what of a stage the bound is about: its ``memory``, the ``addresses`` it reserves, or its ``arrays``,
            which are what MLX holds.
    """

    spare: int
    reason: str
    counts: Literal["memory", "addresses", "arrays"] = "memory"


def parse_bytes(text: str) -> int:
    """Bytes of ``12GB``, ``900MB``, ``7.5 GiB`` or a plain number; K, M, G and T are decimal, Ki ... binary.

    Raises:
        UsageError: not such a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text.upper())
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{text!r} is not a memory size; write for example 12GB, 900MB or 7.5GiB.")
    units = _BINARY_UNITS if match[3] else _UNITS
    nbytes = int(float(match[1]) * units[match[2]])
    if nbytes <= 0:
        raise UsageError(f"a memory size must be positive, got {text!r}.")
    return nbytes


def format_bytes(nbytes: float) -> str:
    """Decimal units with three digits: ``12.3 GB``, ``456 MB``."""
    if abs(nbytes) >= 1e9:
        return f"{nbytes / 1e9:.2f} GB" if abs(nbytes) < 1e11 else f"{nbytes / 1e9:.0f} GB"
    return f"{nbytes / 1e6:.0f} MB"


def hard_limits() -> list[Limit]:
    """The bounds that the system sets for this process now, by refusing memory, by killing it or by becoming slow.

    On a Mac the machine and the GPU set them: control groups exist on Linux only, where a file system shows them.
    """
    limits = [Limit(available_bytes(), "free memory of the machine")]
    limits += [Limit(spare, "memory limit of the container (cgroup)") for spare in _cgroup_spares()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= soft < _UNLIMITED:
        limits.append(Limit(max(0, soft - virtual_bytes()), "limit of the shell (ulimit -v)", "addresses"))
    # What a Mac lets the GPU keep: a constant of the machine, above which arrays are moved in and out.
    working_set = mx.device_info().get("max_recommended_working_set_size")
    if working_set:
        spare = max(0, int(working_set) - mx.get_active_memory())
        limits.append(Limit(spare, "working set that the system recommends for the GPU", "arrays"))
    return limits


def tightest_limit() -> Limit:
    """The hard limit that leaves least."""
    return min(hard_limits(), key=lambda limit: limit.spare)


def default_budget() -> int:
    """Memory of the whole process when the user gives none: a fixed share of what the tightest limit leaves."""
    return resident_bytes() + int(DEFAULT_SHARE * tightest_limit().spare)


def _cgroup_spares() -> Iterator[int]:
    """What each control group above this process leaves. File pages count as used there, but give way."""
    for folder in _cgroup_folders():
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        yield max(0, limit - max(0, used - _file_pages(folder)))


def _cgroup_folders() -> Iterator[Path]:
    try:
        lines = _PROC_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _CGROUP_ROOT
        elif "memory" in controllers.split(","):
            root = _CGROUP_ROOT / "memory"
        else:
            continue
        folder = root / path.lstrip("/")
        # Inside a container the path may be the host's; the root of the mount is then the group itself.
        while folder != root.parent:
            if folder.is_dir():
                yield folder
            folder = folder.parent


def _number(*paths: Path) -> int | None:
    for path in paths:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def _file_pages(folder: Path) -> int:
    try:
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    found = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    return found.get("inactive_file", 0) + found.get("active_file", 0)

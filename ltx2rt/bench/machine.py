"""What this machine is and what it can do at most, measured with the threads of the kernels."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil

from ltx2rt.bench.case import Work
from ltx2rt.errors import UsageError
from ltx2rt.kernels.selection import ext

ARITHMETIC_SECONDS = 0.005
TILE_ISA = "amxbf16"
READ_BYTES = 256 << 20


@dataclass(frozen=True)
class Ceilings:
    """One calibration: operations per second of each arithmetic, bytes per second of reading.

    ``tiles`` is that of bfloat16 products in AMX tiles; None: kernels use none.
    """

    float32: float
    bfloat16: float
    read: float
    tiles: float | None = None

    def peak(self, work: Work) -> float:
        """Operations per second that the kernel of some work could reach."""
        if work.arithmetic == "float32":
            return self.float32
        return self.tiles if work.tiles and self.tiles is not None else self.bfloat16

    def least_seconds(self, work: Work) -> float:
        return work.least_seconds(self.peak(work), self.read)

    def bound(self, work: Work) -> str:
        """``arithmetic`` or ``read``: which of the two takes longer."""
        return "arithmetic" if work.operations / self.peak(work) >= work.bytes / self.read else "read"

    def at_least(self, other: Ceilings) -> Ceilings:
        """The higher of two calibrations, value by value."""
        tiles = [rate for rate in (self.tiles, other.tiles) if rate is not None]
        return Ceilings(
            max(self.float32, other.float32),
            max(self.bfloat16, other.bfloat16),
            max(self.read, other.read),
            max(tiles, default=None),
        )


@dataclass
class Machine:
    """Calibrates again and again, and remembers the highest values seen.

    Attributes:
        best: of the kernels' own instructions.

    Raises:
        UsageError: without the compiled kernels, whose loops measure the ceilings.
    """

    best: Ceilings = field(init=False)

    def __post_init__(self) -> None:
        if ext is None:
            raise UsageError("the compiled kernels are not installed, so nothing can be calibrated; reinstall ltx2rt.")
        self._buffer = mx.ones((READ_BYTES // 4,), dtype=mx.float32)
        mx.eval(self._buffer)
        self.best = Ceilings(0.0, 0.0, 0.0)
        for _ in range(3):
            self.calibrate()

    def calibrate(self) -> Ceilings:
        """The ceilings now; takes about 30 ms."""
        now = Ceilings(
            ext.calibrate_arithmetic("float32", ARITHMETIC_SECONDS),
            ext.calibrate_arithmetic("bfloat16", ARITHMETIC_SECONDS),
            ext.calibrate_read(self._buffer),
            ext.calibrate_tiles(ARITHMETIC_SECONDS) if ext.isa() == TILE_ISA else None,
        )
        self.best = self.best.at_least(now)
        return now

    def as_dict(self) -> dict[str, Any]:
        """For reports; the rates are the highest calibrated."""
        memory = psutil.virtual_memory()
        return {
            "cpu": cpu_name(),
            "cpu_family": cpu_family(),
            "memory_bytes": memory.total,
            "memory_available_bytes": memory.available,
            "cores": ext.available_cores(),
            "threads": ext.num_threads(),
            "isa": ext.isa(),
            "float32_gflops": round(self.best.float32 / 1e9, 1),
            "bfloat16_gflops": round(self.best.bfloat16 / 1e9, 1),
            "bfloat16_tiles_gflops": None if self.best.tiles is None else round(self.best.tiles / 1e9, 1),
            "unmeasured_units": unmeasured_units(),
            "read_gbytes_per_s": round(self.best.read / 1e9, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **{name: installed_version(name) for name in ("ltx2rt", "mlx", "torch", "diffusers")},
        }


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's own name for itself, as far as the system tells it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_family() -> str:
    """What distinguishes processors of one name: ``GenuineIntel family 6 model 207``; empty if the system has none."""
    info = _cpuinfo()
    names = {
        "vendor_id": "{}",
        "cpu family": "family {}",
        "model": "model {}",
        "CPU implementer": "implementer {}",
        "CPU part": "part {}",
    }
    return " ".join(form.format(info[name]) for name, form in names.items() if name in info)


def unmeasured_units() -> list[str]:
    """Units for matrix products that this processor has and nothing here measures or uses."""
    if platform.system() == "Darwin":
        return ["the matrix units of Apple's cores"]
    return ["SME"] if "sme" in _cpuinfo().get("Features", "").split() else []


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}

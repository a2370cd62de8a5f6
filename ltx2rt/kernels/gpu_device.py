"""The Metal device, the system around it and the MLX wheel: what decides about kernels, and what a user should know."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.kernels.selection import ext

# The first GPU generation with matrix units (M5), and the first macOS that programs them.
MATRIX_GENERATION = 17
MATRIX_MACOS = (26, 2)


@dataclass(frozen=True)
class GpuDevice:
    """One Metal GPU.

    Attributes:
        name: ``Apple M4 Max``.
        architecture: ``applegpu_g16s``.
        macos: ``15.3.1``.
        memory_bytes: of the machine.
        wired_bytes: what Metal recommends to keep resident at most (``iogpu.wired_limit_mb`` changes it).
        mlx_version: of the installed MLX.
        wheel: platform of the installed MLX wheel, ``macosx_26_0_arm64``; empty when unknown.
    """

    name: str
    architecture: str
    macos: str
    memory_bytes: int = 0
    wired_bytes: int = 0
    mlx_version: str = ""
    wheel: str = ""

    @property
    def generation(self) -> int:
        """13 for M1, 14 M2, 15 M3, 16 M4, 17 M5; 0 when the architecture is not one of these."""
        found = re.match(r"applegpu_g(\d+)", self.architecture)
        return int(found[1]) if found else 0


def metal_device() -> GpuDevice | None:
    """The GPU that our Metal kernels would run on; None where there is none, or this build has no launch code."""
    if not mx.metal.is_available() or not has_launch_code():
        return None
    info = mx.device_info()
    return GpuDevice(
        str(info.get("device_name", "")),
        str(info.get("architecture", "")),
        platform.mac_ver()[0],
        int(info.get("memory_size", 0)),
        int(info.get("max_recommended_working_set_size", 0)),
        importlib.metadata.version("mlx"),
        wheel_platform(),
    )


def has_launch_code() -> bool:
    """Whether the compiled module contains the Metal launch code."""
    return bool(getattr(ext, "METAL", False))


def wheel_platform() -> str:
    """Platform tag of the wheel that ``mlx-metal`` was installed from; empty when it does not say."""
    try:
        text = importlib.metadata.distribution("mlx-metal").read_text("WHEEL") or ""
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = re.search(r"^Tag:\s*\S+-(\S+?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def advice(device: GpuDevice, environ: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """(topic, text) pairs for ``ltx2rt doctor``."""
    generation = f"generation {device.generation}" if device.generation else "unknown generation"
    rows = [
        ("gpu", f"{device.name}, {device.architecture} ({generation}), macOS {device.macos}"),
        ("mlx wheel", device.wheel or "unknown: the installed mlx-metal does not say for which macOS it was built"),
    ]
    if device.generation >= MATRIX_GENERATION:
        rows.append(("matrix units", _matrix_units(device)))
    if device.wired_bytes:
        rows.append(
            (
                "wired memory",
                f"Metal keeps at most {device.wired_bytes / 1e9:.1f} of {device.memory_bytes / 1e9:.1f} GB resident; "
                "sudo sysctl iogpu.wired_limit_mb=N raises it until the next restart",
            )
        )
    relaxed = environ.get("AGX_RELAX_CDM_CTXSTORE_TIMEOUT") == "1"
    rows.append(
        (
            "watchdog",
            "macOS ends work that keeps the display waiting (Impacting Interactivity, GPU Timeout), and with it the "
            "process. Our dispatches are bounded; if it happens, use a smaller size, switch the display off while it "
            "runs (the one remedy reported as reliable), or "
            + (
                "lower MLX_MAX_OPS_PER_BUFFER (AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 is set already)"
                if relaxed
                else "set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 (helps on some machines)"
            ),
        )
    )
    return rows


def _matrix_units(device: GpuDevice) -> str:
    system = tuple(int(n) for n in re.findall(r"\d+", device.macos)[:2])
    missing = []
    if system < MATRIX_MACOS:
        missing.append("they need macOS {}.{} or later".format(*MATRIX_MACOS))
    wheel = re.match(r"macosx_(\d+)_", device.wheel)
    if wheel is None or int(wheel[1]) < MATRIX_MACOS[0]:
        missing.append(
            f"MLX's kernels for them come with its macosx_{MATRIX_MACOS[0]}_0 wheel only: on macOS {MATRIX_MACOS[0]}, "
            "pip install --force-reinstall --no-deps mlx mlx-metal==" + (device.mlx_version or "VERSION")
        )
    if missing:
        return "not used by MLX: " + "; ".join(missing)
    return "used by MLX's own kernels; ours use the ordinary units, so MLX's may be chosen where they are faster"

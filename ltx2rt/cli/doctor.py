"""``ltx2rt doctor``: versions, device and which kernels are active, and why not the others."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from typing import Any

import mlx.core as mx

import ltx2rt
from ltx2rt.kernels.selection import use_reference


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="show versions, device and active kernels",
        description="Show what this installation runs on and which kernels are active.",
    )
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print the report; always exit code 0."""
    for name, value in facts():
        print(f"{name:<16}{value}")
    return 0


def facts() -> list[tuple[str, str]]:
    """(name, value) pairs, in the order shown."""
    return [
        ("ltx2rt", ltx2rt.__version__),
        ("mlx", importlib.metadata.version("mlx")),
        ("python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("device", str(mx.default_device())),
        ("metal", "available" if mx.metal.is_available() else "not available"),
        ("cores", str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())),
        ("kernels", _kernels()),
        ("instructions", _instruction_sets()),
    ]


def _kernels() -> str:
    if use_reference():
        return "reference graphs (LTX2RT_KERNELS=reference)"
    if mx.default_device().type == mx.DeviceType.gpu:
        return "reference graphs (no GPU kernels in this version)"
    from ltx2rt import _ext

    return f"compiled for the CPU: {_ext.isa()} with {_ext.num_threads()} threads"


def _instruction_sets() -> str:
    if use_reference():
        return "not looked at"
    from ltx2rt import _ext

    return "; ".join(f"{name}: {state}" for name, state in _ext.isas())

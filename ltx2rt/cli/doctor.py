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
from ltx2rt.kernels.gpu_device import advice, has_launch_code
from ltx2rt.kernels.kernel_choice import KernelChoice, metal_kernels
from ltx2rt.kernels.selection import OUR_KERNELS, ext, use_reference


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
        ("cores", _cores()),
        ("kernels", _kernels()),
        ("instructions", _instruction_sets()),
        *gpu_facts(None if use_reference() else metal_kernels()),
    ]


def gpu_facts(metal: KernelChoice | None) -> list[tuple[str, str]]:
    """The GPU, what a user of it should know, and what the self-proof found so far; nothing is proven here."""
    if metal is None:
        return []
    rows = [*advice(metal.device), ("self-proof", _proof_summary(metal))]
    for key, outcome in metal.store.outcomes().items():
        if outcome.fault:
            rows.append(("replaced", f"{key}: {outcome.fault}; the reference graph is used"))
        elif outcome.choice == "mlx":
            seconds = outcome.seconds or {}
            times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
            rows.append(("MLX's op", f"{key}: faster here ({times})"))
    return rows


def _proof_summary(metal: KernelChoice) -> str:
    outcomes = metal.store.outcomes().values()
    ours = sum(o.choice in OUR_KERNELS for o in outcomes)
    others = sum(o.choice == "mlx" for o in outcomes)
    replaced = sum(bool(o.fault) for o in outcomes)
    text = f"{ours} variants use our kernel, {others} MLX's own op, {replaced} the reference graph ({metal.store.path})"
    if metal.store.problem:
        text += f"; cannot be kept, so every process checks again: {metal.store.problem}"
    return text if outcomes else f"no variant was used yet; ltx2rt verify checks them all ({metal.store.path})"


def _cores() -> str:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    quota = None if ext is None else ext.cgroup_cores()
    return f"{cores}" if quota is None else f"{cores}, of which the control group grants the time of {quota}"


def _kernels() -> str:
    if use_reference():
        return "reference graphs (LTX2RT_KERNELS=reference)"
    if mx.default_device().type == mx.DeviceType.gpu:
        if metal_kernels() is not None:
            return "compiled for Metal on first use, each variant checked once"
        reason = "this GPU is not Metal's" if has_launch_code() else "this build has no Metal launch code"
        return f"reference graphs ({reason})"
    from ltx2rt import _ext

    return f"compiled for the CPU: {_ext.isa()} with {_ext.num_threads()} threads"


def _instruction_sets() -> str:
    if use_reference():
        return "not looked at"
    from ltx2rt import _ext

    return "; ".join(f"{name}: {state}" for name, state in _ext.isas())

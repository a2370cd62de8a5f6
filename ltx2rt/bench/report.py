"""Rows as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltx2rt.bench.case import BEFORE
from ltx2rt.bench.machine import Machine
from ltx2rt.bench.observation import Observation
from ltx2rt.bench.runner import Row

_NAME_WIDTH = 46
HEADER = (
    f"{'case':<{_NAME_WIDTH}}{'ms':>10}{'spread':>8}{'GFLOP/s':>10}{'GB/s':>8}{'ceiling':>9}"
    f"{'/ref':>8}{'/mlx':>8}{'/torch':>8}{'/dense':>8}  {'error':>8}"
)
LEGEND = (
    "ceiling: share of what the kernels' own instructions reach here (a) or of the read bandwidth (r), whichever is "
    "the tighter bound. "
    "/x: how many times longer x takes (dense: torch with a bf16 copy of the weight). "
    "error: root mean square against the reference, else torch or plain MLX."
)


def text_row(row: Row) -> str:
    """One line, with the notes below it."""
    values = row.as_dict()
    line = (
        f"{row.name:<{_NAME_WIDTH}}{values['seconds'] * 1e3:>10.2f}{row.spread:>8.0%}{values['gflops']:>10.1f}"
        f"{values['gbytes_per_s']:>8.1f}{values['percent_of_ceiling']:>7.0f}%{row.bound[0]}"
    )
    for rival in ("reference", "mlx", "torch", "torch_dense"):
        ratio = values[f"ratio_{rival}"]
        line += f"{'-' if ratio is None else f'{ratio:.3g}':>8}"
    line += f"  {'-' if row.error is None else f'{row.error:.1e}':>8}"
    own = [f"ratio_{name} {values[f'ratio_{name}']:.3f}" for name in BEFORE if f"ratio_{name}" in values]
    own += [f"{name} {value}" for name, value in row.fields.items()]
    return "\n".join([line, *([f"    {', '.join(own)}"] if own else []), *(f"    {note}" for note in row.notes)])


def text_machine(machine: Machine) -> str:
    """Four lines: the processor and its memory, the ceiling of each dtype, and of reading."""
    values = machine.as_dict()
    family = f" ({values['cpu_family']})" if values["cpu_family"] else ""
    others = [f"{unit} not measured" for unit in values["unmeasured_units"]]
    tiles = values["bfloat16_tiles_gflops"]
    if tiles is not None:
        others.append(f"AMX tiles, which quantized_linear and neighborhood_attention use: {tiles}")
    return "\n".join(
        [
            f"{values['cpu']}{family}, {values['threads']} threads of {values['cores']} cores, "
            f"{values['memory_bytes'] / 1e9:.1f} GB memory, {values['memory_available_bytes'] / 1e9:.1f} GB available",
            f"  float32   {values['float32_gflops']:>8} GFLOP/s with {values['isa']}",
            f"  bfloat16  {values['bfloat16_gflops']:>8} GFLOP/s with {'; '.join([values['isa'], *others])}",
            f"  read      {values['read_gbytes_per_s']:>8} GB/s (all highest calibrated)",
        ]
    )


def title(machine: Machine) -> str:
    """The processor and the ceilings of the kernels in one line."""
    values = machine.as_dict()
    return (
        f"{values['cpu']}, {values['threads']} threads of {values['cores']} cores, {values['isa']}: "
        f"{values['float32_gflops']} GFLOP/s float32, {values['bfloat16_gflops']} bfloat16, "
        f"read {values['read_gbytes_per_s']} GB/s (highest calibrated)"
    )


def as_json(machine: Machine, rows: Sequence[Row]) -> dict[str, Any]:
    return {"machine": machine.as_dict(), "cases": [row.as_dict() for row in rows]}


def text_profile(name: str, observation: Observation) -> str:
    """Where the time of a model part goes, one line per kernel."""
    total = observation.seconds
    lines = [f"{name}: {total:.3f} s, evaluated kernel by kernel"]
    for kernel, part in sorted(observation.totals.items(), key=lambda item: -item[1].seconds):
        rate = f"{part.operations / part.seconds / 1e9:>9.1f} GFLOP/s" if part.operations and part.seconds else ""
        calls = f"{part.calls} calls" if part.calls else ""
        lines.append(f"  {kernel:<18}{part.seconds:>9.3f} s{part.seconds / total:>7.1%}  {calls:>10} {rate}".rstrip())
    return "\n".join(lines)


def profile_json(name: str, observation: Observation) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": observation.seconds,
        "parts": {
            kernel: {"seconds": part.seconds, "calls": part.calls, "gflop": part.operations / 1e9}
            for kernel, part in observation.totals.items()
        },
    }

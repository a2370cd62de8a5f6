"""Counts the work of our kernels and of MLX's; ``python tests/metal/work_counters.py [PROBLEM...]`` writes the table.

The counts are kept in work_counters.json, which test_work_counters.py compares, and shown in docs/metal.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

# Below the path, which they need: E402.
import attention_cases  # noqa: E402
import conv_cases  # noqa: E402
import linear_cases  # noqa: E402
import mlx_kernels  # noqa: E402
import neighborhood_cases  # noqa: E402
import numpy as np  # noqa: E402
from shaders_under_test import Operand  # noqa: E402
from test_antialiased_snake_shader import operands, snake  # noqa: E402
from test_modulated_norm_shader import norm  # noqa: E402

from tools.metal_sim import Counters  # noqa: E402

TABLE = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs/metal.md"
BEGIN, END = "<!-- work counters: begin -->\n", "<!-- work counters: end -->\n"
WINDOWS_BEGIN, WINDOWS_END = "<!-- window requests: begin -->\n", "<!-- window requests: end -->\n"
WEIGHTS_BEGIN, WEIGHTS_END = "<!-- weight requests: begin -->\n", "<!-- weight requests: end -->\n"
DTYPE = "bfloat16"
# What is kept of the counters, and how the document calls it. Barriers of a simdgroup are not among them: they order
# instructions for the compiler, and what they cost or save only a GPU can tell.
COUNTS = {
    "device_bytes": "device bytes",
    "threadgroup_bytes_moved": "threadgroup bytes",
    "multiplies": "matrix ops",
    "barriers": "threadgroup barriers",
    "device_lines": "128-byte lines",
    "threadgroup_cycles": "bank cycles",
    "threadgroup_bytes": "threadgroup memory",
}
# As Metal compiles a pipeline: function constants known. Traced, for the lines and cycles.
OPTIONS = {"specialise": True, "trace": True, "processes": 2}


def counts(parts: list[Counters]) -> dict[str, int]:
    """The work of all kernels that one operation needs."""
    total = {
        "device_bytes": sum(c.device_bytes for c in parts),
        "threadgroup_bytes_moved": sum(c.threadgroup_load_bytes + c.threadgroup_store_bytes for c in parts),
        "barriers": sum(c.threadgroup_barriers for c in parts),
        "threadgroup_bytes": max(c.threadgroup_bytes for c in parts),
    }
    for name in ("multiplies", "device_lines", "threadgroup_cycles"):
        total[name] = sum(getattr(c, name) for c in parts)
    return {name: total[name] for name in COUNTS}


@dataclass(frozen=True)
class Problem:
    """One operation, ours and MLX's; ``mlx`` None where MLX's kernel is not in the headers of its wheel."""

    ours: Callable[[], list[Counters]]
    mlx: Callable[[], list[Counters]] | None


def _norm() -> list[Counters]:
    x, scale, shift = (Operand((16, 4096), DTYPE, seed) for seed in range(3))
    return norm(x.bits, DTYPE, scale, shift, np.arange(16), **OPTIONS).counters


def _snake() -> list[Counters]:
    x, parameters = operands(448, 64, DTYPE, "float32")
    return snake(x, parameters, **OPTIONS).counters


PACKED = ("int8_rows", "q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8", "w4a8")


def linear(rows: int, format_: str, size: str, rotation: int = 0) -> Problem:
    """x (rows, 512) and a weight (128, 512); ``size`` is the end of the kernel's name."""

    def case() -> linear_cases.Case:
        if format_ in PACKED:
            weight = linear_cases.packed_weight(format_, 128, 512, 2, rotation=rotation)
        else:
            weight = linear_cases.random_weight(format_, 128, 512, 2)
        return linear_cases.Case(Operand((rows, 512), DTYPE, 1), weight)

    def ours() -> list[Counters]:
        done = linear_cases.product(case(), **OPTIONS)
        assert size in done.kernels[-1], f"{done.kernels[-1]} was launched, not the kernel {size}"
        return done.counters

    def mlx() -> list[Counters]:
        c = case()
        if format_ == DTYPE:
            return [mlx_kernels.matmul(c.x.bits, c.weight.stored, DTYPE, **OPTIONS).check().counters]
        kernel = mlx_kernels.quantised_matvec if size == "few" else mlx_kernels.quantised_matmul
        w = c.weight
        result = kernel(c.x.bits, w.stored, w.scale, w.zero, DTYPE, 32, int(format_[3:]), **OPTIONS)
        return [result.check().counters]

    return Problem(ours, None if format_ in ("e4m3", *PACKED) else mlx)


def attention(size: int, tokens: int, heads: int, fused: bool) -> Problem:
    """As many queries as keys; ``fused`` with norms, rotations and gate, of which MLX's kernel does nothing."""

    def ours() -> list[Counters]:
        width = heads * size
        q, k, v = (Operand((1, tokens, width), DTYPE, seed) for seed in (1, 2, 3))
        c = attention_cases.Case(q, k, v, heads, heads)
        if fused:
            c.q_norm = c.k_norm = np.ones(width, np.float32)
            c.rope_q, c.rope_k = (attention_cases.Rope.random(tokens, width // 2, 3, seed) for seed in (4, 5))
            c.gate = Operand((1, tokens, heads), DTYPE, 6)
        return attention_cases.attention(c, **OPTIONS).counters

    def mlx() -> list[Counters]:
        q, k, v = (Operand((heads, tokens, size), DTYPE, seed).bits for seed in (1, 2, 3))
        return [mlx_kernels.attention(q, k, v, DTYPE, **OPTIONS).check().counters]

    return Problem(ours, mlx)


# Of queries that share keys: a threadgroup's.
BRICK = (4, 4, 8)
WINDOWS = ((11, 11, 11), (3, 7, 7), (3, 5, 5))


def neighborhood(window: tuple[int, int, int]) -> Problem:
    """A brick of queries far from all borders, whose windows are whole: its cells are replicated around it."""

    def ours() -> list[Counters]:
        frames, rows, columns = window
        key_frames = np.arange(BRICK[0])[:, None] + np.arange(frames)
        case = neighborhood_cases.Case.random(
            BRICK, key_frames, (rows, columns), ("replicate", "replicate"), frames_of_keys=BRICK[0] + frames - 1
        )
        return neighborhood_cases.attention(case, **OPTIONS).counters

    return Problem(ours, None)


def neighborhood_name(window: tuple[int, int, int]) -> str:
    return f"neighborhood {'x'.join(map(str, window))}, norm + rope, 128 queries"


def convolution(channels: int) -> Problem:
    """3 x 3 x 3 taps, 128 outputs of 64 channels."""

    def case() -> conv_cases.Case:
        x = Operand((1, 6, 6, 10, channels), DTYPE, 1)
        return conv_cases.Case(x, Operand((64, 3, 3, 3, channels), DTYPE, 2, 0.1))

    def ours() -> list[Counters]:
        return conv_cases.convolve(case(), **OPTIONS).counters

    def mlx() -> list[Counters]:
        c = case()
        return [mlx_kernels.conv3d(c.x.bits, c.weight.bits, DTYPE, 0, 64, **OPTIONS).check().counters]

    return Problem(ours, mlx)


PROBLEMS: dict[str, Problem] = {
    "modulated_norm 16 x 4096": Problem(_norm, None),
    "antialiased_snake 448 x 64": Problem(_snake, None),
    "linear 64 x 512 x 128, bfloat16, tile 64x64": linear(64, DTYPE, "64x64"),
    "linear 128 x 512 x 128, bfloat16, tile 128x64": linear(128, DTYPE, "128x64"),
    "linear 128 x 512 x 128, int8, tile 128x64": linear(128, "int8", "128x64"),
    "linear 128 x 512 x 128, E4M3, tile 128x64": linear(128, "e4m3", "128x64"),
    "linear 640 x 512 x 128, int8, tile 128x64": linear(640, "int8", "128x64"),
    "linear 1 x 512 x 128, int8, few": linear(1, "int8", "few"),
    "linear 4 x 512 x 128, int8, few": linear(4, "int8", "few"),
    "linear 4 x 512 x 128, int4, few": linear(4, "int4", "few"),
    "linear 4 x 512 x 128, bfloat16, few": linear(4, DTYPE, "few"),
    **{f"linear 4 x 512 x 128, {format_}, few": linear(4, format_, "few") for format_ in ("e4m3", *PACKED)},
    **{f"linear 128 x 512 x 128, {format_}, tile 128x64": linear(128, format_, "128x64") for format_ in PACKED},
    "linear 640 x 512 x 128, q4_k, tile 128x64": linear(640, "q4_k", "128x64"),
    "linear 128 x 512 x 128, int8_rows rotated by 256, tile 128x64": linear(128, "int8_rows", "128x64", 256),
    "attention 256 x 256, 4 heads of 128": attention(128, 256, 4, False),
    "attention 256 x 256, 4 heads of 128, norm + rope + gate": attention(128, 256, 4, True),
    "attention 512 x 512, head 128": attention(128, 512, 1, False),
    "attention 512 x 512, head 128, norm + rope + gate": attention(128, 512, 1, True),
    "attention 512 x 512, head 64": attention(64, 512, 1, False),
    "attention 512 x 512, head 64, norm + rope + gate": attention(64, 512, 1, True),
    **{neighborhood_name(window): neighborhood(window) for window in WINDOWS},
    "conv 3x3x3, 128 channels, 128 outputs x 64": convolution(128),
    "conv 3x3x3, 256 channels, 128 outputs x 64": convolution(256),
    "conv 3x3x3, 512 channels, 128 outputs x 64": convolution(512),
}


def document_table(table: dict[str, dict[str, dict[str, int]]]) -> str:
    """The counts as the document shows them."""
    lines = ["| problem | kernel | " + " | ".join(COUNTS.values()) + " |", "|---" * (len(COUNTS) + 2) + "|"]
    for problem, kernels in table.items():
        for kernel, row in kernels.items():
            cells = " | ".join(f"{row[name]:,}".replace(",", " ") for name in COUNTS)
            lines.append(f"| {problem} | {kernel} | {cells} |")
    return "\n".join(lines) + "\n"


def weights_table(table: dict[str, dict[str, dict[str, int]]]) -> str:
    """What four rows of x cost for each format of W, as the document shows it."""
    rows, depth, columns = 4, 512, 128
    # Each simdgroup reads x for its four columns, and there is the output, both of two bytes.
    others = 2 * rows * (depth * columns // 4 + columns)
    lines = ["| W | stored bytes per weight | requested | 128-byte lines |", "|---|---|---|---|"]
    for format_ in (DTYPE, "e4m3", "int8", "int4", *PACKED):
        made = linear_cases.packed_weight if format_ in PACKED else linear_cases.random_weight
        weight = made(format_, columns, depth, 2)
        if weight.packed is not None:
            stored = sum(a.nbytes for a in (weight.packed.values, weight.packed.scale) if a is not None)
        else:
            stored = sum(a.nbytes for a in (weight.stored, weight.scale, weight.zero) if a is not None)
        counted = table[f"linear {rows} x {depth} x {columns}, {format_}, few"]["ours"]
        requested = (counted["device_bytes"] - others) / (columns * depth)
        kind = f"affine {format_}" if format_ in ("int8", "int4") else format_
        lines.append(f"| {kind} | {stored / (columns * depth):.2f} | {requested:.2f} | {counted['device_lines']:,} |")
    return "\n".join(lines).replace(",", " ") + "\n"


def windows_table(table: dict[str, dict[str, dict[str, int]]]) -> str:
    """What a query of neighborhood_attention costs beside what it must, as the document shows it."""
    names = "requested bytes", "its keys and values", "all operands once", "matrix ops", "of its keys alone"
    lines = ["| window | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    queries = int(np.prod(BRICK))
    for window in WINDOWS:
        counted = table[neighborhood_name(window)]["ours"]
        keys = int(np.prod(window))
        # q, k, v and the result, of two bytes; scores and sums, 8 x 8 x 8 products at a time.
        least, products = 4 * 64 * 2, keys * 2 * 64 / 512
        cells = (
            f"{counted['device_bytes'] / queries:,.0f}",
            f"{keys * 2 * 64 * 2:,}",
            str(least),
            f"{counted['multiplies'] / queries:.0f}",
            f"{products:.0f} ({counted['multiplies'] / queries / products:.2f} times)",
        )
        lines.append(f"| {' x '.join(map(str, window))} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace(",", " ") + "\n"


def shown(text: str, begin: str, end: str, table: str) -> str:
    """The document with a table between its marks."""
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{table}{end}{rest.partition(end)[2]}"


def main(chosen: list[str]) -> None:
    """Counts the problems whose names begin as one of these, by default all, and writes the table and its copy."""
    before = json.loads(TABLE.read_text()) if chosen else {}
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name, problem in PROBLEMS.items():
        if name in before and not name.startswith(tuple(chosen)):
            table[name] = before[name]
            continue
        table[name] = {"ours": counts(problem.ours())}
        if problem.mlx is not None:
            table[name]["MLX"] = counts(problem.mlx())
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    if DOCUMENT.exists():
        text = shown(DOCUMENT.read_text(), BEGIN, END, document_table(table))
        text = shown(text, WINDOWS_BEGIN, WINDOWS_END, windows_table(table))
        DOCUMENT.write_text(shown(text, WEIGHTS_BEGIN, WEIGHTS_END, weights_table(table)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""A plan as text: one line per stage, what was chosen, and how it compares with the budget."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.graph.pipelines.plan import Plan
from ltx2rt.memory.limits import format_bytes


def plan_text(plan: Plan, assumed: Sequence[str] = ()) -> str:
    """Lines of text. Peaks are those of the whole process, ``weights`` what a stage holds, ``a step`` what each step of
    a denoising stage reads of what is streamed."""
    rows = [("stage", "weights", "streamed", "a step", "peak", "TFLOP", "seconds", "how")]
    for stage in plan.stages:
        need = stage.need
        rows.append(
            (
                need.name,
                format_bytes(need.resident),
                format_bytes(need.streamed) if need.streamed else "-",
                format_bytes(need.streamed_per_step) if need.streamed_per_step else "-",
                format_bytes(stage.peak_bytes),
                f"{need.flops / 1e12:.2f}",
                f"{stage.seconds:.1f}",
                "; ".join(f"{what} {how}" for what, how in need.choice.items()),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:7], widths[1:], strict=True))
        + f"  {row[7]}".rstrip()
        for row in rows
    ]
    budget = "without a budget" if plan.budget is None else f"budget {format_bytes(plan.budget)}"
    lines.append(
        f"peak {format_bytes(plan.peak_bytes)} ({budget}; {format_bytes(plan.base_bytes)} of it the process itself), "
        f"about {plan.seconds:.0f} s"
    )
    lines += [f"assumed {text}" for text in assumed]
    return "\n".join(lines)

"""A plan as text: one line per stage, what was chosen, and how it compares with the budget."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.graph.pipelines.plan import Plan, StagePlan
from ltx2rt.memory.limits import format_bytes


def plan_text(plan: Plan, assumed: Sequence[str] = ()) -> str:
    """Lines of text. Peaks are those of the whole process, ``weights`` what a stage holds, ``a step`` what each step of
    a denoising stage reads of what is streamed."""
    head = ("stage", "weights", "streamed", "a step", "peak", "TFLOP", "seconds", "how")
    groups = [(_title(plan, group.windows), [_row(stage) for stage in group.stages]) for group in plan.groups]
    rows = [head, *(row for _, of_group in groups for row in of_group)]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]

    def line(row: Sequence[str]) -> str:
        cells = "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:7], widths[1:], strict=True))
        return f"{row[0]:<{widths[0]}}  {cells}  {row[7]}".rstrip()

    lines = [line(head)]
    for title, of_group in groups:
        lines += [*([title] if title else []), *(line(row) for row in of_group)]
    budget = "without a budget" if plan.budget is None else f"budget {format_bytes(plan.budget)}"
    lines.append(
        f"peak {format_bytes(plan.peak_bytes)} ({budget}; {format_bytes(plan.base_bytes)} of it the process itself), "
        f"{f'{plan.steps} steps, ' if len(plan.windows) > 1 else ''}about {plan.seconds:.0f} s"
    )
    lines += [f"assumed {text}" for text in assumed]
    return "\n".join(lines)


def _row(stage: StagePlan) -> tuple[str, ...]:
    need = stage.need
    return (
        need.name,
        format_bytes(need.resident),
        format_bytes(need.streamed) if need.streamed else "-",
        format_bytes(need.streamed_per_step) if need.streamed_per_step else "-",
        format_bytes(stage.peak_bytes),
        f"{need.flops / 1e12:.2f}",
        f"{stage.seconds:.1f}",
        "; ".join(f"{what} {how}" for what, how in need.choice.items()),
    )


def _title(plan: Plan, windows: range) -> str:
    """What stands above the stages of some windows; empty: they are those of the whole clip."""
    if not windows:
        return ""
    first, last = plan.windows[windows[0] - 1], plan.windows[windows[-1] - 1]
    frames = f"frames {first.start} to {last.stop - 1}, {first.carry} of each window carried"
    if len(windows) == 1:
        frames = f"frames {first.start} to {first.stop - 1}" + (f", {first.carry} carried" if first.carry else "")
        return f"window {windows[0]} of {len(plan.windows)}: {frames}"
    return f"windows {windows[0]} to {windows[-1]} of {len(plan.windows)}, each: {frames}"

"""The plans of models for the published sizes and for the memory that computers have, as a table.

    python tools/plan_table.py FILE [FILE ...]

Files are checkpoints or tensor manifests (.json). docs/memory.md has its output.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ltx2rt.api.loading import load
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.errors import MemoryBudgetError
from ltx2rt.graph.pipelines.plan import Plan, Rates
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import DENSE
from ltx2rt.weights.quantized_manifest import affine_manifest

# A prompt whose length counts.
PROMPT = "a prompt of the usual length, " * 20
BUDGETS_GB = (8, 12, 16, 24, 32, 64)


class Published(NamedTuple):
    """A request for which others publish what it takes."""

    pipeline: str
    height: int
    width: int
    frames: int
    figures: str


PUBLISHED = (
    Published("one-stage", 480, 704, 97, "28 GB with fp32, 18 GB with fp16 weights"),
    Published("distilled", 960, 1408, 97, "44 GB one after the other, 59 GB together, 6 GB more with sound"),
    Published(
        "distilled",
        1024,
        1536,
        121,
        "28 GB of graphics memory; with offloading to disk 5 GB of it and 5 GB of the machine's",
    ),
)


def published_table(checkpoints: Sequence[Path], prompt: str = PROMPT) -> Iterator[str]:
    """Lines: per published request and precision the peak under every budget.

    Args:
        checkpoints: files or manifests; to one with dense bf16 weights, its int8 and int4 forms are added.
        prompt: whose length counts.
    """
    yield "Predicted peak of the process in GB under each budget, sound included."
    yield "r: transformer blocks resident; s: read from disk in every step; p24: 24 of them resident, the others read;"
    yield "of two stages that denoise the first one; no: does not fit."
    for request in PUBLISHED:
        yield ""
        yield f"{request.pipeline} {request.height}x{request.width}x{request.frames}; published: {request.figures}"
        yield f"{'weights':<28}" + "".join(f"{f'{budget} GB':>12}" for budget in BUDGETS_GB)
        for name, pipeline in _pipelines(checkpoints, request.pipeline):
            cells = (_cell(pipeline, request, prompt, budget) for budget in BUDGETS_GB)
            yield f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _pipelines(checkpoints: Sequence[Path], name: str) -> Iterator[tuple[str, Pipeline]]:
    for path in checkpoints:
        checkpoint = Checkpoint.open(path)
        kind = _kind(checkpoint)
        pipeline = load(name, checkpoint=path, keep_loaded=False)
        generation = pipeline.generation
        yield f"{generation} {kind}", pipeline
        if kind == "bf16":
            for bits in (8, 4):
                yield f"{generation} int{bits}", pipeline.with_checkpoint(affine_manifest(checkpoint, bits))


def _kind(checkpoint: Checkpoint) -> str:
    return next((name for name, _ in checkpoint.formats("transformer").most_common() if name != DENSE.name), "bf16")


def _cell(pipeline: Pipeline, request: Published, prompt: str, budget: int) -> str:
    try:
        plan, _ = pipeline.plan(
            prompt,
            memory=budget * 10**9,
            rates=Rates(1.0, 1.0),
            height=request.height,
            width=request.width,
            num_frames=request.frames,
        )
    except MemoryBudgetError:
        return "no"
    return f"{plan.peak_bytes / 1e9:.1f} {_residence(plan)}"


def _residence(plan: Plan) -> str:
    need = next(stage.need for stage in plan.stages if stage.need.name.startswith("denoise"))
    resident = need.choice["blocks"].partition(" of ")[0]
    return {"resident": "r"}.get(resident, f"p{resident}" if resident.isdecimal() else "s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted peaks for published sizes and usual budgets.")
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="FILE", help="a checkpoint or a manifest of tensors"
    )
    print("\n".join(published_table(parser.parse_args().checkpoints)))


if __name__ == "__main__":
    main()

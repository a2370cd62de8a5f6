"""The table of benchmark cases: every case computes what its rivals compute, on a reduced size."""

from __future__ import annotations

import pytest

from ltx2rt.bench import runner, table
from ltx2rt.bench.case import MLX, OURS, REFERENCE, Case
from ltx2rt.bench.runner import to_numpy
from ltx2rt.errors import UsageError

# Different sizes are often the same reduced case.
REDUCED = {case.reduced().name: case.reduced() for case in table.all_cases()}
# Root mean square of the difference relative to the values. bfloat16 stages round between their ops in another order,
# and the convolutions of the decoders round their inputs as well.
LIMITS = {"f32": 1e-5, "bf16": 2e-2}


def test_names_are_unique_and_say_the_format() -> None:
    names = [case.name for case in table.all_cases()]
    assert len(set(names)) == len(names)
    assert all(name.split("/")[0] and len(name.split("/")) >= 3 for name in names)


# Steps of several blocks take long; test_residency_case.py has some in memory and others from a file. Of single blocks
# the default run has one of each kind and arithmetic.
SELDOM = {name for name in REDUCED if name.startswith(("partial_residency/", "guided_step/"))}
SELDOM |= {name for name in REDUCED if name.startswith(("transformer_block", "diffusion_block/", "vocoder-"))}
SELDOM -= {name for name in REDUCED if name.startswith(("transformer_block/e4m3/", "transformer_block-2.3/int8-dot/"))}
SELDOM -= {
    name for name in REDUCED if name.startswith(("transformer_block-2.5/int8-convrot/", "diffusion_block/bf16/stage1"))
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in REDUCED]
)
def test_a_case_computes_what_its_rivals_compute(name: str) -> None:
    case: Case = REDUCED[name]
    prepared = case.prepare((REFERENCE, MLX))
    assert prepared.work.operations > 0
    assert prepared.work.bytes > 0
    ours = to_numpy(prepared.ways[OURS].make(1.0)())
    rival = REFERENCE if REFERENCE in prepared.ways else MLX
    theirs = to_numpy(prepared.ways[rival].make(1.0)())
    limit = LIMITS["f32" if prepared.work.arithmetic == "float32" else "bf16"]
    assert runner.relative_error(ours, theirs) < limit


@pytest.mark.parametrize("kind", ["linear/e4m3", "attention/video", "conv/video"])
def test_a_share_of_the_work_is_the_beginning_of_the_whole(kind: str) -> None:
    case = next(case for name, case in REDUCED.items() if name.startswith(kind))
    way = case.prepare(()).ways[OURS]
    whole, half = (to_numpy(way.make(share)()) for share in way.shares[:2])
    width = half.shape[-1]
    assert 2 * width == whole.shape[-1]
    assert runner.relative_error(half, whole[..., :width]) < (1.5 if kind.startswith("attention") else 1e-6)


def test_selection() -> None:
    chosen = [case.name for case in table.select(["linear/int4/4096x4096/m1", "modulated_norm/f32"])]
    assert chosen[:-1] == [f"linear/int4/4096x4096/m{rows}" for rows in (1, 16, 128, 1024)]
    assert chosen[-1].startswith("modulated_norm/f32")
    assert len(table.select([])) == len(table.all_cases())
    with pytest.raises(UsageError, match="no benchmark case contains 'linear/int5'"):
        table.select(["linear/int4", "linear/int5"])


def test_the_short_selection_has_every_kernel_and_kind_of_part() -> None:
    short = [case.name for case in table.short_cases()]
    assert tuple(short) == table.SHORT
    kinds = {case.name.split("/")[0].partition("-")[0] for case in table.all_cases()}
    # What the whole video decoder does is in its layers; steps of several blocks take long.
    left_out = {"video_decoder", "guided_step", "partial_residency"}
    assert kinds - {name.split("/")[0].partition("-")[0] for name in short} == left_out
    assert {name.split("/")[1] for name in short if name.startswith("linear")} == {
        "bf16",
        "f32",
        "e4m3",
        "int8",
        "int4",
        "q4_k",
        "nvfp4",
        "int8-convrot",
    }

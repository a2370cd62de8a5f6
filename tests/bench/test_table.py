"""The table of benchmark cases: every case computes what its rivals compute, on a reduced size."""

from __future__ import annotations

import pytest

from ltx2rt.bench import runner, table
from ltx2rt.bench.case import MLX, OURS, REFERENCE, Case
from ltx2rt.bench.torch_arrays import to_numpy
from ltx2rt.errors import UsageError

# Different sizes are often the same reduced case.
REDUCED = {case.reduced().name: case.reduced() for case in table.all_cases()}
# Root mean square of the difference relative to the values. bfloat16 stages round between their ops in another order,
# and the convolutions of the decoders round their inputs as well.
LIMITS = {"f32": 1e-5, "bf16": 2e-2}
IN_DIFFUSERS = ("transformer_block/f32", "video_decoder/f32", "vocoder/")


def test_names_are_unique_and_say_the_format() -> None:
    names = [case.name for case in table.all_cases()]
    assert len(set(names)) == len(names)
    assert all(name.split("/")[0] and len(name.split("/")) >= 3 for name in names)


@pytest.mark.parametrize("name", REDUCED)
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


@pytest.mark.parity
@pytest.mark.parametrize("name", [n for n in REDUCED if n.startswith(IN_DIFFUSERS)])
def test_a_model_part_computes_what_diffusers_computes(name: str) -> None:
    prepared = REDUCED[name].prepare(("torch",))
    ours, theirs = (to_numpy(prepared.ways[way].make(1.0)()) for way in (OURS, "torch"))
    assert runner.relative_error(ours, theirs) < 1e-5

"""How many blocks stay in memory, which are streamed, and what a stage then reads."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from guided_stage import guided_task

from ltx2rt import embedded
from ltx2rt.errors import MemoryBudgetError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.stages.denoise.needs import BATCHED_TOKENS, block_specs, denoise_options
from ltx2rt.graph.stages.denoise.residency import partly_streamed, residencies, spread
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint, LoadedBytes, loading_together
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import write_safetensors

TASK = guided_task(video=64, audio=8, stg_block=2, evaluations=3)


def blocks_of(*sizes: int) -> list[LoadedBytes]:
    return [LoadedBytes(stored=size, arrays=size, made=0, working=0, loading=0) for size in sizes]


# As published in FP8: the first block and the last five in 16 bits.
FP8 = blocks_of(90, *[45] * 42, *[90] * 5)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_read_rises_and_what_is_held_falls(depth: int) -> None:
    ways = residencies(FP8, depth)
    assert ways[0].streamed == ()
    assert len(ways[-1].streamed) == 48
    assert len(ways) >= 40
    for less, more in itertools.pairwise(ways):
        assert less.read_bytes < more.read_bytes
        assert less.held_bytes > more.held_bytes
    for way in ways[1:]:
        assert way.read_bytes == sum(FP8[index].stored for index in way.streamed)
        assert way.resident_bytes == sum(block.arrays for block in FP8) - way.read_bytes
        assert list(way.streamed) == sorted(way.streamed)


def test_large_blocks_stay_and_streamed_ones_lie_apart() -> None:
    for count in range(1, 43):
        streamed = spread(FP8, count)
        assert len(set(streamed)) == count
        assert all(FP8[index].stored == 45 for index in streamed)
        gaps = np.diff(streamed)
        if count > 1:
            assert gaps.max() - gaps.min() <= 1
    assert len(spread(FP8, 44)) == 44


def test_words() -> None:
    ways = residencies(blocks_of(*[10] * 8), 2)
    assert ways[0].said(8) == "resident"
    assert ways[1].said(8) == "5 of 8 resident, the others streamed, read ahead"
    assert ways[-1].said(8) == "streamed, read ahead"


def options() -> list[Need]:
    checkpoint = Checkpoint.open(embedded.CHECKPOINT)
    return list(denoise_options(checkpoint, TRANSFORMER.parse(checkpoint), TASK))


def test_of_one_way_of_computing_a_larger_budget_never_reads_more() -> None:
    ways = options()
    chosen: dict[tuple[Any, ...], list[int]] = {}
    whole = Ledger(None, 0).least_budget(ways[0])
    for budget in range(whole // 4, whole + whole // 100, whole // 100):
        try:
            need = Ledger(budget, 0).choose(ways)
        except MemoryBudgetError:
            continue
        settings = need.settings
        way = settings["walk"], settings["keep_text_keys"], settings["depth"] or 2
        chosen.setdefault(way, []).append(need.streamed_per_step)
        assert need.streamed == TASK.evaluations * need.streamed_per_step
    for read in chosen.values():
        assert read == sorted(read, reverse=True)
    best = chosen["together", True, 2]
    assert best[-1] == 0
    assert len(set(best)) >= 3


def test_the_least_memory_is_that_of_one_pass_after_the_other() -> None:
    ways = options()
    smallest = min(ways, key=lambda need: need.total)
    assert (smallest.settings["walk"], smallest.settings["batch"]) == ("in turn", 1)
    side_by_side = next(need for need in ways if need.settings["streamed"] and need.settings["walk"] == "together")
    in_turn = next(need for need in ways if need.settings["streamed"] and need.settings["walk"] == "in turn")
    assert in_turn.streamed_per_step == 4 * side_by_side.streamed_per_step
    assert in_turn.flops > side_by_side.flops
    assert in_turn.activations < side_by_side.activations


@pytest.mark.parametrize(
    ("video", "asked", "batches"),
    [
        (64, None, [4, 3, 2, 1]),
        (BATCHED_TOKENS // 2 - 8, None, [2, 1]),
        (BATCHED_TOKENS, None, [1]),
        (64, 1, [1]),
        (4096, 3, [3]),
        pytest.param(64, 8, [4], marks=pytest.mark.slow),
    ],
)
def test_batches_are_those_that_are_fast_or_asked_for(video: int, asked: int | None, batches: list[int]) -> None:
    checkpoint = Checkpoint.open(embedded.CHECKPOINT)
    task = replace(TASK, video=video, max_batch_size=asked)
    ways = denoise_options(checkpoint, TRANSFORMER.parse(checkpoint), task)
    found = [need.settings["batch"] for need in ways if need.settings["walk"] == "together"]
    assert list(dict.fromkeys(found)) == batches


def loaded(arrays: int, loading: int) -> LoadedBytes:
    return LoadedBytes(stored=arrays, arrays=arrays, made=0, working=loading, loading=loading)


def test_what_is_there_while_weights_are_loaded() -> None:
    """A large temporary array counts beside what has been loaded before it, not beside everything."""
    assert loading_together([loaded(10, 0), loaded(20, 5)]) == 5
    assert loading_together([loaded(10, 25), loaded(20, 0)]) == 5
    assert loading_together([loaded(10, 25), loaded(40, 0)]) == 0
    assert loading_together([loaded(10, 90), loaded(20, 0), loaded(30, 50)]) == 50


def test_loras_are_counted_where_they_are_added(tmp_path: Path) -> None:
    """One of a very large rank, of the last block: while it is added the tokens are not there, or they wait."""
    checkpoint = Checkpoint.open(embedded.CHECKPOINT)
    config = TRANSFORMER.parse(checkpoint)
    module, rank = f"diffusion_model.transformer_blocks.{config.num_layers - 1}.ff.net.2", 1 << 14
    spec = next(
        spec
        for block in block_specs(config, video=True, audio=True)
        for spec in block
        if module.endswith(spec.name.removesuffix(".weight"))
    )
    rows, columns = spec.shape
    path = tmp_path / "lora.safetensors"
    values = {"lora_A": np.ones((rank, columns), np.float32), "lora_B": np.ones((rows, rank), np.float32)}
    write_safetensors(path, {f"{module}.{name}.weight": value for name, value in values.items()})
    lora = open_lora(path)
    factors = 4 * rank * (rows + columns)
    few, many = (replace(TASK, video=video, loras=((lora, 1.0),)) for video in (64, 1 << 15))
    alone, together = (next(iter(denoise_options(checkpoint, config, task))) for task in (few, many))
    plain = next(iter(denoise_options(checkpoint, config, replace(few, loras=()))))
    assert factors < alone.total - plain.weights < 1.2 * factors
    assert together.total == next(iter(denoise_options(checkpoint, config, replace(many, loras=())))).total
    streamed = next(
        need for need in denoise_options(checkpoint, config, few) if len(need.settings["streamed"]) == config.num_layers
    )
    assert factors < streamed.activations + streamed.working + streamed.host < 1.2 * factors


def test_blocks_come_from_memory_or_from_disk(tmp_path: Path) -> None:
    """Five blocks, two of them streamed through one slot, which is filled again while the others compute."""
    names = [f"transformer_blocks.{index}" for index in range(5)]
    values = {name: np.full(1000, index, np.float32) for index, name in enumerate(names)}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {f"model.diffusion_model.{name}.scale": value for name, value in values.items()})
    specs = [[ParamSpec(f"{name}.scale", (1000,), "F32")] for name in names]
    checkpoint = Checkpoint.open(path)
    streamed = (1, 3)
    held: dict[str, Any] = {}
    for index in (0, 2, 4):
        held |= checkpoint.load("transformer", specs[index])
    stream = checkpoint.stream("transformer", [specs[index] for index in streamed], depth=1, uses=2 * len(streamed))
    blocks = partly_streamed(Params(held), streamed, stream, "float")
    for _ in range(2):
        for index, name in enumerate(names):
            assert mx.array_equal(blocks(index)["scale"], mx.array(values[name]))
    stream.clear()
    assert stream.bytes_read == 2 * len(streamed) * 4000  # nothing is read ahead of the last use

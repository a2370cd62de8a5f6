"""What a denoising stage needs, in every way of running it: blocks resident or streamed, tokens in parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from ltx2rt.graph.models.layers.footprint import largest
from ltx2rt.graph.models.transformer.footprint import (
    CallShape,
    call_footprint,
    context_bytes,
    text_key_bytes,
    waiting_bytes,
    walk_flops,
)
from ltx2rt.graph.models.transformer.model import TransformerConfig, block_param_specs, param_specs
from ltx2rt.graph.models.transformer.token_share import gathering_tokens
from ltx2rt.graph.stages.denoise.machine_part import InStep, states_of_blocks
from ltx2rt.graph.stages.denoise.passes import WALKS, Walk, in_walks
from ltx2rt.graph.stages.denoise.residency import Residency, residencies
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_traffic import stage_traffic
from ltx2rt.graph.stages.streamed_blocks import DEPTHS
from ltx2rt.memory.need import Need
from ltx2rt.team.group import RING_BYTES
from ltx2rt.types import FLOAT32_BYTES, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint, LoadedBytes, loading_together

# Most tokens that a block works on together. Larger parts give nothing, smaller ones read the weights more often.
TOKEN_LIMITS = (8192, 2048, 768)
# Guidance passes go through a block in batches of at most about so many tokens: with few tokens the products are too
# small to be worth reading a weight for (benchmarks/LOG.md).
BATCHED_TOKENS = 1024
# Arrays of the whole video while the model sees a tile of it: its latents as the stage began with them and as they are,
# the clean ones, the last estimate, the sum of those of the tiles, and one on its way.
_WHOLE_COPIES = 6


def resident_specs(config: TransformerConfig, *, video: bool, audio: bool) -> list[ParamSpec]:
    """What the transformer needs besides its blocks."""
    specs = param_specs(config, video=video, audio=audio)
    return [spec for spec in specs if not spec.name.startswith("transformer_blocks.")]


def block_specs(config: TransformerConfig, *, video: bool, audio: bool) -> list[list[ParamSpec]]:
    """What each block needs."""
    return [block_param_specs(config, index, video=video, audio=audio) for index in range(config.num_layers)]


def denoise_options(
    checkpoint: Checkpoint, config: TransformerConfig, task: DenoiseTask, in_step: InStep | None = None
) -> Iterator[Need]:
    """Every way of running the stage, the fastest first.

    What saves arithmetic comes before what saves reading: of each way of computing there are as many resident blocks as
    may be, down to none, before the next way. How many tokens and states go through a block together comes last: it
    takes little memory.

    A machine that leads others may have to go on alone: it needs what the whole task takes, too.

    Args:
        checkpoint, config: of the transformer.
        task: what the stage does.
        in_step: the only ways that another machine leaves; None: all.
    """
    streams = task.streams
    ends = checkpoint.loaded_bytes("transformer", resident_specs(config, **streams), task.loras, task.fuse_dtype)
    blocks = [
        checkpoint.loaded_bytes("transformer", specs, task.loras, task.fuse_dtype)
        for specs in block_specs(config, **streams)
    ]
    weights = _Weights(ends, blocks)
    ways = {depth: [(way, weights.loading(way)) for way in residencies(blocks, depth)] for depth in DEPTHS}
    walks = WALKS if len(_fallback(task).guidance) > 1 else WALKS[:1]
    keeping = (True, False) if text_key_bytes(config, _shape(task, 1, 0)) else (False,)
    longest = max(*(_fallback(task).own(tokens) for tokens in task.calls), task.audio)
    limits = [limit for limit in TOKEN_LIMITS if limit < longest or limit == TOKEN_LIMITS[0]]
    for walk, keep, depth in product(walks if in_step is None else (in_step.walk,), keeping, DEPTHS):
        batches = batch_sizes(task, weights.block_count, walk)
        if in_step is not None:  # others may have more passes
            batches = [min(in_step.batch, _most_states(task, weights.block_count, walk))]
        together = [
            _computing(config, task, weights, walk, batch, keep, limit) for batch, limit in product(batches, limits)
        ]
        for (way, loading), computing in product(ways[depth], together):
            if way.depth or depth == DEPTHS[0]:
                yield _with_weights(computing, task, weights, way, loading, walk)


class _Computing(NamedTuple):
    """A way of computing: what it takes without any weights, and the part of it that is there while a block arrives."""

    need: Need
    waiting: int


class _Weights(NamedTuple):
    """Of the transformer: all but the blocks, and each block."""

    ends: LoadedBytes
    blocks: Sequence[LoadedBytes]

    @property
    def block_count(self) -> int:
        """How many there are."""
        return len(self.blocks)

    @property
    def rotation(self) -> int:
        """The largest groups in which weights of the blocks rotate what they are multiplied with."""
        return max(block.rotation for block in self.blocks)

    def loading(self, way: Residency) -> int:
        """By how much the peak while resident weights are loaded is above these; the slots are not there yet."""
        resident = (block for index, block in enumerate(self.blocks) if index not in way.streamed)
        return loading_together([self.ends, *resident]) - way.slot_bytes


def _fallback(task: DenoiseTask) -> DenoiseTask:
    """What the machine must be able to do: its part, but all of the task where it leads."""
    return replace(task, part=None) if task.part is not None and task.part.leads else task


def batch_sizes(task: DenoiseTask, blocks: int, walk: Walk) -> list[int]:
    """How many hidden states may go through a block together, the fastest first."""
    most = _most_states(task, blocks, walk)
    if task.max_batch_size is not None:
        return [min(task.max_batch_size, most)]
    tokens = max(1, task.own(max(task.calls)) + task.audio)
    return list(range(min(most, max(1, BATCHED_TOKENS // tokens)), 0, -1))


def _most_states(task: DenoiseTask, blocks: int, walk: Walk) -> int:
    """Most hidden states that the passes have side by side."""
    passes = _fallback(task).guidance
    return max(
        len(shared)
        for numbers in in_walks(passes, walk)
        for shared in states_of_blocks(tuple(passes[number] for number in numbers), blocks)
    )


def _shape(task: DenoiseTask, batch: int, rotation: int) -> CallShape:
    """The largest call."""
    tokens = max(task.calls)
    part = task.part if task.shares_tokens else None
    return CallShape(
        task.own(tokens),
        task.audio,
        task.text,
        batch,
        task.dtype.size,
        task.masked,
        rotation,
        task.activations == "int8",
        0 if part is None else tokens,
        0 if part is None else gathering_tokens(part.counts(tokens), batch),
    )


def _host_bytes(config: TransformerConfig, task: DenoiseTask, shape: CallShape, limit: int) -> int:
    """Of the states and estimates of a step: those of the whole video or, with tiles, of the largest one, and what
    there is of the whole video while the model sees one tile of it."""
    host = call_footprint(config, replace(shape, video=max(task.calls)), limit).host
    if task.tiles:
        host += _WHOLE_COPIES * FLOAT32_BYTES * task.video * config.video.in_channels
    return host


def _computing(
    config: TransformerConfig, task: DenoiseTask, weights: _Weights, walk: Walk, batch: int, keep: bool, limit: int
) -> _Computing:
    """What a way of computing takes, without any weights."""
    alone = _own_computing(config, _fallback(task), weights, walk, batch, keep, limit)
    if task.part is None:
        return alone
    own = alone
    if task.part.leads:
        idle = _Computing(replace(alone.need, flops=0.0), 0)
        own = _own_computing(config, task, weights, walk, batch, keep, limit) if task.guidance else idle
    traffic = stage_traffic(config, task, InStep(walk, batch))
    need = replace(own.need, received=traffic.nbytes, exchanges=traffic.calls, choice={**own.need.choice, **said(task)})
    if not task.part.leads:
        return _Computing(need, own.waiting)
    return _Computing(
        replace(
            need,
            caches=max(need.caches, alone.need.caches),
            activations=max(need.activations, alone.need.activations),
            working=max(need.working, alone.need.working),
            host=max(need.host, alone.need.host),
        ),
        max(own.waiting, alone.waiting),
    )


def said(task: DenoiseTask) -> dict[str, str]:
    """What machines share, and what of it this one does, for people."""
    assert task.part is not None
    parts = [f"{task.passes} of {len(task.all_passes)} passes"] if task.part.shares_passes else []
    parts += [f"{task.own(task.video)} of {task.video} tokens"] if task.shares_tokens else []
    own = ", ".join(parts)
    what = f"{task.part.size} share the tokens of every pass"
    if task.part.shares_passes:
        what = f"{task.part.size} share {len(task.all_passes)} passes"
        if max(map(len, task.part.groups)) > 1:
            sizes = ", ".join(str(len(members)) for members in task.part.groups)
            what += f" in groups of {sizes}, those of a group the tokens"
    return {"machines": what, "own part": own}


def _own_computing(
    config: TransformerConfig, task: DenoiseTask, weights: _Weights, walk: Walk, batch: int, keep: bool, limit: int
) -> _Computing:
    """What the machine's own part takes."""
    shape = _shape(task, batch, weights.rotation)
    keeps = keep and text_key_bytes(config, shape) > 0
    caches = task.prompts * context_bytes(config, shape)
    footprints, waiting = [], 0
    walks = [tuple(task.guidance[number] for number in numbers) for numbers in in_walks(task.guidance, walk)]
    for passes in walks:
        shared = states_of_blocks(passes, weights.block_count)
        # Of each block, how many hidden states read each prompt.
        readers = [Counter(passes[own[0]].negative_prompt for own in states) for states in shared]
        together = 0 if keeps else max(sum(count > 1 for count in of_block.values()) for of_block in readers)
        states = max(len(own) for own in shared)
        footprints.append(call_footprint(config, shape, limit, states=states, shared_prompts=together))
        waiting = max(waiting, waiting_bytes(config, shape, states))
    if keeps:
        caches += task.prompts * text_key_bytes(config, shape)
    choice = {"tokens": f"at most {limit} together"}
    if text_key_bytes(config, shape):
        choice["text keys"] = "kept" if keeps else "computed in every step"
    if task.tiles:
        choice["tiles"] = f"{len(task.tiles)} in every step, the largest of {max(task.tiles)} tokens"
    if task.passes > 1:
        side_by_side = max(len(passes) for passes in walks)
        choice["passes"] = f"{side_by_side} of {task.passes} side by side, {batch} in a batch"
    footprint = largest(*footprints)
    smaller_group = task.part is not None and task.shares_tokens and task.part.shares_passes
    host = _host_bytes(config, task, shape, limit)
    need = Need(
        task.name,
        caches=caches,
        activations=footprint.activations,
        working=footprint.working + (RING_BYTES if smaller_group else 0),
        host=host,
        flops=arithmetic(config, task, walk, keeps=keeps),
        choice=choice,
        settings={"token_limit": limit, "keep_text_keys": keeps, "batch": batch, "walk": walk},
        advice=task.advice,
    )
    return _Computing(need, waiting + host)


def arithmetic(config: TransformerConfig, task: DenoiseTask, walk: Walk, *, keeps: bool) -> float:
    """Operations of the machine's own part; ``keeps``: keys and values of prompts are computed once."""
    flops, shape = 0.0, _shape(task, 1, 0)
    for numbers in in_walks(task.guidance, walk):
        passes = tuple(task.guidance[number] for number in numbers)
        shared = states_of_blocks(passes, config.num_layers)
        prompts = [len({passes[own[0]].negative_prompt for own in states}) for states in shared]
        blocks, text_keys = sum(map(len, shared)), 0 if keeps else sum(prompts)
        for tokens in task.calls:
            call = replace(shape, video=task.own(tokens), all_video=tokens if task.shares_tokens else 0)
            flops += walk_flops(config, call, blocks=blocks, text_keys=text_keys, passes=len(passes))
    once = walk_flops(config, shape, blocks=0, text_keys=task.prompts * config.num_layers, passes=0) if keeps else 0.0
    return flops * task.evaluations + once


def _with_weights(
    computing: _Computing, task: DenoiseTask, weights: _Weights, way: Residency, loading: int, walk: Walk
) -> Need:
    """What the stage takes. LoRAs are added to resident weights before anything is computed, which takes ``loading``
    more than all of these, and to streamed ones while what is computed waits for them."""
    making = max((weights.blocks[index].working for index in way.streamed), default=0)
    read = way.read_bytes * task.rounds(walk)
    need = replace(
        computing.need,
        weights=weights.ends.arrays + way.resident_bytes,
        slots=way.slot_bytes,
        streamed=read,
        streamed_per_step=read // task.evaluations,
        choice={"blocks": way.said(weights.block_count), **computing.need.choice},
        settings={**computing.need.settings, "depth": way.depth, "streamed": way.streamed},
        can_be_kept=way.depth == 0,
    )
    return need.while_loading(max(loading, making + computing.waiting if making else 0))

"""What a denoising stage needs, in every way of running it: blocks resident or streamed, tokens in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import mlx.core as mx

from ltx2rt.graph.diffusion.denoising import plan_step
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.transformer.footprint import (
    CallShape,
    call_flops,
    call_footprint,
    context_bytes,
    text_key_bytes,
)
from ltx2rt.graph.models.transformer.model import TransformerConfig, block_param_specs, param_specs
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.graph.stages.streamed_blocks import DEPTHS, streamed_text
from ltx2rt.graph.stages.weight_set import fuse_dtype
from ltx2rt.memory.need import Need
from ltx2rt.types import ParamSpec
from ltx2rt.weights.block_stream import slots_bytes
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora.file import LoraFile

# Most tokens that a block works on together. Larger parts give nothing, smaller ones read the weights more often.
TOKEN_LIMITS = (8192, 2048, 768)


@dataclass(frozen=True)
class DenoiseTask:
    """What a denoising stage does.

    Attributes:
        name: of the stage.
        video, audio: tokens; 0: absent.
        tiles: tokens of the video that each of its tiles sees; empty: the model sees all of them at once.
        masked: the video has an attention mask.
        text: tokens of a context.
        given_contexts: bytes of the contexts that the stage was given; the ledger counts them.
        prompts: how many contexts there are.
        evaluations: of the guided model.
        video_guider, audio_guider: guidance.
        max_batch_size: passes that the user wants to go through the transformer together.
        loras: fused into the transformer.
        dtype: of the activations.
    """

    name: str
    video: int
    audio: int
    tiles: tuple[int, ...]
    masked: bool
    text: int
    given_contexts: int
    prompts: int
    evaluations: int
    video_guider: GuiderParams
    audio_guider: GuiderParams
    max_batch_size: int
    loras: tuple[tuple[LoraFile, float], ...]
    dtype: mx.Dtype

    @property
    def passes(self) -> int:
        """Model calls of one evaluation when each takes one pass."""
        video = self.video_guider if self.video else None
        audio = self.audio_guider if self.audio else None
        return len(plan_step(video, audio, 0).passes)

    @property
    def calls(self) -> tuple[int, ...]:
        """Tokens of the video in each of the model calls that make one pass."""
        return self.tiles or (self.video,)

    @property
    def streams(self) -> dict[str, bool]:
        """Which parts of the transformer are needed."""
        return {"video": self.video > 0, "audio": self.audio > 0}

    @property
    def fuse_dtype(self) -> mx.Dtype | None:
        """Of weights that LoRAs change."""
        return fuse_dtype(self.dtype)


def resident_specs(config: TransformerConfig, *, video: bool, audio: bool) -> list[ParamSpec]:
    """What the transformer needs besides its blocks."""
    specs = param_specs(config, video=video, audio=audio)
    return [spec for spec in specs if not spec.name.startswith("transformer_blocks.")]


def block_specs(config: TransformerConfig, *, video: bool, audio: bool) -> list[list[ParamSpec]]:
    """What each block needs."""
    return [block_param_specs(config, index, video=video, audio=audio) for index in range(config.num_layers)]


def denoise_options(checkpoint: Checkpoint, config: TransformerConfig, task: DenoiseTask) -> Iterator[Need]:
    """Every way of running the stage, the fastest first."""
    streams = task.streams
    ends = checkpoint.loaded_bytes("transformer", resident_specs(config, **streams), task.loras, task.fuse_dtype)
    blocks = [
        checkpoint.loaded_bytes("transformer", specs, task.loras, task.fuse_dtype)
        for specs in block_specs(config, **streams)
    ]
    fusing = max(ends.working, *(block.working for block in blocks))
    rotation = max(block.rotation for block in blocks)
    stored = sum(block.stored for block in blocks)
    passes = task.passes
    own_batch = min(task.max_batch_size, passes)
    resident = ends.arrays + sum(block.arrays for block in blocks)
    for keep, limit in product((True, False), TOKEN_LIMITS):
        yield _need(
            config,
            task,
            own_batch,
            keep,
            limit,
            weights=resident,
            slots=0,
            streamed=0,
            # Weights are changed before anything is computed.
            fusing=max(0, fusing - call_footprint(config, _shape(task, own_batch, rotation), limit).total),
            depth=0,
            rotation=rotation,
        )
    made = max(block.made for block in blocks)
    for depth, keep, batch, limit in product(DEPTHS, (True, False), range(passes, own_batch - 1, -1), TOKEN_LIMITS):
        calls = task.evaluations * len(task.calls) * -(-passes // batch)
        yield _need(
            config,
            task,
            batch,
            keep,
            limit,
            weights=ends.arrays,
            slots=slots_bytes([block.stored for block in blocks], depth) + made,
            streamed=calls * stored,
            fusing=fusing,
            depth=depth,
            rotation=rotation,
        )


def _shape(task: DenoiseTask, batch: int, rotation: int) -> CallShape:
    """The largest call."""
    return CallShape(max(task.calls), task.audio, task.text, batch, task.dtype.size, task.masked, rotation)


def _host_bytes(config: TransformerConfig, task: DenoiseTask, shape: CallShape, limit: int) -> int:
    """Of the states and estimates of a step: those of the whole video and, with tiles, those of the largest one."""
    host = call_footprint(config, shape, limit).host
    if task.tiles:
        host += call_footprint(config, replace(shape, video=task.video), limit).host
    return host


def _need(
    config: TransformerConfig,
    task: DenoiseTask,
    batch: int,
    keep: bool,
    limit: int,
    *,
    weights: int,
    slots: int,
    streamed: int,
    fusing: int,
    depth: int,
    rotation: int,
) -> Need:
    shape = _shape(task, batch, rotation)
    footprint = call_footprint(config, shape, limit)
    passes = task.passes
    # Batched passes have contexts of their own, put together from the prompts'.
    contexts = task.prompts if batch == 1 else passes
    caches = contexts * context_bytes(config, shape)
    if batch > 1:
        caches += passes * task.given_contexts // task.prompts
    text_keys = text_key_bytes(config, shape)
    keeps = keep and text_keys > 0
    if keeps:
        caches += contexts * text_keys
    calls = task.evaluations * passes / batch
    flops = calls * sum(call_flops(config, replace(shape, video=tokens), text_keys=not keeps) for tokens in task.calls)
    if keeps:
        flops += contexts / batch * (call_flops(config, shape) - call_flops(config, shape, text_keys=False))
    blocks = streamed_text(depth) if depth else "resident"
    choice = {"blocks": blocks, "tokens": f"at most {limit} together"}
    if text_keys:
        choice["text keys"] = "kept" if keeps else "computed in every step"
    if task.tiles:
        choice["tiles"] = f"{len(task.tiles)} in every step, the largest of {max(task.tiles)} tokens"
    if passes > 1:
        choice["passes"] = f"{batch} of {passes} together"
    return Need(
        task.name,
        weights=weights,
        slots=slots,
        streamed=streamed,
        caches=caches,
        activations=footprint.activations,
        working=footprint.working + fusing,
        host=_host_bytes(config, task, shape, limit),
        flops=flops,
        choice=choice,
        settings={"depth": depth, "token_limit": limit, "keep_text_keys": keeps, "batch": batch},
        advice=smaller("height", "width", "num_frames"),
        can_be_kept=depth == 0,
    )

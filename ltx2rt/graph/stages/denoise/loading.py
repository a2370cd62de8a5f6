"""Loads the transformer of a denoising stage, its blocks resident or some of them streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import Transformer, TransformerConfig
from ltx2rt.graph.models.transformer.token_share import TokenExchange
from ltx2rt.graph.stages.denoise.needs import block_specs, resident_specs
from ltx2rt.graph.stages.denoise.residency import partly_streamed
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.stage import Stage
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Loaded
from ltx2rt.weights.kept_weights import StageWeights


def stage_weights(files: WeightSet, task: DenoiseTask, specs: Sequence[ParamSpec]) -> StageWeights:
    """Tensors of the transformer with the LoRAs of the stage."""
    return files.weights(TRANSFORMER, specs, task.loras, task.fuse_dtype)


def held_weights(
    files: WeightSet, config: TransformerConfig, task: DenoiseTask, settings: Mapping[str, Any]
) -> StageWeights:
    """What is held for the whole stage: all but the blocks that are streamed."""
    specs = resident_specs(config, **task.streams)
    for index, block in enumerate(block_specs(config, **task.streams)):
        specs += [] if index in settings["streamed"] else block
    return stage_weights(files, task, specs)


def load_transformer(
    files: WeightSet,
    stage: Stage,
    task: DenoiseTask,
    settings: Mapping[str, Any],
    load: Callable[[Stage, StageWeights], dict[str, Loaded]],
    exchange: TokenExchange | None = None,
) -> Transformer:
    """The transformer of a stage.

    Args:
        files: where its weights are.
        stage: holds what is loaded.
        task: what the stage does.
        settings: of the chosen `Need`.
        load: gives the stage its resident weights.
        exchange: with machines that share the tokens of the video.
    """
    config = files.config(TRANSFORMER)
    resident = Params(load(stage, held_weights(files, config, task, settings)), activations=task.activations)
    blocks = None
    if settings["streamed"]:
        specs = block_specs(config, **task.streams)
        stream = stage.hold_stream(
            files.source(TRANSFORMER).stream(
                "transformer",
                [specs[index] for index in settings["streamed"]],
                task.loras,
                task.fuse_dtype,
                depth=settings["depth"],
                # A leader that has to go on alone needs them more often.
                uses=None if task.part is not None else task.rounds(settings["walk"]) * len(settings["streamed"]),
            )
        )
        blocks = partly_streamed(resident, settings["streamed"], stream, task.activations)
    return Transformer(
        config,
        resident,
        task.dtype,
        blocks=blocks,
        token_limit=settings["token_limit"],
        keep_text_keys=settings["keep_text_keys"],
        exchange=exchange,
    )

"""The stage that predicts how long the clip of a prompt should be, and how many frames that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from ltx2rt.graph.components import DURATION_HEAD
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import duration_head
from ltx2rt.graph.models.text.footprint import duration_flops, duration_footprint
from ltx2rt.graph.stages.events import LengthPredicted
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.inputs import DurationRange, PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.weights.kept_weights import StageWeights

STAGE = "duration head"


def predicted_frames(run: Run, context: PromptContext, wanted: DurationRange, *, with_sound: bool = True) -> int:
    """How many frames the clip of a prompt should have, 8*k + 1; in a plan the most it can be.

    Args:
        run: its files must hold the duration head.
        context: of the prompt.
        wanted: the shortest and the longest clip.
        with_sound: the clip has sound; else the context of the video alone is read.
    """
    read = context if with_sound else context[:1]
    config = run.files.config(DURATION_HEAD)
    weights = run.files.weights(DURATION_HEAD, duration_head.param_specs(config))

    def compute() -> dict[str, mx.array]:
        need = run.choose(_options(weights, config, read), weights)
        if run.planning:
            return {"seconds": mx.array([wanted.longest_s])}
        with run.stage(need) as stage:
            seconds = duration_head.DurationHead(config, Params(run.load(stage, weights)))(*read)
            mx.eval(seconds)
            require_finite(STAGE, "the length", seconds)
            return {"seconds": seconds}

    seconds = float(to_numpy(run.remember(STAGE, compute)["seconds"])[0])
    frames = wanted.frames(seconds, run.inputs.frame_rate)
    run.emit(LengthPredicted(seconds, frames))
    return frames


def _options(
    weights: StageWeights, config: duration_head.DurationHeadConfig, context: Sequence[mx.array]
) -> Iterator[Need]:
    tokens = sum(stream.shape[1] for stream in context)
    footprint = duration_footprint(config, tokens)
    loaded = weights.loaded_bytes
    yield Need(
        STAGE,
        weights=loaded.arrays,
        activations=footprint.activations,
        working=footprint.working,
        flops=duration_flops(config, tokens),
        advice=f"leave it out with {spelled('num_frames', 'N')}",
    ).while_loading(loaded.loading)

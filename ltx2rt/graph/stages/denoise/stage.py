"""The stage that samples: it loads the transformer, walks down the sigmas and frees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ltx2rt.errors import StateError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.denoising import NO_GUIDANCE, GuidedDenoiser, Predict
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.samplers import EULER, GradientEstimation, Sampler, SamplerNoise
from ltx2rt.graph.diffusion.schedules import ltx2_sigmas
from ltx2rt.graph.diffusion.tiles import TiledPredict, TileGrid, cut_tokens
from ltx2rt.graph.models.transformer.model import param_specs
from ltx2rt.graph.stages.advice import smaller
from ltx2rt.graph.stages.denoise.evaluations import Evaluations
from ltx2rt.graph.stages.denoise.leading import Leading, shared_options
from ltx2rt.graph.stages.denoise.loading import held_weights, load_transformer, stage_weights
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_choice import part_of
from ltx2rt.graph.stages.events import StageRestored, StepDone
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.inputs import GenerationInputs, PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.memory.stage import Stage
from ltx2rt.weights.lora.file import LoraFile


@dataclass(frozen=True)
class Sampling:
    """How a denoising stage samples.

    Attributes:
        sigmas: falling noise levels, one more than steps.
        loras: fused into the transformer, in order, with their strengths.
        sampler: how the noise levels are walked down.
        video_guider, audio_guider: guidance of each stream.
        tiles: of the video, which the model sees one after the other in every evaluation; None: all of it at once.
        advice: what else than a smaller clip takes less memory, for people.
    """

    sigmas: Float32Array
    loras: tuple[tuple[LoraFile, float], ...] = ()
    sampler: Sampler = EULER
    video_guider: GuiderParams = NO_GUIDANCE
    audio_guider: GuiderParams = NO_GUIDANCE
    tiles: TileGrid | None = None
    advice: str = ""

    @property
    def noise_scale(self) -> float:
        """How much noise the states start with: the first sigma."""
        return float(self.sigmas[0])

    @property
    def steps(self) -> int:
        """Number of sampler steps."""
        return self.sampler.steps(self.sigmas)

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the guided model."""
        return self.sampler.evaluations(self.sigmas)


def guided_sampling(
    inputs: GenerationInputs,
    loras: tuple[tuple[LoraFile, float], ...],
    video_guider: GuiderParams = NO_GUIDANCE,
    audio_guider: GuiderParams = NO_GUIDANCE,
) -> Sampling:
    """First-order sampling of a dev checkpoint over the steps that the request asks for."""
    return Sampling(
        ltx2_sigmas(inputs.steps),
        loras,
        GradientEstimation(inputs.settings.ge_gamma) if inputs.settings.ge_gamma else EULER,
        video_guider,
        audio_guider,
    )


def denoise(
    run: Run,
    name: str,
    sampling: Sampling,
    video: LatentState | None,
    audio: LatentState | None,
    positive: PromptContext,
    negative: PromptContext | None = None,
) -> tuple[LatentState | None, LatentState | None]:
    """One denoising stage over the streams that are present."""
    finished = None if run.journal is None else run.journal.get(name)
    if finished is not None:
        run.emit(StageRestored(name, sampling.steps))
        if run.team is not None:
            run.team.stage_ended()
        return _restored(name, "video", video, finished), _restored(name, "audio", audio, finished)
    video, audio = _denoise(run, name, sampling, video, audio, positive, negative)
    if run.journal is not None:
        run.journal.put(name, {k: s.latent for k, s in (("video", video), ("audio", audio)) if s is not None})
        run.journal.drop(name)
    return video, audio


def _restored(
    stage: str, stream: str, state: LatentState | None, finished: Mapping[str, mx.array]
) -> LatentState | None:
    """The state of a stream at the end of a stage that an earlier run has finished."""
    if state is None:
        return None
    if stream not in finished or finished[stream].shape != state.latent.shape:
        raise StateError(
            f"the interrupted run has kept no {stream} latent of {list(state.latent.shape)} for stage {stage}; "
            "start over without --resume."
        )
    latent = to_numpy(finished[stream])
    require_finite(stage, f"the {stream} latent that was kept", latent)
    return state.with_latent(latent)


def _denoise(
    run: Run,
    name: str,
    sampling: Sampling,
    video: LatentState | None,
    audio: LatentState | None,
    positive: PromptContext,
    negative: PromptContext | None,
) -> tuple[LatentState | None, LatentState | None]:
    config = run.files.config(TRANSFORMER)
    task = _task(run, name, sampling, video, audio, [c for c in (positive, negative) if c is not None])
    task = replace(task, part=part_of(run.machines, task, config))
    options = (replace(option, steps=sampling.steps) for option in shared_options(run.files, task, run.machines))
    need = run.choose(
        options,
        stage_weights(run.files, task, param_specs(config, **task.streams)),
        held=lambda need: held_weights(run.files, config, task, need.settings),
    )
    if run.planning:
        run.tasks.append(task)
        return video, audio
    with run.stage(need, sampling.steps) as stage:
        # In a function of its own, whose model and caches are gone before the stage ends.
        video, audio = _sample(run, stage, task, need, sampling, video, audio, positive, negative)
    if run.team is not None:
        run.team.stage_ended()
    return video, audio


def _sample(
    run: Run,
    stage: Stage,
    task: DenoiseTask,
    need: Need,
    sampling: Sampling,
    video: LatentState | None,
    audio: LatentState | None,
    positive: PromptContext,
    negative: PromptContext | None,
) -> tuple[LatentState | None, LatentState | None]:
    leading = None
    if run.team is not None and task.part is not None:
        leading = Leading(run.team.team, task, need, run.files, [c for c in (positive, negative) if c is not None])
    exchange = None if leading is None else leading.exchange
    model = load_transformer(run.files, stage, task, need.settings, run.load, exchange)
    evaluations = Evaluations(run, task.name)
    passes = TransformerPasses(model, positive, negative, need.settings["batch"], need.settings["walk"])
    predict: Predict = passes if leading is None else leading.begun(model, passes)
    if sampling.tiles is not None:
        predict = TiledPredict(predict, sampling.tiles, evaluations.tile)
    denoiser = GuidedDenoiser(predict, video=sampling.video_guider, audio=sampling.audio_guider)
    noise = SamplerNoise(run.sde_noise, run.seeded_noise)
    for step in sampling.sampler.loop(evaluations.observed(denoiser), sampling.sigmas, video, audio, noise):
        video, audio = step.video, step.audio
        run.emit(
            StepDone(
                task.name,
                step.index,
                step.steps,
                step.sigma,
                None if video is None else video.latent,
                None if audio is None else audio.latent,
            )
        )
    if leading is not None:
        leading.ended()
    return video, audio


def _task(
    run: Run,
    name: str,
    sampling: Sampling,
    video: LatentState | None,
    audio: LatentState | None,
    contexts: Sequence[PromptContext],
) -> DenoiseTask:
    return DenoiseTask(
        name,
        video=0 if video is None else video.latent.shape[1],
        audio=0 if audio is None else audio.latent.shape[1],
        tiles=_tile_tokens(sampling.tiles, video),
        masked=video is not None and video.attention is not None,
        text=contexts[0].video.shape[1],
        given_contexts=sum(array.nbytes for context in contexts for array in context),
        prompts=len(contexts),
        evaluations=sampling.evaluations,
        video_guider=sampling.video_guider,
        audio_guider=sampling.audio_guider,
        max_batch_size=run.inputs.settings.max_batch_size,
        loras=sampling.loras,
        dtype=run.inputs.dtype,
        activations=run.inputs.settings.activations,
        advice=", ".join(filter(None, (sampling.advice, smaller("height", "width", "num_frames")))),
    )


def _tile_tokens(grid: TileGrid | None, video: LatentState | None) -> tuple[int, ...]:
    """How many tokens of the video each tile sees; empty: there are no tiles."""
    if grid is None or video is None:
        return ()
    return tuple(len(tile.tokens) for tile in cut_tokens(video.positions, grid))

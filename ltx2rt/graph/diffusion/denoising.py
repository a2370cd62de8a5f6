"""Which model passes a guided step needs, and the denoiser that runs them and combines their predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ltx2rt.graph.diffusion.guidance import GuiderParams, GuiderSchedule, MomentumApg, combine_predictions
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised

PassKind = Literal["cond", "uncond", "perturbed", "isolated"]

NO_GUIDANCE = GuiderParams()


@dataclass(frozen=True)
class GuidancePass:
    """One evaluation of the model on both streams.

    Attributes:
        kind: ``cond`` prompt; ``uncond`` negative prompt; ``perturbed`` self-attention skipped; ``isolated`` streams
            do not see each other.
        skip_video_self_attention: blocks in which video self-attention returns its values.
        skip_audio_self_attention: the same for audio.
        skip_cross_modal: whether attention between the streams is left out in every block.
    """

    kind: PassKind
    skip_video_self_attention: tuple[int, ...] = ()
    skip_audio_self_attention: tuple[int, ...] = ()

    @property
    def negative_prompt(self) -> bool:
        return self.kind == "uncond"

    @property
    def skip_cross_modal(self) -> bool:
        return self.kind == "isolated"


@dataclass(frozen=True)
class StepPlan:
    """What one step evaluates: nothing when no stream runs; a stream that does not run is disabled in every pass."""

    passes: tuple[GuidancePass, ...]
    run_video: bool
    run_audio: bool


def plan_step(video: GuiderParams | None, audio: GuiderParams | None, step_index: int) -> StepPlan:
    """The passes of a step, in the order cond, uncond, perturbed, isolated.

    Only streams that run ask for passes: what a skipping stream would ask for changes nothing in the other one.

    Args:
        video: guidance of the video stream, or None when there is no video.
        audio: the same for audio.
        step_index: number of the step, for skipping.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/denoisers.py @ v1.2.0.
    """
    run_video = video is not None and not video.skips(step_index)
    run_audio = audio is not None and not audio.skips(step_index)
    running = [params for params, runs in ((video, run_video), (audio, run_audio)) if params is not None and runs]
    if not running:
        return StepPlan((), False, False)
    passes = [GuidancePass("cond")]
    if any(params.needs_uncond for params in running):
        passes.append(GuidancePass("uncond"))
    if any(params.needs_perturbed for params in running):
        passes.append(
            GuidancePass(
                "perturbed",
                skip_video_self_attention=_perturbed_blocks(video if run_video else None),
                skip_audio_self_attention=_perturbed_blocks(audio if run_audio else None),
            )
        )
    if any(params.needs_isolated for params in running):
        passes.append(GuidancePass("isolated"))
    return StepPlan(tuple(passes), run_video, run_audio)


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """What a denoiser asks of the model: the same states in one or more passes.

    Attributes:
        passes: the evaluations wanted; how many go through the model together is up to the callee.
        video: the video state, or None when there is no video.
        audio: the same for audio.
        sigma: noise level of the step.
        run_video: False when the stream is present but disabled (its prediction is not needed).
        run_audio: the same for audio.
    """

    passes: tuple[GuidancePass, ...]
    video: LatentState | None
    audio: LatentState | None
    sigma: float
    run_video: bool
    run_audio: bool


Predict = Callable[[PredictRequest], Sequence[Denoised]]


class GuidedDenoiser:
    """Denoised predictions of both streams for a sampler, guided or plain.

    The predictions are those before kept tokens are put back; the samplers do that. A step that a stream skips
    returns the stream's last prediction.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        video: GuiderParams | GuiderSchedule = NO_GUIDANCE,
        audio: GuiderParams | GuiderSchedule = NO_GUIDANCE,
    ) -> None:
        """A denoiser for one run.

        Args:
            predict: runs the model; one pair of denoised predictions (B, T, C) per pass, in order, None for a stream
                that is absent or disabled.
            video: guidance of the video stream.
            audio: guidance of the audio stream.
        """
        self._predict = predict
        self._video = video if isinstance(video, GuiderSchedule) else GuiderSchedule(video)
        self._audio = audio if isinstance(audio, GuiderSchedule) else GuiderSchedule(audio)
        self._last: Denoised = (None, None)
        self._differences: dict[str, Float32Array] = {}

    def __call__(self, video: LatentState | None, audio: LatentState | None, sigma: float, step_index: int) -> Denoised:
        """Predictions (B, T, C) of the two streams at ``sigma``; None for an absent stream.

        Raises:
            ValueError: if the model returned no prediction for a stream that runs.
        """
        video_params = None if video is None else self._video.at(sigma)
        audio_params = None if audio is None else self._audio.at(sigma)
        plan = plan_step(video_params, audio_params, step_index)
        if plan.passes:
            results = self._predict(
                PredictRequest(plan.passes, video, audio, sigma, run_video=plan.run_video, run_audio=plan.run_audio)
            )
            kinds = [p.kind for p in plan.passes]
            last_video, last_audio = self._last
            if plan.run_video and video is not None and video_params is not None:
                last_video = self._combine("video", video_params, kinds, [pair[0] for pair in results], video)
            if plan.run_audio and audio is not None and audio_params is not None:
                last_audio = self._combine("audio", audio_params, kinds, [pair[1] for pair in results], audio)
            self._last = (last_video, last_audio)
        return self._last

    def memory(self) -> dict[str, Float32Array]:
        """What the next step may depend on, besides its arguments; see `restore`."""
        named = {"video": self._last[0], "audio": self._last[1]}
        memory = {name: values for name, values in named.items() if values is not None}
        return memory | {f"{stream}_differences": values for stream, values in self._differences.items()}

    def restore(self, memory: Mapping[str, Float32Array]) -> Denoised:
        """Continue as if the step that left this memory had just run; returns its predictions."""
        self._last = (memory.get("video"), memory.get("audio"))
        names = {stream: f"{stream}_differences" for stream in ("video", "audio")}
        self._differences = {stream: memory[name] for stream, name in names.items() if name in memory}
        return self._last

    def _combine(
        self,
        stream: str,
        params: GuiderParams,
        kinds: list[PassKind],
        predictions: list[Float32Array | None],
        state: LatentState,
    ) -> Float32Array:
        by_kind = dict(zip(kinds, predictions, strict=True))
        cond, uncond = by_kind["cond"], by_kind.get("uncond")
        if cond is None:
            raise ValueError("The model returned no prediction for a stream that runs in this step.")
        cfg = None
        if params.apg is not None and params.needs_uncond and uncond is not None:
            apg = MomentumApg(
                params.cfg_scale - 1,
                params.apg.eta,
                norm_threshold=params.apg.norm_threshold,
                momentum=params.apg.momentum,
                running=self._differences.get(stream),
            )
            cfg = apg.delta(cond, uncond)
            if apg.running is not None:
                self._differences[stream] = apg.running
        return combine_predictions(
            params,
            cond,
            uncond=uncond,
            perturbed=by_kind.get("perturbed"),
            isolated=by_kind.get("isolated"),
            cfg=cfg,
            dtype=state.dtype,
        )


def _perturbed_blocks(params: GuiderParams | None) -> tuple[int, ...]:
    return params.stg_blocks if params is not None and params.needs_perturbed else ()

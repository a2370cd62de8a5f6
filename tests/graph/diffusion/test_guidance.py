"""Guidance: known combinations, which passes a step needs, skipping, binned strengths."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.denoising import GuidedDenoiser, PredictRequest, plan_step
from ltx2rt.graph.diffusion.guidance import (
    GuiderParams,
    GuiderSchedule,
    MomentumApg,
    combine_predictions,
)
from ltx2rt.graph.diffusion.latent_state import LatentState

COND = np.array([[1, 2], [3, 5]], np.float32)
UNCOND = np.float32(0.9) * COND + np.float32(0.1)
PERTURBED = np.float32(0.8) * COND - np.float32(0.1)
ISOLATED = np.float32(0.95) * COND + np.float32(0.05)


def test_combination_of_all_strengths() -> None:
    params = GuiderParams(cfg_scale=3, stg_scale=1, modality_scale=3, rescale_scale=0.7)
    guided = combine_predictions(params, COND, uncond=UNCOND, perturbed=PERTURBED, isolated=ISOLATED)
    np.testing.assert_allclose(guided, [[0.9966668, 2.1466670], [3.2966676, 5.5966673]], rtol=0, atol=1e-6)


def test_neutral_strengths_return_the_prediction() -> None:
    np.testing.assert_array_equal(combine_predictions(GuiderParams(), COND, uncond=UNCOND), COND)


def test_missing_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="need the isolated prediction"):
        combine_predictions(GuiderParams(modality_scale=2), COND)


def test_full_rescale_restores_the_deviation() -> None:
    guided = combine_predictions(GuiderParams(cfg_scale=5, rescale_scale=1), COND, uncond=UNCOND)
    assert guided.std(ddof=1) == pytest.approx(COND.std(ddof=1), rel=1e-6)


def test_each_strength_adds_its_difference() -> None:
    negative = combine_predictions(GuiderParams(cfg_scale=4), COND, uncond=UNCOND)
    np.testing.assert_allclose(negative, COND + 3 * (COND - UNCOND), rtol=1e-6)
    perturbed = combine_predictions(GuiderParams(stg_scale=1.5), COND, perturbed=PERTURBED)
    np.testing.assert_allclose(perturbed, COND + 1.5 * (COND - PERTURBED), rtol=1e-6)


def test_projected_guidance_splits_along_the_prediction() -> None:
    cond = np.array([[[1.0, 0.0]]], np.float32)
    uncond = cond - np.array([[[3.0, 4.0]]], np.float32)

    def delta(scale: float, other: np.ndarray, *, eta: float = 1.0, norm_threshold: float = 0.0) -> np.ndarray:
        return MomentumApg(scale, eta, norm_threshold=norm_threshold).delta(cond, other)

    np.testing.assert_allclose(delta(1, uncond), [[[3, 4]]], rtol=1e-6)
    np.testing.assert_allclose(delta(2, uncond, eta=0.5), [[[3, 8]]], rtol=1e-6)
    np.testing.assert_allclose(delta(1, uncond, norm_threshold=2.5), [[[1.5, 2]]], rtol=1e-6)
    np.testing.assert_allclose(delta(1, uncond, norm_threshold=50), [[[3, 4]]], rtol=1e-6)
    np.testing.assert_allclose(delta(1, cond, norm_threshold=1), 0)


def test_momentum_accumulates_differences() -> None:
    guider = MomentumApg(2.0, 1.0, norm_threshold=0.0, momentum=0.5)
    cond = np.ones((2, 3, 4), np.float32)
    np.testing.assert_allclose(guider.delta(cond, cond - 1), 2, rtol=1e-6)
    np.testing.assert_allclose(guider.delta(cond, cond - 1), 2 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(guider.delta(cond, cond - 1), 2 * 1.75, rtol=1e-6)


@pytest.mark.parametrize(("skip", "expected"), [(0, "....."), (1, ".x.x."), (2, ".xx.x"), (3, ".xxx."), (9, ".xxxx")])
def test_skipped_steps(skip: int, expected: str) -> None:
    params = GuiderParams(skip_step=skip)
    assert "".join("x" if params.skips(i) else "." for i in range(5)) == expected


def test_strengths_by_sigma() -> None:
    weak, strong = GuiderParams(cfg_scale=2), GuiderParams(cfg_scale=5)
    schedule = GuiderSchedule({0.9: strong, 0.5: weak})
    assert [schedule.at(s).cfg_scale for s in (1.0, 0.9, 0.6, 0.5, 0.1)] == [5, 5, 5, 2, 2]
    assert GuiderSchedule(weak).at(0.3) is weak


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="skip_step must be 0 or more, got -1"):
        GuiderParams(skip_step=-1)
    with pytest.raises(UsageError, match=r"from 0 on, got \[-3\]"):
        GuiderParams(stg_blocks=(-3,))
    with pytest.raises(UsageError, match="at least one entry"):
        GuiderSchedule({})


FULL = GuiderParams(cfg_scale=3, stg_scale=1, modality_scale=3, stg_blocks=(28,))


def test_passes_in_order_with_their_perturbations() -> None:
    plan = plan_step(FULL, GuiderParams(stg_scale=0.5, stg_blocks=(7,)), 0)
    assert [p.kind for p in plan.passes] == ["cond", "uncond", "perturbed", "isolated"]
    perturbed = plan.passes[2]
    assert (perturbed.skip_video_self_attention, perturbed.skip_audio_self_attention) == ((28,), (7,))
    assert [p.negative_prompt for p in plan.passes] == [False, True, False, False]
    assert [p.skip_cross_modal for p in plan.passes] == [False, False, False, True]


def test_a_stream_without_perturbation_is_not_perturbed() -> None:
    plan = plan_step(FULL, GuiderParams(stg_blocks=(7,)), 0)
    assert plan.passes[2].skip_audio_self_attention == ()


def test_plain_and_absent_streams_need_one_pass() -> None:
    assert [p.kind for p in plan_step(GuiderParams(), GuiderParams(), 3).passes] == ["cond"]
    assert [p.kind for p in plan_step(None, GuiderParams(cfg_scale=7), 3).passes] == ["cond", "uncond"]


def test_a_skipping_stream_is_disabled_and_asks_for_nothing() -> None:
    plan = plan_step(GuiderParams(skip_step=1, stg_scale=1, stg_blocks=(2,)), GuiderParams(cfg_scale=7), 1)
    assert (plan.run_video, plan.run_audio) == (False, True)
    assert [p.kind for p in plan.passes] == ["cond", "uncond"]
    assert plan_step(GuiderParams(skip_step=1), GuiderParams(skip_step=1), 1).passes == ()
    assert plan_step(None, GuiderParams(skip_step=1), 1).passes == ()


def state() -> LatentState:
    tokens = np.zeros((1, 2, 2), np.float32)
    return LatentState(tokens, np.ones((1, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32), tokens)


class Model:
    """Answers each pass with a constant and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[PredictRequest] = []

    def __call__(self, request: PredictRequest) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        self.requests.append(request)
        values = {"cond": 1.0, "uncond": 0.5, "perturbed": 0.25, "isolated": 0.75}
        level = len(self.requests) * 10
        answers = []
        for one in request.passes:
            tokens = np.full((1, 2, 2), level + values[one.kind], np.float32)
            answers.append((tokens if request.run_video else None, 2 * tokens if request.run_audio else None))
        return answers


def test_denoiser_combines_the_passes_of_both_streams() -> None:
    denoiser = GuidedDenoiser(Model(), video=GuiderParams(cfg_scale=3), audio=GuiderParams())
    video, audio = denoiser(state(), state(), 0.9, 0)
    np.testing.assert_allclose(video, 11 + 2 * 0.5)
    np.testing.assert_allclose(audio, 22)


def test_denoiser_reuses_predictions_of_skipped_steps() -> None:
    model = Model()
    denoiser = GuidedDenoiser(model, video=GuiderParams(skip_step=1), audio=GuiderParams(skip_step=2))
    answers = [denoiser(state(), state(), 0.9, i) for i in range(4)]
    assert [(r.run_video, r.run_audio) for r in model.requests] == [(True, True), (True, False), (False, True)]
    assert [float(video[0, 0, 0]) for video, _ in answers if video is not None] == [11, 11, 21, 21]
    assert [float(audio[0, 0, 0]) for _, audio in answers if audio is not None] == [22, 22, 22, 62]


def test_denoiser_takes_strengths_of_the_sigma() -> None:
    schedule = GuiderSchedule({1.0: GuiderParams(cfg_scale=3), 0.5: GuiderParams()})
    denoiser = GuidedDenoiser(Model(), video=schedule)
    np.testing.assert_allclose(denoiser(state(), None, 0.9, 0)[0], 12)
    np.testing.assert_allclose(denoiser(state(), None, 0.4, 1)[0], 21)


def test_denoiser_refuses_a_missing_prediction() -> None:
    denoiser = GuidedDenoiser(lambda request: [(None, None)])
    with pytest.raises(ValueError, match="returned no prediction"):
        denoiser(state(), None, 0.9, 0)

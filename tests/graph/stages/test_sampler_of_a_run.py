"""A denoising stage walks with whatever sampler it is given."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ltx2rt import embedded
from ltx2rt.graph.diffusion.samplers import EULER, AncestralEuler, Sampler
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import audio_state
from ltx2rt.graph.stages.events import Event, StepDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import audio_target
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.weights.checkpoint import Checkpoint

WEIGHTS = WeightSet(sources_of(Checkpoint.open(embedded.CHECKPOINT)))
SIGMAS = np.array([1.0, 0.8, 0.4, 0.0], np.float32)


def sampled(sampler: Sampler, seed: int) -> tuple[np.ndarray, list[StepDone]]:
    """The sound latent of a stage with this sampler, and its steps."""
    events: list[Event] = []
    inputs = GenerationInputs(Settings(seed=seed), 64, 64, 9, Fraction(24))
    run = Run(WEIGHTS, inputs, events.append)
    start = audio_state(run, audio_target(run), noise_scale=1.0)
    _, audio = denoise(run, "denoise", Sampling(SIGMAS, sampler=sampler), None, start, zero_context(WEIGHTS))
    assert audio is not None
    return audio.latent, [event for event in events if isinstance(event, StepDone)]


def test_the_ancestral_sampler_runs_a_stage() -> None:
    latent, steps = sampled(AncestralEuler(), seed=3)
    assert [step.index for step in steps] == [0, 1, 2]
    np.testing.assert_array_equal(latent, sampled(AncestralEuler(), seed=3)[0])
    euler, _ = sampled(EULER, seed=3)
    assert np.isfinite(latent).all()
    assert not np.allclose(latent, euler, atol=1e-2)
    # Without fresh noise it is Euler but for rounding.
    np.testing.assert_allclose(sampled(AncestralEuler(eta=0.0), seed=3)[0], euler, atol=0.15)

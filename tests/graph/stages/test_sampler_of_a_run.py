"""A denoising stage walks with whatever sampler it is given."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.graph.diffusion.noise import TorchCpuNoise
from ltx2rt.graph.diffusion.samplers import EULER, AncestralEuler, Sampler
from ltx2rt.graph.pipelines import distilled
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import audio_state
from ltx2rt.graph.stages.events import Event, StepDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import audio_target
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2, LTX_2_3, LTX_2_5, Generation

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
    latent, steps = sampled(AncestralEuler(10_000), seed=3)
    assert [step.index for step in steps] == [0, 1, 2]
    np.testing.assert_array_equal(latent, sampled(AncestralEuler(10_000), seed=3)[0])
    euler, _ = sampled(EULER, seed=3)
    assert np.isfinite(latent).all()
    assert not np.allclose(latent, euler, atol=1e-2)
    # Without fresh noise it is Euler but for rounding.
    np.testing.assert_allclose(sampled(AncestralEuler(10_000, eta=0.0), seed=3)[0], euler, atol=0.15)


@pytest.mark.parametrize(
    ("generation", "version", "ancestral"),
    [
        (LTX_2_3, "2.3.0", False),
        (LTX_2, "", False),
        (LTX_2_5, "2.4.1", False),
        (LTX_2_5, "2.5.0", True),
        (LTX_2_5, "2.5-rc1", True),
        (LTX_2_5, "2.6", True),
        (LTX_2_5, "", True),  # known by its tensors alone
    ],
)
def test_models_that_are_sampled_with_fresh_noise(generation: Generation, version: str, ancestral: bool) -> None:
    assert generation.is_ancestral({"model_version": version} if version else {}) is ancestral


def test_both_stages_of_the_distilled_pipeline_follow_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of each stage begins anew, with a seed of its own."""
    files = WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT, spatial_upscaler=embedded.SPATIAL_UPSCALER))
    inputs = GenerationInputs(Settings(seed=3, latents_only=True), 64, 64, 9, Fraction(24), context=zero_context(files))
    seeds: list[int] = []

    def latents() -> np.ndarray:
        def seeded(offset: int) -> TorchCpuNoise:
            seeds.append(offset)
            return TorchCpuNoise(3 + offset)

        clip = distilled.PIPELINE.generate(Run(files, inputs, seeded_noise=seeded))
        assert clip.video_latent is not None
        return clip.video_latent

    plain = latents()
    assert seeds == []
    monkeypatch.setattr(Generation, "is_ancestral", lambda *_: True)
    ancestral = latents()
    assert seeds == [10_000, 20_000]
    assert np.isfinite(ancestral).all()
    assert not np.allclose(ancestral, plain, atol=1e-2)
    clip = distilled.PIPELINE.generate(Run(files, inputs))
    np.testing.assert_array_equal(clip.video_latent, ancestral)  # the same draws by default

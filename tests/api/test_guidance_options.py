"""Guidance settings change what they say: batching changes nothing, gradient estimation and projected guidance do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltx2rt import api

BASE: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": 3,
    "zero_text": True,
    "latents_only": True,
}


@pytest.fixture(scope="module")
def pipeline() -> api.Pipeline:
    return api.load("one-stage", dtype="float32")


@pytest.fixture(scope="module")
def plain(pipeline: api.Pipeline) -> np.ndarray:
    return pipeline(**BASE).video_latent


@pytest.mark.parametrize("size", [2, 4])
def test_passes_in_one_batch_give_the_same_clip(pipeline: api.Pipeline, plain: np.ndarray, size: int) -> None:
    batched = pipeline(**BASE, max_batch_size=size).video_latent
    np.testing.assert_allclose(batched, plain, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"ge_gamma": 2.0},
        {"apg_scale": 3.0, "apg_eta": 0.0},
        {"video_cfg_guidance_scale": 5.0},
        {"video_stg_blocks": [0]},
        {"a2v_guidance_scale": 1.0},
        {"video_skip_step": 1},
        {"video_rescale_scale": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_strengths_have_an_effect(pipeline: api.Pipeline, plain: np.ndarray, changes: dict[str, Any]) -> None:
    # The contexts are all zeros: what differs between prompt and negative prompt vanishes, and so does its guidance.
    changed = pipeline(**BASE, **changes).video_latent
    if "apg_scale" in changes or "video_cfg_guidance_scale" in changes:
        np.testing.assert_allclose(changed, plain, atol=1e-3)
    else:
        assert np.abs(changed - plain).max() > 1e-3


def test_projected_guidance_with_eta_one_is_plain_guidance() -> None:
    pipeline = api.load("one-stage", dtype="float32")
    settings = {**BASE, "zero_text": False, "prompt": "a red circle", "num_inference_steps": 2}
    plain = pipeline(**settings, video_cfg_guidance_scale=3.0, audio_cfg_guidance_scale=3.0).video_latent
    projected = pipeline(**settings, apg_scale=3.0, apg_eta=1.0).video_latent
    changed = pipeline(**settings, apg_scale=3.0, apg_eta=0.0).video_latent
    np.testing.assert_allclose(projected, plain, atol=1e-3)
    assert np.abs(changed - plain).max() > 1e-3

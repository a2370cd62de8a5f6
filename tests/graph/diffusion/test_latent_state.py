"""Latent states: creation, noise, freezing, cutting out the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltx2rt.graph.diffusion.attention_masks import AttentionLinks
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    VideoTarget,
    add_noise,
    audio_latent,
    create_audio_state,
    create_video_state,
    drop_conditioning,
    freeze,
    generated_keyframes,
    video_latent,
)
from ltx2rt.graph.diffusion.noise import RecordedNoise, TorchCpuNoise
from ltx2rt.graph.diffusion.precision import round_to

VIDEO = VideoTarget(VideoLatentShape(3, 2, 4, channels=8), 24.0, VideoScale(8, 32, 32))
AUDIO = AudioTarget(AudioLatentShape(5), AudioScale(16000, 160, 4))
LATENT = np.random.default_rng(0).standard_normal(VIDEO.shape.array_shape).astype(np.float32)


def test_empty_video_state() -> None:
    state = create_video_state(VIDEO)
    assert state.latent.shape == (1, 24, 8)
    assert not state.latent.any()
    assert (state.denoise_mask == 1).all()
    assert state.positions.shape == (1, 3, 24, 2)
    assert state.keyframes_mask is not None
    assert state.keyframes_mask[0].tolist() == [1] * 8 + [0] * 16
    assert state.attention is None


def test_initial_latents_are_patchified_and_rounded() -> None:
    state = create_video_state(VIDEO, initial=LATENT, dtype="bfloat16")
    np.testing.assert_array_equal(state.latent, round_to(LATENT.reshape(1, 24, 8), "bfloat16"))
    np.testing.assert_array_equal(state.clean_latent, state.latent)
    sound = np.ones((1, 5, 128), np.float32)
    np.testing.assert_array_equal(create_audio_state(AUDIO, initial=sound).latent, sound)


def test_audio_state_has_no_keyframes() -> None:
    state = create_audio_state(AUDIO)
    assert state.latent.shape == (1, 5, 128)
    assert state.positions.shape == (1, 1, 5, 2)
    assert state.keyframes_mask is None


def test_initial_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"initial video latent must be \(1, 3, 2, 4, 8\), got shape \(1, 3, 2, 4, 7\)"
    ):
        create_video_state(VIDEO, initial=LATENT[..., :7])
    with pytest.raises(ValueError, match=r"initial audio latent must be \(1, 5, 128\), got shape \(1, 4, 128\)"):
        create_audio_state(AUDIO, initial=np.zeros((1, 4, 128), np.float32))


def test_noise_is_interpolated_and_masked() -> None:
    state = create_video_state(VIDEO, initial=LATENT)
    mask = state.denoise_mask.copy()
    mask[0, :3] = 0, 0.25, 0.75
    clean = state.clean_latent + 5
    noise = TorchCpuNoise(10).normal(state.latent.shape)
    noised = add_noise(
        replace(state, denoise_mask=mask, clean_latent=clean), RecordedNoise([noise]), noise_scale=0.909375
    )
    mixed = state.latent * (1 - 0.909375) + noise * 0.909375
    expected = clean * (1 - mask[..., None]) + mixed * mask[..., None]
    np.testing.assert_allclose(noised.latent, expected, atol=1e-6)
    np.testing.assert_array_equal(noised.latent[0, 0], clean[0, 0])


def test_full_noise_replaces_and_no_noise_keeps_exactly() -> None:
    state = create_video_state(VIDEO, initial=LATENT)
    noise = TorchCpuNoise(10).normal(state.latent.shape)
    np.testing.assert_array_equal(add_noise(state, TorchCpuNoise(10), noise_scale=1.0).latent, noise)
    source = TorchCpuNoise(10)
    np.testing.assert_array_equal(add_noise(state, source, noise_scale=0.0).latent, state.latent)
    # The unused draw still moves the stream.
    np.testing.assert_array_equal(source.normal((16,)), TorchCpuNoise(10).normal((1, 24 * 8 + 16))[0, -16:])


def test_noise_of_a_bfloat16_state_is_bfloat16() -> None:
    state = create_video_state(VIDEO, dtype="bfloat16")
    noised = add_noise(state, TorchCpuNoise(10), noise_scale=1.0)
    np.testing.assert_array_equal(noised.latent, TorchCpuNoise(10).normal(state.latent.shape, "bfloat16"))


def test_noise_scale_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within \[0, 1\], got 1.5"):
        add_noise(create_audio_state(AUDIO), TorchCpuNoise(0), noise_scale=1.5)


def test_timesteps_and_frozen_streams() -> None:
    state = create_audio_state(AUDIO)
    mask = np.array([[0, 0.5, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(replace(state, denoise_mask=mask).timesteps(0.8), [[0, 0.4, 0.8, 0.8, 0.8]], rtol=1e-6)
    frozen = freeze(state)
    assert frozen.model_sigma(0.8) == 0
    assert state.model_sigma(0.8) == 0.8
    assert not frozen.timesteps(0.8).any()


def test_result_is_cut_out() -> None:
    state = create_video_state(VIDEO, initial=LATENT)
    longer = replace(
        state,
        latent=np.concatenate([state.latent, state.latent[:, :5]], axis=1),
        clean_latent=np.concatenate([state.clean_latent, state.clean_latent[:, :5]], axis=1),
        denoise_mask=np.zeros((1, 29), np.float32),
        positions=np.concatenate([state.positions, state.positions[:, :, :5]], axis=2),
        attention=AttentionLinks(np.zeros(29, np.int32), np.arange(29) < 24, np.ones((1, 29), np.float32)),
    )
    cut = drop_conditioning(longer, VIDEO)
    assert cut.tokens == 24
    assert (cut.denoise_mask == 1).all()
    assert cut.attention is None
    assert cut.keyframes_mask is None
    np.testing.assert_array_equal(video_latent(longer, VIDEO), LATENT)
    assert audio_latent(create_audio_state(AUDIO), AUDIO).shape == (1, 5, 128)
    assert generated_keyframes(longer, VIDEO) is None


def test_target_larger_than_the_state_is_refused() -> None:
    with pytest.raises(ValueError, match="target has 6 tokens but the state only 5"):
        drop_conditioning(create_audio_state(AUDIO), AudioTarget(AudioLatentShape(6), AudioScale(16000, 160, 4)))

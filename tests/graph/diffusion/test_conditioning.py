"""Conditioning items: what they change, where they put tokens, attention between groups, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.attention_masks import extend_attention, mask_video_to_tokens
from ltx2rt.graph.diffusion.conditioning import (
    AppendKeyframe,
    AppendReferenceAudio,
    AppendReferenceVideo,
    ConditioningError,
    GeneratedKeyframes,
    KeepMasked,
    RegenerateTimeRange,
    ReplaceLatentFrames,
    WithAttentionStrength,
    apply_conditioning,
    evenly_spaced_keyframes,
    image_condition,
    reference_frame_indices,
)
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    create_audio_state,
    create_video_state,
    generated_keyframes,
)

TARGET = VideoTarget(VideoLatentShape(3, 2, 4, channels=4), 24.0, VideoScale(8, 32, 32))
AUDIO = AudioTarget(AudioLatentShape(6), AudioScale(16000, 160, 4))


def latent(frames: int, height: int = 2, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, frames, height, width, 4)).astype(np.float32)


def apply(*items: Any) -> LatentState:
    return apply_conditioning(create_video_state(TARGET), TARGET, items)


def frames_of(state: LatentState) -> list[list[float]]:
    """Time bounds of the tokens in frames."""
    return (state.positions[0, 0] * 24).round(3).tolist()


def test_replaced_frames_change_only_clean_latent_and_mask() -> None:
    image = latent(1)
    state = apply(ReplaceLatentFrames(image, 0.75, 2))
    assert not state.latent.any()
    np.testing.assert_array_equal(state.clean_latent[:, 16:], image.reshape(1, 8, 4))
    assert not state.clean_latent[:, :16].any()
    assert state.denoise_mask[0].tolist() == [1] * 16 + [0.25] * 8


def test_conditioning_follows_the_dtype_of_the_state() -> None:
    state = ReplaceLatentFrames(latent(1)).apply(create_video_state(TARGET, dtype="bfloat16"), TARGET)
    assert (state.clean_latent.view(np.uint32) & 0xFFFF == 0).all()


def test_keyframe_is_appended_at_its_frame() -> None:
    image = latent(1)
    state = apply(AppendKeyframe(image, 16, 0.75))
    np.testing.assert_array_equal(state.clean_latent[:, 24:], image.reshape(1, 8, 4))
    assert not state.latent[:, 24:].any()
    assert state.denoise_mask[0, 24:].tolist() == [0.25] * 8
    assert frames_of(state)[24:] == [[16, 17]] * 8
    assert state.positions[0, 1:, 31].tolist() == [[32, 64], [96, 128]]
    assert state.keyframes_mask is not None
    assert not state.keyframes_mask[0, 24:].any()
    assert state.attention is None


@pytest.mark.parametrize(
    ("frames", "index", "pixel_frames", "expected"),
    [
        (1, 0, 1, [[0, 1]]),
        (1, 9, 8, [[9, 17]]),
        (2, 8, 1, [[8, 9], [16, 17]]),
        (2, 0, 9, [[0, 1], [1, 9]]),
    ],
)
def test_time_of_keyframes(frames: int, index: int, pixel_frames: int, expected: list) -> None:
    state = apply(AppendKeyframe(latent(frames), index, 1.0, pixel_frames))
    assert frames_of(state)[24::8] == expected


def test_images_replace_frame_0_and_are_appended_elsewhere() -> None:
    assert isinstance(image_condition(latent(1), 0, 0.5), ReplaceLatentFrames)
    later = image_condition(latent(1), 5, 0.5)
    assert isinstance(later, AppendKeyframe)
    assert (later.frame_index, later.strength) == (5, 0.5)


def test_reference_video_spans_the_target() -> None:
    state = apply(AppendReferenceVideo(latent(3, 1, 2), downscale=2, strength=0.9))
    assert state.tokens == 30
    assert frames_of(state)[24::2] == [[0, 1], [1, 9], [9, 17]]
    assert state.positions[0, 1:, 25].tolist() == [[0, 64], [64, 128]]
    np.testing.assert_allclose(state.denoise_mask[0, 24:], 0.1, atol=1e-7)


def test_slower_reference_ends_with_the_target() -> None:
    state = apply(AppendReferenceVideo(latent(3, 1, 2), temporal_scale=4))
    assert frames_of(state)[24::2] == [[0, 1], [1, 33], [33, 65]]
    assert reference_frame_indices(10, 4) == [0, 1, 5, 9]
    assert reference_frame_indices(4, 1) == [0, 1, 2, 3]


def test_mask_conditioning() -> None:
    image, mask = latent(3), np.zeros((1, 3, 2, 4), np.float32)
    mask[0, 1, 0, 2] = 1
    mask[0, 2, 1, 3] = 0.5
    state = apply(KeepMasked(image, mask, 0.75))
    np.testing.assert_array_equal(state.clean_latent[0, 10], image[0, 1, 0, 2])
    np.testing.assert_array_equal(state.clean_latent[0, 23], 0.5 * image[0, 2, 1, 3])
    assert state.denoise_mask[0, [0, 10, 23]].tolist() == [1, 0.25, 0.625]


def test_time_range_of_video_and_audio() -> None:
    # Latent frames cover frames [0,1), [1,9), [9,17); 0.4 s is frame 9.6.
    assert apply(RegenerateTimeRange(0.4, 99)).denoise_mask[0, ::8].tolist() == [0, 0, 1]
    assert apply(RegenerateTimeRange(0.0, 0.1)).denoise_mask[0, ::8].tolist() == [1, 1, 0]
    assert apply(RegenerateTimeRange(0.0, 0.0)).denoise_mask[0, ::8].tolist() == [0, 0, 0]
    sound = RegenerateTimeRange(0.06, 0.1).apply(create_audio_state(AUDIO), AUDIO)
    assert sound.denoise_mask[0].tolist() == [0, 0, 1, 1, 0, 0]


def test_reference_audio_may_lie_before_the_clip() -> None:
    tokens = np.ones((1, 2, 128), np.float32)
    positions = np.array([-0.1, -0.05, -0.05, 0.0], np.float32).reshape(1, 1, 2, 2)
    state = AppendReferenceAudio(tokens, positions).apply(create_audio_state(AUDIO), AUDIO)
    assert state.tokens == 8
    np.testing.assert_array_equal(state.positions[:, :, 6:], positions)
    assert state.denoise_mask[0].tolist() == [1] * 6 + [0] * 2
    assert state.keyframes_mask is None


def test_generated_keyframes_are_marked_and_found_again() -> None:
    start = latent(2, seed=3)
    state = apply(ReplaceLatentFrames(latent(1)), GeneratedKeyframes((6, 11), start), AppendKeyframe(latent(1), 16))
    assert state.tokens == 48
    assert frames_of(state)[24::8] == [[6, 7], [11, 12], [16, 17]]
    assert state.keyframes_mask is not None
    assert state.keyframes_mask[0].tolist() == [1] * 8 + [0] * 16 + [1] * 16 + [0] * 8
    assert (state.denoise_mask[0, 24:40] == 1).all()
    assert not state.clean_latent[0, 24:40].any()
    found = generated_keyframes(state, TARGET)
    assert found is not None
    np.testing.assert_array_equal(found, start)
    assert not apply(GeneratedKeyframes((6,))).latent.any()


def test_generated_keyframes_of_another_resolution_are_not_cut_out() -> None:
    state = apply(GeneratedKeyframes((6,)))
    with pytest.raises(ValueError, match="slots of 8 tokens"):
        generated_keyframes(state, VideoTarget(VideoLatentShape(3, 2, 2, channels=4), 24.0, VideoScale(8, 32, 32)))


def test_even_spacing() -> None:
    assert evenly_spaced_keyframes(1, 9) == (4,)
    assert evenly_spaced_keyframes(3, 17) == (4, 8, 12)
    assert evenly_spaced_keyframes(2, 9) == (3, 5)
    with pytest.raises(ConditioningError, match=r"num_generated_keyframes: 2 between .* at least 4 frames"):
        evenly_spaced_keyframes(2, 3)


def test_attention_between_groups() -> None:
    state = apply(
        AppendKeyframe(latent(1, 1, 1), 16),
        WithAttentionStrength(AppendReferenceVideo(latent(1, 1, 2)), 0.25),
        AppendReferenceVideo(latent(1, 1, 1)),
    )
    assert state.attention is not None
    mask = state.attention.dense()
    assert mask.shape == (1, 28, 28)
    expected = np.ones((5, 5))  # target, keyframe, reference (two tokens), second reference
    expected[0, 2:4] = expected[2:4, 0] = 0.25
    expected[1, 2:] = expected[2:, 1] = 0
    expected[2:4, 4] = expected[4, 2:4] = 0
    np.testing.assert_array_equal(mask[0][np.ix_([0, 24, 25, 26, 27], [0, 24, 25, 26, 27])], expected)
    np.testing.assert_array_equal(mask, mask.swapaxes(1, 2))


def test_attention_strength_per_token() -> None:
    state = apply(WithAttentionStrength(AppendReferenceVideo(latent(1, 1, 2)), [0.25, 0.5]))
    assert state.attention is not None
    mask = state.attention.dense()
    assert mask[0, 3, 24:].tolist() == [0.25, 0.5]
    assert mask[0, 24:, 3].tolist() == [0.25, 0.5]
    assert (mask[0, 24:, 24:] == 1).all()


def test_no_mask_without_strength() -> None:
    sizes = {"batch": 1, "target_tokens": 2, "existing_tokens": 3, "new_tokens": 1}
    assert extend_attention(None, strength=None, **sizes) is None
    existing = extend_attention(None, strength=0.5, **(sizes | {"existing_tokens": 2}))
    extended = extend_attention(existing, strength=None, **sizes)
    assert extended is not None
    assert extended.dense()[0, 2:].tolist() == [[0.5, 0.5, 1, 0], [1, 1, 0, 1]]


def test_mask_video_is_averaged_over_cells_and_frame_groups() -> None:
    pixels = np.zeros((1, 5, 4, 4), np.float32)
    pixels[0, 0, :2, :2] = 1
    pixels[0, 1, 2:, 2:] = 1
    pixels[0, 4] = 0.5
    tokens = mask_video_to_tokens(pixels, VideoLatentShape(3, 2, 2))
    np.testing.assert_allclose(tokens, [[1, 0, 0, 0, 0, 0, 0, 0.5, 0.25, 0.25, 0.25, 0.25]])
    # Windows that do not divide the size overlap: rows 0-1, 1-2.
    ragged = mask_video_to_tokens(np.array([0, 1, 0], np.float32).reshape(1, 1, 3, 1), VideoLatentShape(1, 2, 1))
    np.testing.assert_allclose(ragged, [[0.5, 0.5]])


VIDEO_REFUSALS = [
    (ReplaceLatentFrames(latent(1), 1.5), r"strength must be within \[0, 1\], got 1.5"),
    (ReplaceLatentFrames(latent(1, 1, 4)), "image latent is 1x4 cells but the video 2x4"),
    (ReplaceLatentFrames(latent(2), 1.0, 2), "use an index from 0 to 1"),
    (ReplaceLatentFrames(latent(1)[..., :2]), "batch 1 and 4 channels"),
    (AppendKeyframe(latent(1), 17), "Keyframe index 17 is outside the clip of 17 frames; use 0 to 16"),
    (AppendKeyframe(latent(1)[0], 1), r"must be \(B, F, H, W, C\)"),
    (AppendKeyframe(latent(1)[..., :2], 1), "batch 1 and 4 channels"),
    (AppendReferenceVideo(latent(1), downscale=0), "at least 1, got downscale 0"),
    (KeepMasked(latent(3), np.zeros((1, 3, 2, 3), np.float32)), r"got \(1, 3, 2, 4, 4\) and \(1, 3, 2, 3\)"),
    (KeepMasked(latent(3), np.full((1, 3, 2, 4), 2, np.float32)), r"mask must be within \[0, 1\], got 2"),
    (GeneratedKeyframes((5, 5)), r"strictly increasing frame numbers, got \[5, 5\]"),
    (GeneratedKeyframes(()), "strictly increasing"),
    (GeneratedKeyframes((-1, 5)), "within the clip of 17 frames"),
    (GeneratedKeyframes((5, 17)), "use 0 to 16"),
    (GeneratedKeyframes((5,), latent(2)), r"must be \(1, 1, 2, 4, 4\)"),
    (WithAttentionStrength(AppendReferenceVideo(latent(1)), 1.5), r"within \[0, 1\], got values from 1.5"),
    (WithAttentionStrength(AppendReferenceVideo(latent(1)), [0.1, 0.2]), r"8 new tokens .* got shape \(2,\)"),
    (
        WithAttentionStrength(AppendReferenceAudio(np.zeros((1, 1, 4)), np.zeros((1, 1, 1, 2))), 1.0),
        "AppendReferenceAudio cannot condition a VideoTarget",
    ),
]


@pytest.mark.parametrize(("item", "message"), VIDEO_REFUSALS)
def test_refused_conditions(item: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply(item)


@pytest.mark.parametrize("item", [KeepMasked(latent(3), np.zeros((1, 3, 2, 4), np.float32)), RegenerateTimeRange(0, 1)])
def test_grid_conditions_come_before_appended_tokens(item: Any) -> None:
    with pytest.raises(ConditioningError, match="24 tokens, got 32"):
        apply(AppendKeyframe(latent(1), 5), item)


def test_slots_may_be_applied_once() -> None:
    with pytest.raises(ConditioningError, match="applied already"):
        apply(GeneratedKeyframes((3,)), GeneratedKeyframes((5,)))


def test_reference_audio_of_another_width_is_refused() -> None:
    item = AppendReferenceAudio(np.zeros((1, 2, 64), np.float32), np.zeros((1, 1, 2, 2), np.float32))
    with pytest.raises(ConditioningError, match=r"\(1, M, 128\)"):
        item.apply(create_audio_state(AUDIO), AUDIO)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(np.zeros((1, 4, 2, 2)), r"needs 2\*k \+ 1 frames, got 4"), (np.zeros((4, 2, 2)), "B, F, H, W")],
)
def test_mask_videos_that_do_not_fit_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mask_video_to_tokens(mask, VideoLatentShape(3, 1, 1))

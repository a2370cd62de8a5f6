"""Windows of a long clip: where they lie, their key frames, and what each has from the one before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import (
    AppendReferenceVideo,
    ConditioningError,
    ReplaceSound,
    apply_conditioning,
)
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    VideoTarget,
    create_audio_state,
    create_video_state,
)
from ltx2rt.graph.diffusion.windows import (
    Carried,
    Planes,
    Window,
    carried_sound,
    joined_latents,
    reference_prefix,
    require_reference,
    sound_of_window,
    window_keyframes,
    window_plan,
)

# (frames, window, carry) -> (start, length) of each window.
PLANS = [
    (241, 97, 25, [(0, 97), (72, 97), (144, 97)]),
    (257, 97, 25, [(0, 97), (72, 97), (144, 97), (216, 41)]),
    (240, 97, 25, [(0, 97), (72, 97), (144, 89)]),
    (105, 97, 25, [(0, 97), (72, 33)]),
    (49, 33, 17, [(0, 33), (16, 33)]),
    (97, 97, 25, [(0, 97)]),
    (1, 97, 25, [(0, 1)]),
    (9, 9, 0, [(0, 9)]),
]


def plan(frames: int, window: int = 97, carry: int = 25, blend: int = 0) -> tuple[Window, ...]:
    return window_plan(frames, window=window, carry=carry, blend=blend, step=8)


@pytest.mark.parametrize(("frames", "window", "carry", "expected"), PLANS)
def test_windows_lie_where_the_official_ones_do(
    frames: int, window: int, carry: int, expected: list[tuple[int, int]]
) -> None:
    windows = plan(frames, window, carry)
    assert [(w.start, w.frames) for w in windows] == expected
    # Every frame has one owner, and what a window carries is the end of the one before.
    assert [frame for w in windows for frame in w.owned] == list(range((frames - 1) // 8 * 8 + 1))
    for before, after in pairwise(windows):
        assert (before.carry_out, after.carry) == (carry, carry)
        assert before.stop - after.start == carry
    assert windows[0].carry == windows[-1].carry_out == windows[-1].blend == 0


@pytest.mark.parametrize(
    ("frames", "sizes", "said"),
    [
        (121, (97, 9, 0), r"chunk_carry_frames \(9\) must be >= 17 on the causal grid when chunking"),
        (121, (97, 26, 0), r"chunk_carry_frames \(26\) must be on the causal grid .* use 33 or 25"),
        (121, (96, 25, 0), r"chunk_pixel_frames \(96\) must be on the causal grid .* use 97 or 89"),
        (121, (0, 0, 0), r"chunk_pixel_frames \(0\) must be on the causal grid .* use 9 or 1"),
        (121, (97, 25, 30), r"chunk_blend_frames \(30\) must be <= chunk_carry_frames \(25\)"),
        (121, (97, 25, -1), r"chunk_blend_frames \(-1\) must be >= 0"),
        (121, (41, 41, 0), r"chunk_carry_frames \(41\) must be < chunk pixel frames \(41\)"),
        (121, (33, 25, 25), r"chunk_blend_frames \(25\) must be < kept pixel frames \(8\)"),
    ],
)
def test_sizes_that_do_not_fit(frames: int, sizes: tuple[int, int, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(frames, *sizes)


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [
        (241, 1, [96, 168, 205]),
        (241, 3, [32, 64, 96, 121, 144, 168, 187, 205, 222]),
        (241, 4, [24, 48, 72, 96, 115, 133, 150, 168, 183, 197, 212, 226]),
    ],
)
def test_key_frames_of_windows(frames: int, count: int, expected: list[int]) -> None:
    assert list(window_keyframes(plan(frames), count)) == expected


def test_more_key_frames_than_a_window_adds_frames() -> None:
    with pytest.raises(UsageError, match=r"num_generated_keyframes=7 does not fit in chunk owned pixel range \[97, 10"):
        window_keyframes(plan(105), 7)


@pytest.mark.parametrize(("carry", "scale", "expected"), [(0, 1, 0), (25, 1, 4), (25, 2, 3), (17, 1, 3), (17, 4, 2)])
def test_leading_reference_latents_that_are_dropped(carry: int, scale: int, expected: int) -> None:
    assert reference_prefix(carry, scale, 8) == expected
    require_reference(expected, expected + 1)
    with pytest.raises(UsageError, match=f"removes the entire reference window \\({expected} latent frames"):
        require_reference(expected, expected)


def test_sound_of_a_window_is_filled_with_zeros() -> None:
    tokens = np.arange(1, 61, dtype=np.float32)[None, :, None]
    part = sound_of_window(tokens, Window(1, 2, 40, 33), 24.0, 25.0)
    # Latents 42 (of 41.67) to 75, of which 60 are there.
    assert part.shape == (1, 34, 1)
    assert part[0, :18, 0].tolist() == list(range(43, 61))
    assert not part[0, 18:].any()


def test_what_is_carried() -> None:
    window = Window(0, 2, 0, 33, carry_out=17, blend=17)
    video = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1, 1)
    audio = np.arange(34, dtype=np.float32).reshape(1, 34, 1)
    count = carried_sound(17, 24.0, 25.0)
    planes = Planes(np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1, 1), (8, 16, 32))
    carried = Carried.of(window, video, audio, planes, step=8, sound=count)
    assert carried.video.ravel().tolist() == [2, 3, 4]
    assert count == 18
    assert carried.audio.ravel().tolist() == list(range(16, 34))
    assert carried.planes is not None
    assert carried.planes.positions == (0, 16)
    assert carried.planes.latents.ravel().tolist() == [1, 2]
    assert carried.nbytes == 4 * (3 + 18 + 2)
    assert carried_sound(1, 1000.0, 25.0) == 1  # never none


def test_joined_latents_have_each_cell_once() -> None:
    parts = [np.arange(5.0)[None], np.arange(2.0, 7.0)[None]]
    assert joined_latents(parts, [0, 3]).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


AUDIO = AudioTarget(AudioLatentShape(4, channels=2, mel_bins=2), AudioScale(16000, 160, 4))


def test_sound_that_is_kept_is_written_clean() -> None:
    kept = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    state = apply_conditioning(create_audio_state(AUDIO), AUDIO, [ReplaceSound(kept, 1.0, 1)])
    assert state.denoise_mask[0].tolist() == [1, 0, 0, 1]
    assert (state.clean_latent[:, 1:3] == kept).all()
    assert not state.latent.any()  # as of pictures: the noise mixes the clean latent in
    half = apply_conditioning(create_audio_state(AUDIO), AUDIO, [ReplaceSound(kept, 0.25)])
    assert half.denoise_mask[0].tolist() == [0.75, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("shape", "index", "said"),
    [((1, 5, 4), 0, "do not fit"), ((1, 2, 4), 3, "do not fit"), ((1, 2, 3), 0, "must be"), ((2, 2, 4), 0, "must be")],
)
def test_sound_that_cannot_be_kept(shape: tuple[int, ...], index: int, said: str) -> None:
    with pytest.raises(ConditioningError, match=said):
        ReplaceSound(np.zeros(shape, np.float32), 1.0, index).apply(create_audio_state(AUDIO), AUDIO)


@pytest.mark.parametrize("temporal_scale", [1, 2])
def test_a_reference_without_its_beginning_stays_where_it_is(temporal_scale: int) -> None:
    target = VideoTarget(VideoLatentShape(5, 2, 2, channels=3), 24.0, VideoScale(8, 32, 32))
    latent = np.arange(1 * 4 * 1 * 1 * 3, dtype=np.float32).reshape(1, 4, 1, 1, 3)
    whole, cut = (
        apply_conditioning(
            create_video_state(target), target, [AppendReferenceVideo(latent, 2, temporal_scale, 1.0, n)]
        )
        for n in (0, 3)
    )
    tokens = target.shape.tokens
    assert cut.tokens == tokens + 1
    assert (cut.positions[:, :, tokens:] == whole.positions[:, :, tokens + 3 :]).all()
    assert (cut.clean_latent[:, tokens:] == whole.clean_latent[:, tokens + 3 :]).all()

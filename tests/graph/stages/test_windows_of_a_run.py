"""Clips in windows through the pipelines: what is handed on, joined, kept on disk, and in which order it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ltx25_pack import write_diffusion_vae, write_pack
from made_clips import tone

from ltx2rt import api
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.errors import Cancelled, UsageError
from ltx2rt.graph.diffusion.denoising import PredictRequest
from ltx2rt.graph.diffusion.predictions import keep_clean
from ltx2rt.graph.diffusion.seams import FramesInMemory, PictureJoin, SoundJoin
from ltx2rt.graph.diffusion.windows import Window
from ltx2rt.graph.pipelines import refinement
from ltx2rt.graph.pipelines.plan import Rates
from ltx2rt.graph.settings.inputs import ImageInput
from ltx2rt.graph.stages.decode import stage as decode_stage
from ltx2rt.graph.stages.denoise import stage as denoise_stage
from ltx2rt.graph.stages.events import (
    Event,
    Noised,
    StageRestored,
    StageStarted,
    StepDone,
    VideoEncoded,
    WindowStarted,
)
from ltx2rt.graph.stages.inputs import AttentionMask, FrameStream, Media, ReferenceVideo
from ltx2rt.graph.stages.run import Run
from ltx2rt.media.pcm import write_wav
from ltx2rt.media.stills import write_png
from ltx2rt.media.video_writer import VideoWriter

Array = np.ndarray[Any, np.dtype[Any]]

SMALL: dict[str, Any] = {"height": 64, "width": 64, "zero_text": True, "seed": 3}
# Two windows of 33 frames, three of 41.
TWO: dict[str, Any] = {**SMALL, "num_frames": 49, "chunk_pixel_frames": 33, "chunk_carry_frames": 17}
THREE: dict[str, Any] = {
    **SMALL,
    "num_frames": 81,
    "chunk_pixel_frames": 41,
    "chunk_carry_frames": 17,
    "chunk_blend_frames": 8,
}
RATE = 24_000
RATES = Rates(1e9, 1e9)


def joined(clip: api.Clip) -> Array:
    return np.concatenate(list(clip.frames))


def stand_in_frames(window: Window) -> Array:
    """(F, 64, 64, 3) of known values in [0, 1]."""
    values = (np.arange(window.frames) * 7 + window.index * 31) % 101 / np.float32(101)
    return np.broadcast_to(values[:, None, None, None], (window.frames, 64, 64, 3)).astype(np.float32)


def stand_in_sound(window: Window) -> Array:
    count = round(window.frames / 24 * RATE) - 40  # a vocoder gives a little less than the frames last
    values = np.sin(np.arange(count) * (0.01 + window.index)) * 0.5
    return np.stack([values, -values], axis=1).astype(np.float32)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A denoiser, an upscaler and decoders of known values; what happens, in order, with the number of the window."""
    happened: list[tuple[str, int]] = []

    def denoise(run: Run, name: str, _: object, video: Any, audio: Any, *__: object) -> tuple[Any, Any]:
        if not run.planning:
            happened.append((name, run.window.index))
        stage = int(name[-1])
        # Every token says its window, its stage and its place.
        states = []
        for state in (video, audio):
            tokens = np.arange(state.tokens, dtype=np.float32)[None, :, None] + 1000 * run.window.index + 10_000 * stage
            states.append(state.with_latent(keep_clean(np.broadcast_to(tokens, state.latent.shape), state)))
        return states[0], states[1]

    def decode_video(run: Run, *_: object) -> Callable[[], Iterator[Array]]:
        frames = stand_in_frames(run.window)
        return lambda: (frames[start : start + 5] for start in range(0, len(frames), 5))

    def decode_audio(run: Run, _: object) -> tuple[Array, int]:
        return stand_in_sound(run.window), RATE

    def upscaled(_: Run, latent: Array, keyframes: Array | None) -> tuple[Array, Array | None]:
        return latent.repeat(2, axis=2).repeat(2, axis=3), keyframes

    monkeypatch.setattr(refinement, "denoise", denoise)
    monkeypatch.setattr(refinement, "upscale_latents", upscaled)
    monkeypatch.setattr(decode_stage, "decode_video", decode_video)
    monkeypatch.setattr(decode_stage, "decode_audio", decode_audio)
    return happened


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer that costs nothing in a denoising stage that is real, and decoders that show the final latents."""

    class Passes:
        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, request: PredictRequest) -> list[tuple[Array, Array]]:
            assert request.video is not None
            assert request.audio is not None
            return [(np.tanh(request.video.latent), np.tanh(request.audio.latent))]

    def decode_video(run: Run, latent: Array, *_: object) -> Callable[[], Iterator[Array]]:
        shown = np.resize(0.5 + 0.4 * np.tanh(latent), (run.window.frames, 64, 64, 3)).astype(np.float32)
        return lambda: (shown[start : start + 5] for start in range(0, len(shown), 5))

    def decode_audio(run: Run, tokens: Array) -> tuple[Array, int]:
        return np.resize(np.tanh(tokens), (round(run.window.frames / 24 * RATE), 2)).astype(np.float32), RATE

    def upscaled(_: Run, latent: Array, keyframes: Array | None) -> tuple[Array, Array | None]:
        return latent.repeat(2, axis=2).repeat(2, axis=3), keyframes

    monkeypatch.setattr(denoise_stage, "load_transformer", lambda *_: None)
    monkeypatch.setattr(denoise_stage, "TransformerPasses", Passes)
    monkeypatch.setattr(refinement, "upscale_latents", upscaled)
    monkeypatch.setattr(decode_stage, "decode_video", decode_video)
    monkeypatch.setattr(decode_stage, "decode_audio", decode_audio)


@pytest.mark.parametrize(
    "settings",
    [THREE, {**THREE, "chunk_blend_frames": 0}, pytest.param(TWO, marks=pytest.mark.slow)],
    ids=["blended", "cut", "two"],
)
def test_known_values_are_joined_exactly(settings: dict[str, Any], stand_ins: list[tuple[str, int]]) -> None:
    clip = api.load("distilled", dtype="float32")(**settings)
    windows = clip.inputs.windows
    picture, sound = PictureJoin(FramesInMemory()), SoundJoin(RATE, 24.0)
    frames = [part for window in windows for part in picture.frames(window, [stand_in_frames(window)])]
    np.testing.assert_array_equal(joined(clip), np.concatenate(frames))
    samples = [sound.samples(window, stand_in_sound(window)) for window in windows]
    np.testing.assert_array_equal(clip.audio, np.concatenate(samples))
    # Latents: 4 tokens a cell in the second stage, and the first cells of a window are the last ones before it.
    video, cells, audio = [], 5 if settings is TWO else 6, []
    latents = round(windows[0].frames / 24 * 25)
    for window in windows:
        first = 3 if window.index else 0
        last = (window.frames - 1) // 8 + 1
        video += [20_000 + 1000 * window.index + 4 * cell for cell in range(first, last)]
        audio += [20_000 + 1000 * window.index + token for token in range(18 if window.index else 0, latents)]
        latents = round(windows[min(window.index + 1, len(windows) - 1)].frames / 24 * 25)
    assert clip.video_latent is not None
    assert clip.audio_latent is not None
    assert clip.video_latent.shape[1] == (clip.num_frames - 1) // 8 + 1
    assert clip.video_latent[0, :, 0, 0, 0].tolist() == video
    assert clip.audio_latent[0, :, 0].tolist() == audio
    assert cells == (windows[0].frames - 1) // 8 + 1


def test_both_stages_begin_with_the_end_of_the_window_before(stand_ins: list[tuple[str, int]]) -> None:
    events: list[Event] = []
    clip = api.load("distilled", dtype="float32")(**TWO, observer=events.append)
    joined(clip)
    states = [event.state for event in events if isinstance(event, Noised)]
    assert len(states) == 2 * 2 * 2
    for state in states[:4]:
        assert (state.denoise_mask == 1).all()
    for state, kept, first in zip(states[4:], (3, 18, 12, 18), (10_002, 10_016, 20_008, 20_016), strict=True):
        assert state.denoise_mask[0].tolist() == [0] * kept + [1] * (state.tokens - kept)
        assert state.latent[0, :kept, 0].tolist() == list(range(first, first + kept))


def test_a_window_is_shown_before_the_next_one_is_made(stand_ins: list[tuple[str, int]]) -> None:
    clip = api.load("distilled", dtype="float32")(**THREE)
    assert stand_ins == []  # nothing is made before something is read
    for count, chunk in enumerate(clip.frames):
        stand_ins.append(("frames", len(chunk)))
        assert count >= 0
    parts = [index for index, (name, _) in enumerate(stand_ins) if name != "frames"]
    # Stages of a window follow each other, then its frames: all but those that wait for the blend.
    shown = [sum(n for name, n in stand_ins[a:b] if name == "frames") for a, b in pairwise([*parts, len(stand_ins)])]
    assert shown == [0, 41 - 8, 0, 8 + 24 - 8, 0, 8 + 16]
    assert [entry for entry in stand_ins if entry[0] != "frames"] == [
        (f"denoise {stage}", window) for window in range(3) for stage in (1, 2)
    ]


def test_the_file_gets_frames_and_sound_while_later_windows_are_made(
    stand_ins: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, write_audio = VideoWriter.write, VideoWriter.write_audio

    def written(self: VideoWriter, frames: Array) -> None:
        stand_ins.append(("frames", len(frames)))
        write(self, frames)

    def heard(self: VideoWriter, waveform: Array, **more: Any) -> None:
        stand_ins.append(("samples", len(waveform)))
        write_audio(self, waveform, **more)

    monkeypatch.setattr(VideoWriter, "write", written)
    monkeypatch.setattr(VideoWriter, "write_audio", heard)
    clip = api.load("distilled", dtype="float32")(**THREE)
    clip.save(tmp_path / "clip.mp4", sidecar=False)
    order = [name for name, _ in stand_ins]
    begun = [index for index, name in enumerate(order) if name == "denoise 1"]
    for first, last in pairwise([*begun, len(order)]):
        assert {"frames", "samples"} <= set(order[first:last])
    assert sum(count for name, count in stand_ins if name == "frames") == 81
    # The track is exactly as long as the pictures.
    assert sum(count for name, count in stand_ins if name == "samples") == round(81 / 24 * RATE)


def stop_at(window: int, stage: str, index: int) -> Callable[[Event], None]:
    seen = -1

    def observe(event: Event) -> None:
        nonlocal seen
        if isinstance(event, WindowStarted):
            seen = event.window.index
        if isinstance(event, StepDone) and (seen, event.stage, event.index) == (window, stage, index):
            raise Cancelled("stopped by the test")

    return observe


@pytest.mark.parametrize(
    ("window", "stage", "index"), [pytest.param(0, "denoise 2", 1, marks=pytest.mark.slow), (1, "denoise 1", 3)]
)
def test_a_stopped_run_goes_on_inside_any_window(
    window: int, stage: str, index: int, model: None, tmp_path: Path
) -> None:
    pipeline = api.load("distilled")
    clip = pipeline(**TWO)
    whole = joined(clip), clip.audio
    stopped = pipeline(**TWO, state_folder=tmp_path / "state", observer=stop_at(window, stage, index))
    with pytest.raises(Cancelled):
        joined(stopped)
    events: list[Event] = []
    resumed = pipeline(**TWO, state_folder=tmp_path / "state", resume=True, observer=events.append)
    np.testing.assert_array_equal(joined(resumed), whole[0])
    np.testing.assert_array_equal(resumed.audio, whole[1])
    restored = sum(isinstance(event, StageRestored) for event in events)
    assert restored == 2 * window + (stage == "denoise 2")
    resumed.save(tmp_path / "clip.mp4", sidecar=False)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_reading_again_computes_nothing_again(model: None) -> None:
    events: list[Event] = []
    clip = api.load("distilled")(**TWO, observer=events.append)
    pieces = list(clip._clip.pieces())
    events.clear()
    np.testing.assert_array_equal(joined(clip), np.concatenate([p.frames for p in pieces if p.frames is not None]))
    np.testing.assert_array_equal(clip.audio, np.concatenate([p.sound for p in pieces if p.sound is not None]))
    assert clip.video_latent is not None
    assert not any(isinstance(event, StageStarted) for event in events)


def test_previews_are_those_of_the_window_and_appear_while_it_is_made(model: None, tmp_path: Path) -> None:
    shown: list[tuple[int, bool]] = []
    picture = tmp_path / "now.png"

    def show(preview: api.Preview) -> None:
        write_png(picture, np.zeros((8, 8, 3), np.uint8))
        shown.append((preview.latent.shape[1], picture.exists()))

    clip = api.load("distilled")(**{**TWO, "num_frames": 41}, on_preview=show)
    clip.save(tmp_path / "clip.mp4", sidecar=False)
    assert shown == [(5, True)] * 11 + [(4, True)] * 11  # windows of 33 and 25 frames


def test_a_clip_of_one_window_is_the_clip_without_windows(model: None) -> None:
    pipeline = api.load("distilled")
    plain = pipeline(**SMALL, num_frames=17)
    chunked = pipeline(**SMALL, num_frames=17, chunked=True)
    np.testing.assert_array_equal(joined(chunked), joined(plain))
    np.testing.assert_array_equal(chunked.video_latent, plain.video_latent)


def test_images_belong_to_the_window_that_owns_their_frame(model: None) -> None:
    events: list[Event] = []
    pixels = np.full((64, 64, 3), 200, np.uint8)
    # Frame 32 is carried into the second window, and not its own.
    images = [ImageInput(pixels, frame) for frame in (0, 32, 33)]
    joined(api.load("distilled")(**TWO, images=images, observer=events.append))
    encoded = [isinstance(event, VideoEncoded) for event in events if isinstance(event, (VideoEncoded, WindowStarted))]
    assert encoded == [False, *[True] * 4, False, *[True] * 2]  # in both stages
    states = [event.state for event in events if isinstance(event, Noised) and event.modality == "video"]
    # 5 cells at 32x32, an appended picture at frame 32, and at 33 - 16.
    assert [state.tokens for state in states] == [6, 24, 6, 24]
    assert states[2].positions[0, 0, 5].tolist() == pytest.approx([17 / 24, 18 / 24])


@pytest.mark.parametrize("seconds", [3.0, 1.5], ids=["long", "short"])
def test_driving_sound_is_shipped_as_it_is(seconds: float, tmp_path: Path, stand_ins: list[tuple[str, int]]) -> None:
    sound = tone(seconds, 16_000)
    write_wav(tmp_path / "sound.wav", sound, 16_000)
    settings = {**THREE, "audio_path": tmp_path / "sound.wav", "num_inference_steps": 1}
    clip = api.load("audio-to-video", dtype="float32")(**settings)
    pieces = list(clip._clip.pieces())
    frames = samples = 0
    for piece in pieces:
        frames += 0 if piece.frames is None else len(piece.frames)
        if piece.sound is not None:
            samples += len(piece.sound)
            assert samples == min(round(frames / 24 * 16_000), len(sound))
    assert frames == 81
    heard = np.concatenate([piece.sound for piece in pieces if piece.sound is not None])
    np.testing.assert_array_equal(heard, clip.audio[: len(heard)])
    assert len(heard) == min(round(81 / 24 * 16_000), round(seconds * 16_000))


def test_the_second_stage_of_two_stage_keeps_the_sound_of_the_first(stand_ins: list[tuple[str, int]]) -> None:
    events: list[Event] = []
    settings = {**TWO, "num_inference_steps": 1}
    clip = api.load("two-stage", dtype="float32")(**settings, observer=events.append)
    joined(clip)
    assert clip.audio_latent is not None
    tokens = [10_000 + token for token in range(34)] + [11_000 + token for token in range(18, 34)]
    assert clip.audio_latent[0, :, 0].tolist() == tokens
    frozen = [event.state for event in events if isinstance(event, Noised) and event.modality == "audio"][1::2]
    assert [state.latent[0, :, 0].tolist() for state in frozen] == [tokens[:34], tokens[16:]]
    assert all((event.noise_scale == 0) == (index % 4 == 3) for index, event in enumerate(noised(events)))


def noised(events: list[Event]) -> list[Noised]:
    return [event for event in events if isinstance(event, Noised)]


def test_references_and_masks_are_those_of_the_window() -> None:
    numbers = np.broadcast_to(np.arange(49, dtype=np.float32)[:, None, None, None], (49, 2, 2, 3))
    reference = ReferenceVideo(lambda height, width, part: FrameStream.of(numbers[part.start : part.stop]), 0.5)
    mask = AttentionMask(lambda height, width, part: numbers[part.start : part.stop, :, :, 0], 0.5)
    media = Media(references=(reference,), attention_mask=mask)
    window = Window(1, 2, 16, 33, carry=17)
    part = media.of_window(window)
    shown = part.references[0].frames(2, 2, range(33))
    assert shown.shape == (33, 2, 2, 3)
    assert [int(frame[0, 0, 0]) for frame in shown.read()] == list(range(16, 49))
    assert part.references[0].strength == 0.5
    assert part.attention_mask is not None
    assert part.attention_mask.weights is not None
    assert part.attention_mask.weights(2, 2, range(33))[:, 0, 0].tolist() == list(range(16, 49))
    # One that ends earlier has what is left, a mask must be there to the end.
    late = Media(references=(reference,), attention_mask=mask).of_window(Window(1, 2, 40, 33, carry=17))
    assert late.references[0].frames(2, 2, range(33)).shape[0] == 9
    assert late.attention_mask is not None
    assert late.attention_mask.weights is not None
    with pytest.raises(UsageError, match=r"has 49 frames but chunk needs \[40, 73\)"):
        late.attention_mask.weights(2, 2, range(33))


def test_a_plan_shows_every_window() -> None:
    plan, _ = api.load("distilled", keep_loaded=False).plan(**THREE, rates=RATES)
    assert [(window.start, window.frames) for window in plan.windows] == [(0, 41), (24, 41), (48, 33)]
    assert plan.steps == 3 * (8 + 3)
    assert plan.seconds == sum(stage.seconds for stage in plan.stages)
    assert [stage.need.window for stage in plan.stages if stage.need.name == "denoise 1"] == [1, 2, 3]
    assert [list(group.windows) for group in plan.groups] == [[1], [2], [3]]
    said = plan_text(plan)
    assert "window 2 of 3: frames 24 to 64, 17 carried" in said
    assert "33 steps" in said
    one, _ = api.load("distilled", keep_loaded=False).plan(**{**THREE, "num_frames": 41}, rates=RATES)
    # What later windows take more: the open encoder and what is handed on.
    assert plan.peak_bytes - plan.base_bytes <= (one.peak_bytes - one.base_bytes) + (20 << 20)
    long, _ = api.load("distilled", keep_loaded=False).plan(**{**THREE, "num_frames": 41 + 24 * 20}, rates=RATES)
    # Windows that take the same are one group: all but the ends, where less is found or left in memory.
    groups = [group.windows for group in long.groups]
    assert [number for windows in groups for number in windows] == list(range(1, 22))
    assert max(map(len, groups)) >= 15
    assert long.peak_bytes - long.base_bytes <= plan.peak_bytes - plan.base_bytes + (1 << 20)
    assert " of 21, each: " in plan_text(long)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pack")
    return {**write_pack(folder), "video_vae": write_diffusion_vae(folder)}


@pytest.mark.slow  # the diffusion decoder takes its time; what it draws has quick tests of its own
@pytest.mark.parametrize("keyframes", [0, 1])
def test_latents_are_the_same_whether_their_frames_are_decoded_or_not(pack: dict[str, Path], keyframes: int) -> None:
    # The noise of a window follows that of the decoder of the window before.
    settings: dict[str, Any] = {**TWO, "num_generated_keyframes": keyframes, "decode_with_keyframes": bool(keyframes)}
    pipeline = api.load("distilled", **pack)
    clip = pipeline(**settings)
    frames, latent = joined(clip), clip.video_latent
    np.testing.assert_array_equal(pipeline(**settings, latents_only=True).video_latent, latent)
    np.testing.assert_array_equal(joined(pipeline(**settings)), frames)


@pytest.mark.slow
def test_the_noise_of_later_windows_does_not_depend_on_what_memory_allows(
    pack: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, passed = decode_stage._decoding, set[Any]()

    def run(first: int) -> Any:
        """All that a clip passes over where the ways of decoding before ``first`` do not fit."""
        passed.clear()

        def options(*values: Any) -> Iterator[Any]:
            for number, need in enumerate(decoding(*values)):
                yield need if number >= first else replace(need, weights=1 << 50)

        monkeypatch.setattr(decode_stage, "_decoding", options)
        monkeypatch.setattr(decode_stage, "_decoded", lambda *_: iter([np.zeros((33, 448, 64, 3), np.float32)]))
        monkeypatch.setattr(Run, "pass_over", lambda run, draws: passed.add(tuple(draws)))
        list(api.load("distilled", **pack)(**{**TWO, "height": 448}, memory="6GB").frames)
        return set(passed)

    whole = run(0)
    assert [len(draws) for draws in whole] == [1]  # every window has the same
    assert run(5) == whole  # in tiles


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"upscale_temporal": True}, "upscale_temporal would double what the windows of chunked share"),
        ({"latents": np.zeros((1, 7, 1, 1, 128), np.float32)}, "latents are the noise of a clip that is made at once"),
        ({"chunk_carry_frames": 9}, r"chunk_carry_frames \(9\) must be >= 17"),
        ({"num_generated_keyframes": 1}, "was not made to generate key frames"),
    ],
)
def test_what_has_no_meaning_in_windows(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        api.load("distilled")(**{**TWO, "chunk_blend_frames": 0, **more})


def test_the_sizes_are_decided_and_turn_windows_on() -> None:
    pipeline = api.load("distilled")
    stored = pipeline.record_for(**SMALL, num_frames=241, chunk_pixel_frames=97).settings
    assert {name: stored[name] for name in stored if name.startswith("chunk")} == {
        "chunked": True,
        "chunk_pixel_frames": 97,
        "chunk_carry_frames": 25,
        "chunk_blend_frames": 25,
    }
    assert "chunk_pixel_frames" not in pipeline.record_for(**SMALL, num_frames=17).settings

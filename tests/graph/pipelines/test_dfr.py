"""The DFR pipeline with a small pack of LTX-2.5: every pass by the formulas, and what a user can ask of it.

Most tests put known values in the place of what the transformer would make.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ltx25_pack import write_diffusion_vae, write_lora, write_pack
from PIL import Image

from ltx2rt import api, embedded
from ltx2rt.errors import Cancelled, CheckpointError, UsageError
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import TorchCpuNoise
from ltx2rt.graph.diffusion.samplers import EULER, AncestralEuler
from ltx2rt.graph.pipelines import refinement
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.events import Event, KeyFrameDecoded, Noised, StepDone, StepsCounted, VideoDecodeStarted
from ltx2rt.graph.stages.run import Run
from ltx2rt.types import Array
from ltx2rt.weights.generations import Generation

SMALL: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_frames": 49,
    "seed": 3,
    "latents_only": True,
    "zero_text": True,
}
CHANNELS = 128


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pack")
    lora = write_lora(folder / "detail.safetensors", reference_downscale_factor="2")
    return write_pack(folder) | {"detailing_lora": lora, "temporal_upscaler": embedded.TEMPORAL_UPSCALER}


def load(pack: dict[str, Any], **others: Any) -> api.Pipeline:
    return api.load("dfr", dtype="float32", **{**pack, **others})


@dataclass
class Pass:
    """One call of the denoising stage: what it was given, and the values that it gave back."""

    name: str
    sampling: Sampling
    video: LatentState
    audio: LatentState
    made: Array

    def appended(self, first: int, count: int) -> tuple[Array, Array, Array]:
        """Clean latent, mask and start in seconds of tokens that follow those of the clip."""
        tokens = slice(first, first + count)
        video = self.video
        return video.clean_latent[0, tokens], video.denoise_mask[0, tokens], video.positions[0, 0, tokens, 0]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Every pass of a run, whose results are random numbers."""
    found: list[Pass] = []

    def stand_in(
        run: Run, name: str, sampling: Sampling, video: LatentState, audio: LatentState, *_: object
    ) -> tuple[LatentState, LatentState]:
        if run.planning:
            return video, audio
        rng = np.random.default_rng(len(found))
        made = rng.standard_normal(video.latent.shape).astype(np.float32)
        made = np.where(video.denoise_mask[..., None] == 0, video.clean_latent, made)
        heard = audio.latent if audio.frozen else rng.standard_normal(audio.latent.shape).astype(np.float32)
        found.append(Pass(name, sampling, video, audio, made))
        return video.with_latent(made), audio.with_latent(heard)

    monkeypatch.setattr(refinement, "denoise", stand_in)
    return found


def cells(tokens: Array, height: int, width: int) -> Array:
    """Tokens (T, C) as (f, h, w, C)."""
    return tokens.reshape(-1, height, width, CHANNELS)


def test_two_rounds(pack: dict[str, Any], passes: list[Pass]) -> None:
    events: list[Event] = []
    settings = {**SMALL, "num_frames": 121, "frame_rate": 12, "temporal_upscalings": 2}
    clip = load(pack)("a dog", **settings, observer=events.append)
    assert StepsCounted(8 + 3 + 4 * (2 + 4)) in events
    assert [one.name for one in passes] == [
        *("denoise 1", "denoise 2"),
        *("round 1 part 1 of 2", "round 1 part 2 of 2"),
        *(f"round 2 part {number} of 4" for number in (1, 2, 3, 4)),
    ]
    offsets = [one.sampling.sampler for one in passes]
    assert offsets[:2] == [AncestralEuler(10_000), AncestralEuler(20_000)]
    assert offsets[2:] == [AncestralEuler(offset, 0.5) for offset in (1000, 1001, 2000, 2001, 2002, 2003)]
    sigmas = np.array([0.975, 0.909375, 0.725, 0.421875, 0.0], np.float32)
    assert all(np.array_equal(one.sampling.sigmas, sigmas) for one in passes[2:])
    # The detailing LoRA is in the second stage alone.
    assert [len(one.sampling.loras) for one in passes] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert passes[1].sampling.loras[0][1] == 0.5
    # In the last round of 12 * 4 = 48 frames a second the model is told 60.
    second = passes[4:]
    starts, ends = (0, 19, 37, 49), (19, 37, 49, 61)
    prefixes = (None, 120, 264, 360)
    kept = []
    for index, (one, start, end, keyframe) in enumerate(zip(second, starts, ends, prefixes, strict=True)):
        base = start if keyframe is None else keyframe // 8
        count, given = end - base, 0 if keyframe is None else start - base
        own = cells(one.made[0, : count * 4], 2, 2)
        kept.append(own[given:])
        mask = cells(np.repeat(one.video.denoise_mask[0, : count * 4, None], CHANNELS, axis=1), 2, 2)
        assert (mask[given:] == 1).all()
        assert (mask[:given] == 0).all()
        assert one.video.positions[0, 0, 4, 0] == np.float32(1 / 60)
        # The end of the part before: its own cells after its key frame.
        if keyframe is not None:
            clean = cells(one.video.clean_latent[0, : count * 4], 2, 2)
            before = second[index - 1]
            shift = base - (starts[index - 1] if prefixes[index - 1] is None else (prefixes[index - 1] or 0) // 8)
            previous = cells(before.made[0, : before.video.tokens // 4 * 4], 2, 2)
            np.testing.assert_array_equal(clean[1:given], previous[shift + 1 : shift + given])
        # The frozen sound is as long as the frames.
        assert one.audio.frozen
        assert one.audio.tokens == round((8 * (count - 1) + 1) / 60 * 25)
    latent = clip.video_latent
    assert latent is not None
    np.testing.assert_array_equal(latent[0], np.concatenate(kept))
    assert (clip.num_frames, clip.frame_rate) == (481, 48)
    # The sound is that of the first stage, over its 121 frames at 12 a second.
    assert clip.audio_latent is not None
    assert clip.audio_latent.shape[1] == round(121 / 12 * 25)


def test_the_key_frames_of_a_round(pack: dict[str, Any], passes: list[Pass]) -> None:
    load(pack)("a dog", **SMALL, temporal_upscalings=1)
    _, stage_2, first, second = passes
    # Slots of the second stage: after the clip's 7 cells of 4 tokens, two frames.
    planes = [cells(stage_2.made[0, 28 + 4 * index : 32 + 4 * index], 2, 2) for index in (0, 1)]
    # Part 1: 7 cells, the anchor at 48, which was frame 24, and the slot at 24.
    clean, mask, start = first.appended(28, 4)
    np.testing.assert_array_equal(cells(clean, 2, 2)[0], planes[0][0])
    np.testing.assert_allclose(mask, 0.05, rtol=1e-6)
    np.testing.assert_array_equal(start, np.float32(48 / 60))
    clean, mask, start = first.appended(32, 4)
    assert not clean.any()
    assert (mask == 1).all()
    np.testing.assert_array_equal(start, np.float32(24 / 60))
    # Part 2: 10 cells from frame 24 on; its anchor is the other key frame at 96, its slot at 72.
    clean, mask, start = second.appended(40, 4)
    np.testing.assert_array_equal(cells(clean, 2, 2)[0], planes[1][0])
    np.testing.assert_array_equal(start, np.float32(72 / 60))
    np.testing.assert_array_equal(second.appended(44, 4)[2], np.float32(48 / 60))
    # It begins with the key frame that part 1 has made, and three of its cells.
    own = cells(second.video.clean_latent[0, :16], 2, 2)
    np.testing.assert_array_equal(own[0], cells(first.made[0, 32:36], 2, 2)[0])
    np.testing.assert_array_equal(own[1:], cells(first.made[0, 16:28], 2, 2))


def test_the_size_is_doubled_without_rounds(pack: dict[str, Any], passes: list[Pass]) -> None:
    events: list[Event] = []
    settings = {**SMALL, "height": 128, "width": 128, "spatial_upscalings": 2}
    clip = load(pack)("a dog", **settings, observer=events.append)
    assert [one.name for one in passes[2:]] == ["full size 1 of 1 coarse", "full size 1 of 1 fine"]
    coarse, fine = passes[2:]
    np.testing.assert_array_equal(coarse.sampling.sigmas, np.array([0.909375, 0.725], np.float32))
    np.testing.assert_array_equal(fine.sampling.sigmas, np.array([0.725, 0.421875, 0], np.float32))
    assert [one.sampling.sampler for one in (coarse, fine)] == [AncestralEuler(30_000), AncestralEuler(30_001)]
    assert [one.sampling.loras[0][1] for one in (coarse, fine)] == [0.5, 0.5]
    # Of 4 cells: two tiles that share two, and four that share none.
    tiles = [one.sampling.tiles for one in (coarse, fine)]
    assert [len(grid) if grid else 0 for grid in tiles] == [4, 16]
    assert tiles[0] is not None
    assert [(tile.start, tile.stop) for tile in tiles[0].height] == [(0, 3), (1, 4)]
    # Key frames at 24 and 48 and the opening one, then the clip at half the size as a reference.
    assert coarse.video.tokens == fine.video.tokens == 7 * 16 + 3 * 16 + 7 * 4
    starts = coarse.video.positions[0, 0, 112:160:16, 0]
    np.testing.assert_allclose(starts, [24 / 24, 48 / 24, 0], rtol=1e-6)
    assert (coarse.video.denoise_mask[0, 112:] == 0).all()
    np.testing.assert_array_equal(coarse.video.clean_latent[0, 160:], passes[1].made[0, :28])
    # The reference has its positions at full size.
    assert coarse.video.positions[0, 1, 160:, 1].max() == 128
    noised = [event for event in events if isinstance(event, Noised)][4:]
    draws = TorchCpuNoise(3 + 2000)
    for event, scale in zip(noised, (0.909375, 0.0, 0.0, 0.0), strict=True):
        assert event.noise_scale == np.float32(scale)
        if event is noised[2]:
            draws = TorchCpuNoise(3 + 2000)
        np.testing.assert_array_equal(event.noise, draws.normal(event.noise.shape))
    # The second phase goes on from the first.
    np.testing.assert_array_equal(fine.video.latent[0, :112], coarse.made[0, :112])
    latent = clip.video_latent
    assert latent is not None
    np.testing.assert_array_equal(latent[0].reshape(-1, CHANNELS), fine.made[0, :112])
    # Each key frame went through a picture; the opening one last.
    assert sum(isinstance(event, KeyFrameDecoded) for event in events) == 3
    assert (clip.height, clip.width, clip.num_frames) == (128, 128, 49)


def test_images_in_every_stage(pack: dict[str, Any], passes: list[Pass]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    images = [api.ImageInput(picture), api.ImageInput(picture, 40, 0.75)]
    settings: dict[str, Any] = {**SMALL, "height": 128, "width": 128, "images": images}
    load(pack)("a dog", **settings, temporal_upscalings=1, spatial_upscalings=2)
    # The second stage: the opening cell is kept, and the image at frame 40 follows the 7 cells.
    stage_2 = passes[1].video
    assert (stage_2.denoise_mask[0, :4] == 0).all()
    np.testing.assert_allclose(stage_2.denoise_mask[0, 28:32], 0.25)
    # In the round it stands at 80: 56 frames after the origin of the second part.
    parts = [one.video for one in passes[2:4]]
    assert parts[0].tokens == 28 + 4 + 4
    np.testing.assert_allclose(parts[1].denoise_mask[0, 40:44], 0.25)
    np.testing.assert_allclose(parts[1].positions[0, 0, 40:44, 0], np.float32(56 / 48 * 48 / 60))
    # At full size, too; there is no opening key frame, whose place the first image has.
    first, _, second, _ = (one.video for one in passes[4:])
    assert first.tokens == 7 * 16 + 2 * 16 + 7 * 4
    assert (first.denoise_mask[0, :16] == 0).all()
    assert second.tokens == 10 * 16 + (1 + 2) * 16 + 10 * 4
    np.testing.assert_allclose(second.denoise_mask[0, 160:176], 0.25)


def test_loras_of_the_user_come_first(pack: dict[str, Any], passes: list[Pass], tmp_path: Path) -> None:
    own = write_lora(tmp_path / "style.safetensors", 2)
    load(pack, loras=[(own, 0.3)])("a dog", **SMALL, temporal_upscalings=1)
    names = [[(lora.path.name, strength) for lora, strength in one.sampling.loras] for one in passes]
    assert names == [
        [("style.safetensors", 0.3)],
        [("style.safetensors", 0.3), ("detail.safetensors", 0.5)],
        [("style.safetensors", 0.3)],
        [("style.safetensors", 0.3)],
    ]


def test_older_versions_are_ancestral_in_the_rounds_alone(
    pack: dict[str, Any], passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generation, "is_ancestral", lambda *_: False)
    load(pack)("a dog", **SMALL, temporal_upscalings=1)
    assert [one.sampling.sampler for one in passes] == [
        *(EULER, EULER),
        *(AncestralEuler(1000, 0.5), AncestralEuler(1001, 0.5)),
    ]


def test_noise_that_is_given_has_the_shape_of_the_canvas(pack: dict[str, Any], passes: list[Pass]) -> None:
    settings: dict[str, Any] = {**SMALL, "num_frames": 41}
    noise = np.random.default_rng(0).standard_normal((1, 7, 1, 1, CHANNELS)).astype(np.float32)
    load(pack)("a dog", **settings, latents=noise)
    np.testing.assert_array_equal(passes[0].video.latent[0, :7], noise.reshape(7, CHANNELS))
    with pytest.raises(UsageError, match=r"latents must be the noise of the first stage, \(1, 7, 1, 1, 128\), got"):
        load(pack).record_for("a dog", **settings, latents=noise[:, :6])


def test_the_clip_has_the_length_that_was_asked_for(pack: dict[str, Any], tmp_path: Path) -> None:
    # 41 frames on a canvas of 49; 23.976 * 2 frames a second.
    events: list[Event] = []
    pipeline = load(pack, video_vae=write_diffusion_vae(tmp_path))
    settings: dict[str, Any] = {**SMALL, "latents_only": False, "num_frames": 41, "frame_rate": 23.976}
    clip = pipeline("a dog", **settings, temporal_upscalings=1, observer=events.append)
    assert clip.frame_rate == Fraction(48000, 1001)
    assert np.concatenate(list(clip.frames)).shape == (81, 64, 64, 3)
    assert clip.audio is not None
    assert len(clip.audio) == round(81 / clip.frame_rate * clip.sample_rate)
    (decoded,) = (event for event in events if isinstance(event, VideoDecodeStarted))
    assert decoded.keyframes == (24, 48, 72)


def test_a_predicted_length(pack: dict[str, Any], passes: list[Pass]) -> None:
    # The head of the pack says 0.7 s, 17 frames at 24 a second; their canvas has 25.
    settings = {name: value for name, value in SMALL.items() if name not in ("num_frames", "zero_text")}
    clip = load(pack)("a dog", **settings, auto_duration=(0.1, 1))
    assert clip.num_frames == 17
    assert passes[0].video.tokens == 4 + 1


LARGE: dict[str, Any] = {
    **SMALL,
    "height": 128,
    "width": 128,
    "temporal_upscalings": 1,
    "spatial_upscalings": 2,
}


class Whole(NamedTuple):
    """A run to its end: what it made, what it told, and the size of the previews of each pass."""

    clip: api.Clip
    events: list[Event]
    previews: dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def whole(pack: dict[str, Any]) -> Whole:
    events: list[Event] = []
    previews: dict[str, tuple[int, ...]] = {}

    def note(preview: api.Preview) -> None:
        previews[preview.stage] = preview.latent.shape[1:4]

    clip = load(pack)("a dog", **LARGE, observer=events.append, on_preview=note)
    return Whole(clip, events, previews)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "the first stage",
        "the second stage",
        "the second part of the round",
        "the key frames",
        "a tile of the first phase",
        "a tile of the second part at full size",
        "the end",
    ],
)
def test_an_interrupted_run_goes_on(where: str, pack: dict[str, Any], whole: Whole, tmp_path: Path) -> None:
    pipeline, counted = load(pack), whole.events
    steps = [index for index, event in enumerate(counted) if isinstance(event, StepDone)]
    assert len(steps) == 8 + 3 + 2 * 4 + 2 * (1 + 2)
    assert StepsCounted(len(steps)) in counted
    place = {
        "the first stage": steps[2],
        "the second stage": steps[9],
        "the second part of the round": steps[16],
        "the key frames": next(i for i, event in enumerate(counted) if isinstance(event, KeyFrameDecoded)) + 1,
        "a tile of the first phase": steps[19] - 2,
        "a tile of the second part at full size": steps[23] + 9,
        "the end": len(counted) - 1,
    }[where]
    told = 0

    def stop(event: Event) -> None:
        nonlocal told
        told += 1
        if told > place:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline("a dog", **LARGE, observer=stop, state_folder=tmp_path / "state")
    clip = pipeline("a dog", **LARGE, state_folder=tmp_path / "state", resume=True)
    np.testing.assert_array_equal(clip.video_latent, whole.clip.video_latent)
    np.testing.assert_array_equal(clip.audio_latent, whole.clip.audio_latent)


@pytest.mark.slow
def test_previews_have_the_size_of_their_pass(whole: Whole) -> None:
    assert whole.previews == {
        "denoise 1": (7, 1, 1),
        "denoise 2": (7, 2, 2),
        "round 1 part 1 of 2": (7, 2, 2),
        "round 1 part 2 of 2": (10, 2, 2),
        **{f"full size 1 of 2 {phase}": (7, 4, 4) for phase in ("coarse", "fine")},
        **{f"full size 2 of 2 {phase}": (10, 4, 4) for phase in ("coarse", "fine")},
    }


def test_the_plan_has_every_stage(pack: dict[str, Any]) -> None:
    plan, assumed = load(pack).plan("a dog", **{**LARGE, "latents_only": False})
    assert assumed == []
    assert [stage.need.name for stage in plan.stages] == [
        *("denoise 1", "spatial upscaler", "denoise 2"),
        *("temporal upscaler 1", "round 1 part 1 of 2", "round 1 part 2 of 2"),
        *("key frame decoder", "key frame encoder", "spatial upscaler 2"),
        *(f"full size {part} of 2 {phase}" for part in (1, 2) for phase in ("coarse", "fine")),
        *("audio decoder", "video decoder"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temporal_upscalings": 3}, "temporal_upscalings must be 0 to 2, got 3"),
        ({"spatial_upscalings": 0}, "spatial_upscalings must be 1 to 2, got 0"),
        ({"height": 96}, r"height must be a multiple of 64, got 96 .*; use 128 or 64"),
        ({"width": 192, "height": 128, "spatial_upscalings": 2}, "width must be a multiple of 128, got 192"),
        ({"num_frames": 50}, r"num_frames must be 8\*k \+ 1, got 50; use 57 or 49"),
        ({"num_frames": 1}, "num_frames: the canvas needs at least 2 pixel frames, got 1"),
        ({"upscale_spatial": True}, "upscale_spatial has no meaning .*; give spatial_upscalings in its place"),
        ({"upscale_temporal": True}, "upscale_temporal has no meaning .*; give temporal_upscalings in its place"),
        ({"num_generated_keyframes": 2}, "num_generated_keyframes has no meaning for the pipeline dfr"),
        ({"num_inference_steps": 4}, "the distilled schedule is fixed at 8"),
    ],
)
def test_what_cannot_work(pack: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(pack).record_for("a dog", **{**SMALL, **settings})


def test_files_that_are_missing_or_of_no_use(
    pack: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match=r"detailing_lora=FILE is required by this pipeline"):
        load(pack, detailing_lora=None).record_for("a dog", **SMALL)
    with pytest.raises(UsageError, match=r"temporal_upscalings=1 requires the temporal upscaler; give temporal_upscal"):
        load(pack, temporal_upscaler=None).record_for("a dog", **SMALL, temporal_upscalings=1)
    load(pack, temporal_upscaler=None).record_for("a dog", **SMALL)
    with pytest.raises(UsageError, match="detailing LoRA; leave detailing_lora out"):
        api.load("distilled", **pack).record_for("a dog", **SMALL)
    with pytest.raises(UsageError, match=r"dfr holds the clip together with key frames: .*\(19b\) was not made"):
        api.load("dfr").record_for("a dog", **SMALL)
    with pytest.raises(UsageError, match="temporal_upscalings has no meaning for the pipeline distilled"):
        api.load("distilled").record_for("a dog", **SMALL, temporal_upscalings=1)
    caplog.clear()
    silent = write_lora(tmp_path / "silent.safetensors", 2)
    load(pack, detailing_lora=(silent, 0.8)).record_for("a dog", **SMALL)
    assert "its strength here is always 0.5, not 0.8" in caplog.text
    assert "states no reference_downscale_factor; 1 is assumed" in caplog.text


def test_small_clips_have_other_tiles(pack: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    large: dict[str, Any] = {**SMALL, "spatial_upscalings": 2, "height": 512, "width": 128}
    load(pack).record_for("a dog", **large)
    assert "width of 128 is little for the tiles of the round at full size: 4 of them share 0 cells" in caplog.text
    assert "height of" not in caplog.text


def test_decoders(pack: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decoded = {**SMALL, "latents_only": False}
    load(pack).record_for("a dog", **decoded)
    assert "its convolutional decoder does not look at key frames; the clip is decoded without them" in caplog.text
    untrained = write_diffusion_vae(tmp_path, mark=None)
    with pytest.raises(CheckpointError, match=r"type_emb is missing: .*; give the video VAE .*video_decoder=conv"):
        load(pack, video_vae=untrained).record_for("a dog", **decoded)

"""The stages of ic-lora: LoRAs and references in the second one, tiles, several stages as a list, long clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ltx2rt import api
from ltx2rt.api import IcLoraStage
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import ic_lora
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.events import Event, LatentUpscaled, Noised, StageStarted, StepDone, TileDone, VideoEncoded
from ltx2rt.graph.stages.inputs import AttentionMask, GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.memory.need import Need

REFERENCE = np.zeros((33, 32, 32, 3), np.uint8)
REFERENCE[:, 8:24, 8:24] = 255
SMALL: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 9, "seed": 3, "latents_only": True}
TILED: dict[str, Any] = {"stage_2_ic_lora": True, "tile": True, "tile_height": 64, "tile_width": 64}
SHORT = (0.9, 0.4, 0.0)


@pytest.fixture(scope="module")
def pipeline() -> api.Pipeline:
    return api.load("ic-lora")


def events_of(pipeline: api.Pipeline, **settings: Any) -> list[Event]:
    events: list[Event] = []
    call = {"video_conditioning": REFERENCE[:9], **SMALL, **settings}
    clip = pipeline("a red circle moves left", observer=events.append, **call)
    assert clip.video_latent is not None  # that of a clip in windows is made now
    return events


def tokens_of(events: Sequence[Event]) -> list[int]:
    """Of the video in each stage, those of references included."""
    return [event.state.tokens for event in events if isinstance(event, Noised) and event.modality == "video"]


def stages_of(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, StageStarted)]


def needs_of(pipeline: api.Pipeline, **settings: Any) -> dict[str, Need]:
    call = {"video_conditioning": REFERENCE[:9], **SMALL, **settings}
    planned, _ = pipeline.plan("a red circle moves left", **call)
    return {stage.need.name: stage.need for stage in planned.stages}


def inputs_of(pipeline: api.Pipeline, **settings: Any) -> GenerationInputs:
    call = {"prompt": "a dog", "video_conditioning": REFERENCE[:9], **SMALL, **settings}
    return pipeline._prepare(call, pipeline._files)[0]


def test_the_second_stage_sees_no_reference_unless_asked(pipeline: api.Pipeline) -> None:
    usual, controlled = events_of(pipeline), events_of(pipeline, stage_2_ic_lora=True)
    # 2 x 2 x 2 and 2 x 4 x 4 cells, and as many of references of the stage's size.
    assert tokens_of(usual) == [16, 32]
    assert tokens_of(controlled) == [16, 64]
    encoded = [event.latent.shape for event in controlled if isinstance(event, VideoEncoded)]
    assert encoded == [(1, 2, 2, 2, 128), (1, 2, 4, 4, 128)]
    assert [name for name in stages_of(controlled) if "encoder" in name] == [
        "text encoder",
        "reference encoder 1",
        "reference encoder 2",
    ]
    assert "reference encoder 2" not in stages_of(usual)


def test_loras_go_with_the_reference(pipeline: api.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fused: list[int] = []
    sample = ic_lora.sample

    def seen(run: Any, name: str, sampling: Any, *more: Any) -> Any:
        fused.append(len(sampling.loras))
        return sample(run, name, sampling, *more)

    monkeypatch.setattr(ic_lora, "sample", seen)
    needs_of(pipeline)
    needs_of(pipeline, stage_2_ic_lora=True)
    assert fused == [1, 0, 1, 1]


@pytest.mark.slow
def test_tiles_of_both_stages(pipeline: api.Pipeline) -> None:
    events = events_of(pipeline, **TILED)
    told = [event for event in events if isinstance(event, TileDone)]
    # A stage of 2 x 2 cells is one tile; 4 cells are three tiles of 2 that share 1, in both directions.
    assert {event.stage for event in told} == {"denoise 2"}
    assert len(told) == 3 * 9
    assert tokens_of(events) == [16, 64]
    needs = needs_of(pipeline, **TILED)
    assert needs["denoise 2"].choice["tiles"] == "9 in every step, the largest of 16 tokens"
    assert "tiles" not in needs["denoise 1"].choice
    assert "tiles" not in needs_of(pipeline, stage_2_ic_lora=True, tile=True)["denoise 2"].choice  # 1024 x 1536


def test_tiles_overlap_by_half_in_whole_cells(pipeline: api.Pipeline) -> None:
    inputs = inputs_of(pipeline, height=2176, width=3840, stage_2_ic_lora=True, tile=True)
    stage = ic_lora._stages(inputs)[1]
    shape = ic_lora.video_shape(pipeline._files, inputs, 2176, 3840)
    grid = ic_lora._tile_grid(stage, shape, pipeline._files)
    assert grid is not None
    # 1024 x 1536 pixels are 32 x 48 cells of 68 x 120, which share at least 16 and 24 where half a tile allows it.
    assert [(i.start, i.stop) for i in grid.height] == [(0, 32), (18, 50), (36, 68)]
    assert [(i.start, i.stop) for i in grid.width] == [(0, 48), (24, 72), (48, 96), (72, 120)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tile_height": 64}, "tile_height and tile_width require tile; give it, too"),
        ({"tile_width": 64}, "tile_height and tile_width require tile; give it, too"),
        ({**TILED, "tile_height": 32}, "tile_height and tile_width must be at least 64 pixels, got 32x64"),
        ({**TILED, "tile_width": 80}, "tile_height and tile_width must be divisible by 32, got 64x80"),
        (
            {**TILED, "stage_2_ic_lora": False},
            "Tiled full-resolution stages need IC-LoRA on that stage. Pass stage_2_ic_lora",
        ),
        ({"skip_stage_2": True, "stage_2_ic_lora": True}, "stage_2_ic_lora is for the stage that skip_stage_2 leaves"),
        ({"stages": [IcLoraStage(1)], "tile": True}, "tile: stages say that themselves"),
        ({"stages": [IcLoraStage(4), IcLoraStage(1)]}, r"the last one is 1; got \[4, 1\]"),
        ({"stages": [IcLoraStage(2)]}, r"the last one is 1; got \[2\]"),
        ({"stages": [IcLoraStage(1), IcLoraStage(2), IcLoraStage(1)]}, r"got \[1, 2, 1\]"),
        ({"stages": [IcLoraStage(1, sigmas=(0.5, 0.6))]}, "stage 1: Sigmas must fall"),
        ({"stages": [IcLoraStage(1, tile=(64, 65))]}, "must be divisible by 32, got 64x65"),
        ({"stages": [(1, True, None, None, None)]}, "stages must be a list of IcLoraStage"),
        ({"reference_downscale_factor": 2, "height": 192}, "height and width must be multiples of 128, got 192x128"),
        ({**TILED, "tiling": "96/32"}, "height tile overlap must be at least 64 for encoding, got 32"),
        ({"conditioning_attention_strength": 1.5}, "conditioning_attention_strength must be 0 to 1, got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(pipeline: api.Pipeline, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        inputs_of(pipeline, **settings)


def test_want_of_memory_is_said_with_what_takes_less(pipeline: api.Pipeline) -> None:
    assert needs_of(pipeline)["denoise 2"].advice == "give tile, lower height, width or num_frames"
    assert needs_of(pipeline, **TILED)["denoise 2"].advice.startswith("lower tile_height or tile_width, lower height")


def test_tiles_need_no_second_lora_where_they_cut_nothing(pipeline: api.Pipeline) -> None:
    inputs_of(pipeline, tile=True)
    inputs_of(pipeline, tile=True, tile_height=64, tile_width=64, skip_stage_2=True)
    # Only references that are seen must be of whole cells.
    inputs_of(pipeline, reference_downscale_factor=2, stages=[IcLoraStage(4, False), IcLoraStage(2), IcLoraStage(1)])


def test_a_list_of_stages(pipeline: api.Pipeline) -> None:
    stages = [
        IcLoraStage(2, sigmas=(1.0, 0.5, 0.0)),
        IcLoraStage(2, with_reference=False, sigmas=SHORT),
        IcLoraStage(1, sigmas=SHORT, tile=(64, 96)),
    ]
    events = events_of(pipeline, stages=stages)
    assert tokens_of(events) == [16, 8, 64]
    assert len([event for event in events if isinstance(event, StepDone)]) == 6
    upscaled = [event.after.shape for event in events if isinstance(event, LatentUpscaled)]
    assert upscaled == [(1, 2, 4, 4, 128)]
    scales = [event.noise_scale for event in events if isinstance(event, Noised)]
    np.testing.assert_allclose(scales, [1.0, 1.0, 0.9, 0.9, 0.9, 0.9], rtol=1e-6)
    # The second stage goes on from the first, in pictures and sound.
    noised = [event for event in events if isinstance(event, Noised)]
    ends = [event for event in events if isinstance(event, StepDone) and event.stage == "denoise 1"][-1]
    assert ends.video is not None
    np.testing.assert_array_equal(noised[2].before.latent, ends.video[:, :8])
    np.testing.assert_array_equal(noised[3].before.latent, ends.audio)
    names = stages_of(events)
    assert names.index("denoise 2") < names.index("spatial upscaler 2") < names.index("denoise 3")


def test_stages_are_recorded(pipeline: api.Pipeline) -> None:
    stages = (IcLoraStage(2, sigmas=(1.0, 0.5, 0.0)), IcLoraStage(1, False, SHORT), IcLoraStage(1, tile=(64, 96)))
    stored = Settings(stages=stages).as_dict({"stages of IC-LoRA"})["stages"]
    assert stored == [
        [2, True, [1.0, 0.5, 0.0], None],
        [1, False, [0.9, 0.4, 0.0], None],
        [1, True, None, [64, 96]],
    ]
    assert Settings.of({"stages": stored}).stages == stages


@pytest.mark.slow
def test_a_long_clip_sees_of_each_window_what_is_new_of_its_reference(pipeline: api.Pipeline) -> None:
    chunks = {"num_frames": 33, "chunk_pixel_frames": 25, "chunk_carry_frames": 17, "video_conditioning": REFERENCE}
    stages = [IcLoraStage(2, sigmas=SHORT), IcLoraStage(1, sigmas=SHORT)]
    events = events_of(pipeline, **chunks, stages=stages, conditioning_attention_strength=0.5)
    # Windows of 25 frames are 4 latent frames; of the second one's reference 3 lie in what is carried.
    assert tokens_of(events) == [4 * 4 * 2, 4 * 16 * 2, 4 * 4 + 4, 4 * 16 + 16]
    encoded = [event.latent.shape[1:4] for event in events if isinstance(event, VideoEncoded)]
    assert encoded == [(4, 2, 2), (4, 4, 4), (4, 2, 2), (4, 4, 4)]
    last = [event.state for event in events if isinstance(event, Noised) and event.modality == "video"][-1]
    # The carried frames are kept, and what is left of the reference stands where it stood in the window.
    assert (last.denoise_mask[0, : 3 * 16] == 0).all()
    assert (last.denoise_mask[0, 3 * 16 : 4 * 16] == 1).all()
    np.testing.assert_array_equal(last.positions[:, :, 64:], last.positions[:, :, 48:64])
    assert last.attention is not None
    np.testing.assert_array_equal(last.attention.dense()[0, 0, 48:], [1] * 16 + [0.5] * 16)
    with pytest.raises(UsageError, match=r"reference_prefix_frames \(3\) removes the entire reference window \(3 lat"):
        inputs_of(pipeline, **{**chunks, "video_conditioning": REFERENCE[:25]})


def test_a_mask_is_read_at_half_size_by_every_stage(pipeline: api.Pipeline) -> None:
    sizes: list[tuple[int, int, int]] = []

    def weights(height: int, width: int, part: range) -> np.ndarray[Any, np.dtype[np.float32]]:
        sizes.append((height, width, len(part)))
        return np.full((len(part), height, width), 0.25, np.float32)

    inputs = inputs_of(pipeline, stage_2_ic_lora=True, zero_text=True, prompt=None)
    inputs = replace(inputs, media=replace(inputs.media, attention_mask=AttentionMask(weights, 0.5)))
    states: list[Noised] = []
    run = Run(pipeline._files, inputs, lambda event: states.append(event) if isinstance(event, Noised) else None)
    ic_lora.PIPELINE.generate(run)
    assert sizes == [(64, 64, 9)] * 2
    for event in states:
        if event.modality == "video":
            assert event.state.attention is not None
            assert event.state.attention.dense()[0, 0, -1] == 0.125

"""Weights that stay in memory between calls: nothing is read again, and the bits are the same."""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import math
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import api, embedded
from ltx2rt.errors import Cancelled, CheckpointError, MemoryBudgetError, OutOfMemory, UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.decode.needs import video_decoder_options
from ltx2rt.graph.stages.events import Event, StageStarted, StepDone
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.weights.positioned_file import PositionedFile

SETTINGS = {"prompt": "a red circle", "height": 64, "width": 64, "num_frames": 9, "seed": 3}
GUIDED = {**SETTINGS, "num_inference_steps": 2}
# The quickest clip, where any will do.
ANY = {**SETTINGS, "num_inference_steps": 1}
LORA = embedded.DISTILLED_LORA
# What MLX may hold more or less for reasons of its own: constants of the program.
FEW_BYTES = 64 << 10


@pytest.fixture(autouse=True)
def _no_weights_of_other_tests() -> Iterator[None]:
    gc.collect()
    yield
    gc.collect()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every read of a weight file from here on."""
    counts: list[int] = []
    read = PositionedFile.read_into

    def counted(self: PositionedFile, offset: int, *targets: memoryview) -> None:
        counts.append(sum(target.nbytes for target in targets))
        read(self, offset, *targets)

    monkeypatch.setattr(PositionedFile, "read_into", counted)
    return counts


def bits(clip: api.Clip) -> str:
    """A hash of everything in a clip."""
    digest = hashlib.sha256()
    parts = [clip.video_latent, clip.audio_latent, clip.audio, *(clip.frames if clip.has_frames else ())]
    for part in parts:
        digest.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def any_pipeline(**files: object) -> api.Pipeline:
    return api.load("one-stage", **files)  # type: ignore[arg-type]  # files by name


@functools.cache
def any_plain() -> str:
    """The bits of a call of `any_pipeline` that keeps nothing."""
    return fresh("one-stage", ANY)


@functools.cache
def plain() -> str:
    """The bits of a call of the distilled pipeline that keeps nothing."""
    return fresh()


def fresh(name: str = "distilled", settings: dict[str, object] = SETTINGS, **files: object) -> str:
    """The bits of a pipeline that is loaded for one call and keeps nothing."""
    return bits(api.load(name, **files, keep_loaded=False)(**settings))  # type: ignore[arg-type]


def test_the_second_call_reads_no_weights(reads: list[int]) -> None:
    with any_pipeline() as pipeline:
        first = bits(pipeline(**ANY))
        assert sum(reads) >= pipeline.kept_bytes > 1_000_000
        reads.clear()
        clip = pipeline(**ANY)
        assert bits(clip) == first
        assert reads == []
        assert {(stage.loaded_bytes, stage.streamed_bytes) for stage in clip.report} == {(0, 0)}
        assert {stage.kept_bytes for stage in clip.report} == {pipeline.kept_bytes}
    assert any_plain() == first


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param("one-stage", GUIDED, marks=pytest.mark.slow),
        pytest.param("two-stage", GUIDED, marks=pytest.mark.slow),
        pytest.param("two-stage-hq", GUIDED, marks=pytest.mark.slow),
        pytest.param(
            "text-to-audio",
            {"prompt": "rain", "num_frames": 9, "num_inference_steps": 1, "seed": 3},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_kept_and_not_kept_give_the_same_bits(name: str, settings: dict[str, object], reads: list[int]) -> None:
    with api.load(name, keep_loaded=True) as pipeline:
        clips = {bits(pipeline(**settings))}  # type: ignore[arg-type]
        reads.clear()
        clips.add(bits(pipeline(**settings)))  # type: ignore[arg-type]
        assert reads == []
    assert clips == {fresh(name, settings)}


@pytest.mark.slow
def test_prompt_enhancement_and_encoding_share_their_weights(reads: list[int]) -> None:
    settings = {**SETTINGS, "enhance_prompt": True, "enhance_max_tokens": 4}
    with api.load() as pipeline:
        clip = pipeline(**settings)
        loaded = {stage.name: stage.loaded_bytes for stage in clip.report}
        assert loaded["prompt enhancement"] > 0
        assert loaded["text encoder"] == 0
        kept = bits(clip)
        reads.clear()
        assert bits(pipeline(**settings)) == kept
        assert reads == []
    assert fresh(settings=settings) == kept


def test_closing_gives_the_memory_back() -> None:
    before = mx.get_active_memory()
    with any_pipeline() as pipeline:
        clip = pipeline(**ANY)
        first = bits(clip)
        assert mx.get_active_memory() - before >= pipeline.kept_bytes > 1_000_000
    del clip
    assert pipeline.kept_bytes == 0
    assert abs(mx.get_active_memory() - before) < FEW_BYTES
    clip = pipeline(**ANY)  # loads again
    pipeline.close()
    pipeline.close()
    assert bits(clip) == first  # its frames are read after the end, and leave nothing behind
    del clip
    assert pipeline.kept_bytes == 0
    assert abs(mx.get_active_memory() - before) < FEW_BYTES


def test_weights_end_with_their_pipeline() -> None:
    before = mx.get_active_memory()
    clip = any_pipeline()(**ANY)
    assert mx.get_active_memory() - before < 1_000_000  # the clip alone
    bits(clip)
    assert mx.get_active_memory() - before < 1_000_000


@pytest.mark.slow
def test_never_kept_where_that_is_not_wanted(reads: list[int]) -> None:
    pipeline = api.load()
    first = bits(pipeline(**SETTINGS))
    pipeline.keep_loaded = False
    reads.clear()
    clip = pipeline(**SETTINGS)
    assert bits(clip) == first
    assert pipeline.kept_bytes == 0
    assert sum(reads) > 1_000_000
    assert clip.report[-1].kept_bytes == 0  # stages before it hand weights over to later ones


@pytest.mark.slow
def test_a_budget_that_is_too_small_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = api.load(keep_loaded=False)
    alone = pipeline.plan(**SETTINGS)[0]
    budget = math.ceil(alone.peak_bytes * 1.02) + (1 << 20)
    assert not alone.kept
    pipeline.keep_loaded = None
    with caplog.at_level(logging.INFO):
        clip = pipeline(**SETTINGS, memory=budget)
    expected = bits(clip)
    assert "the weights of all stages, 14 MB, do not fit the budget of" in caplog.text
    assert clip.report[-1].kept_bytes == 0  # stages before it hand weights over to later ones
    assert pipeline.kept_bytes == 0

    assert bits(pipeline(**SETTINGS)) == expected  # a larger budget
    assert pipeline.kept_bytes > 0
    assert bits(pipeline(**SETTINGS, memory=budget)) == expected  # and the small one again, for which they go
    assert pipeline.kept_bytes == 0


def test_keeping_that_cannot_fit_says_what_would_do() -> None:
    pipeline = api.load(keep_loaded=False)
    alone = pipeline.plan(**SETTINGS)[0]
    pipeline.keep_loaded = True
    budget = math.ceil(alone.peak_bytes * 1.02) + (1 << 20)
    with pytest.raises(MemoryBudgetError, match=r"give at least memory=\d+MB, or leave out keep_loaded\.") as caught:
        pipeline(**SETTINGS, memory=budget)
    assert caught.value.needed_bytes > budget
    plan, _ = pipeline.plan(**SETTINGS, memory=caught.value.needed_bytes + (4 << 20))
    assert sum(plan.kept.values()) > 1_000_000
    with pytest.raises(MemoryBudgetError):
        pipeline.plan(**SETTINGS, memory=caught.value.needed_bytes - (4 << 20))


@pytest.mark.slow
def test_other_loras_have_the_result_of_a_fresh_load(reads: list[int]) -> None:
    with api.load(loras=[(LORA, 0.5)]) as pipeline:
        first = bits(pipeline(**SETTINGS))
        whole = pipeline.kept_bytes
        seen = {first: fresh(loras=[(LORA, 0.5)])}
        for loras in ([(LORA, 1.0)], [(LORA, 1.0), (embedded.IC_LORA, -0.5)], [], [(LORA, 0.5)]):
            pipeline.set_loras(loras)
            reads.clear()
            clip = pipeline(**SETTINGS)
            seen[bits(clip)] = fresh(loras=loras)
            assert pipeline.loras == tuple(loras)
            assert clip.record.files.get("loras", []) == [[str(path), strength] for path, strength in loras]
            assert clip.report[0].loaded_bytes == 0  # the text encoder has stayed
            assert pipeline.kept_bytes == whole  # and nothing of the LoRAs before
    assert list(seen) == list(seen.values())
    assert len(seen) == 4  # the last is the first


def test_loras_that_cannot_be_are_refused_and_change_nothing() -> None:
    with any_pipeline(loras=[(LORA, 0.5)]) as pipeline:
        first = bits(pipeline(**ANY))
        with pytest.raises(UsageError, match="strength"):
            pipeline.set_loras([(LORA, float("nan"))])
        with pytest.raises(CheckpointError):
            pipeline.set_loras([("missing.safetensors", 1.0)])
        for wrong in (str(LORA), 5):
            with pytest.raises(UsageError, match="loras must be a list of LoRA files"):
                pipeline.set_loras(wrong)  # type: ignore[arg-type]
        assert pipeline.loras == ((LORA, 0.5),)
        assert bits(pipeline(**ANY)) == first


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["text encoder", "denoise 1", "audio decoder"])
def test_a_run_that_fails_leaves_a_usable_pipeline(stage: str) -> None:
    def fail(event: Event) -> None:
        at_stage = isinstance(event, StageStarted) and event.name == stage
        at_step = isinstance(event, StepDone) and event.stage == stage and event.index == 2
        if at_step or (at_stage and not stage.startswith("denoise")):
            raise Cancelled("enough")

    before = mx.get_active_memory()
    with api.load() as pipeline:
        with pytest.raises(Cancelled):
            pipeline(**SETTINGS, observer=fail)
        clip = pipeline(**SETTINGS)
        assert bits(clip) == plain()
        with pytest.raises(Cancelled):
            pipeline(**SETTINGS, observer=fail)
        assert bits(pipeline(**SETTINGS)) == plain()
    del clip
    gc.collect()
    assert abs(mx.get_active_memory() - before) < FEW_BYTES


def test_memory_that_is_refused_takes_the_weights_with_it() -> None:
    def refuse(event: Event) -> None:
        if isinstance(event, StepDone):
            raise MemoryError("std::bad_alloc")

    pipeline = any_pipeline()
    with pytest.raises(OutOfMemory):
        pipeline(**ANY, observer=refuse)
    assert pipeline.kept_bytes == 0
    assert bits(pipeline(**ANY)) == any_plain()


@pytest.mark.slow
def test_two_pipelines_at_once(reads: list[int]) -> None:
    with api.load() as one, api.load("one-stage") as two:
        expected = [bits(one(**SETTINGS)), bits(two(**GUIDED))]
        reads.clear()
        with ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                calls = [pool.submit(lambda: bits(one(**SETTINGS))), pool.submit(lambda: bits(two(**GUIDED)))]
                assert [call.result() for call in calls] == expected
        assert reads == []
        one.close()
        assert one.kept_bytes == 0
        assert two.kept_bytes > 0
        assert bits(two(**GUIDED)) == expected[1]
        assert reads == []


@pytest.mark.slow
def test_frames_that_are_read_after_another_call() -> None:
    with api.load() as pipeline:
        first, second = pipeline(**SETTINGS), pipeline(**{**SETTINGS, "seed": 4})
        assert bits(second) != bits(first) == plain()
        kept = pipeline.kept_bytes
        assert bits(pipeline(**SETTINGS)) == plain()
        assert pipeline.kept_bytes == kept


def test_frames_that_are_read_again_read_no_weights(reads: list[int]) -> None:
    expected = any_plain()
    with any_pipeline() as pipeline:
        clip = pipeline(**ANY)
        assert bits(clip) == expected
        reads.clear()
        assert bits(clip) == expected
        assert reads == []
    assert bits(clip) == expected
    assert reads  # the decoder, from its file


@pytest.mark.slow
def test_of_a_list_of_prompts_the_first_one_reads_the_weights(reads: list[int]) -> None:
    expected = plain()
    reads.clear()
    with api.load() as pipeline:
        clips = pipeline(**{**SETTINGS, "prompt": ["a blue square", "a red circle"]})
        assert [sum(stage.loaded_bytes for stage in clip.report) > 0 for clip in clips] == [True, False]
        assert bits(clips[0]) != bits(clips[1]) == expected
        assert sum(reads) == pytest.approx(pipeline.kept_bytes, rel=0.3)  # everything once


def test_tiles_for_want_of_memory_are_not_taken_beside_kept_weights() -> None:
    grid = (2, 16, 16)
    weights = WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT))
    needs = list(video_decoder_options(weights.source(VIDEO_VAE), weights.config(VIDEO_VAE), grid, "auto", mx.float32))
    assert {need.settings["tiling"] is None for need in needs} == {True, False}
    assert all(need.can_be_kept == (need.settings["tiling"] is None) for need in needs)
    asked = Tiling.of(spatial=(256, 64))
    own = video_decoder_options(weights.source(VIDEO_VAE), weights.config(VIDEO_VAE), grid, asked, mx.float32)
    assert {need.can_be_kept for need in own} == {True}


@pytest.mark.slow
def test_a_call_that_needs_less_leaves_the_rest() -> None:
    with api.load() as pipeline:
        bits(pipeline(**SETTINGS))
        kept = pipeline.kept_bytes
        bits(pipeline(**{**SETTINGS, "prompt": None, "zero_text": True}))
        assert pipeline.kept_bytes == kept


@pytest.mark.slow
def test_the_store_has_no_owner_but_the_pipeline() -> None:
    pipeline = api.load()
    clip = pipeline(**SETTINGS)
    store = weakref.ref(pipeline._kept)
    del pipeline
    assert store() is None
    assert bits(clip) == plain()

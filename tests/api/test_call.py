"""Calling a pipeline: prompts in lists, inputs in memory, stopping, and what is said about wrong arguments."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ltx2rt
from ltx2rt import api, embedded
from ltx2rt.api.call_arguments import CallArguments
from ltx2rt.api.diffusers_names import DIFFUSERS_NAMES, LOADING_NAMES
from ltx2rt.api.record import read_record, sidecar_path
from ltx2rt.cli.main import run
from ltx2rt.graph.diffusion.noise import TorchCpuNoise
from ltx2rt.graph.settings.setting import settings_of
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.events import Event, Noised, StepDone
from ltx2rt.kernels.host import to_numpy
from ltx2rt.weights.embedding_file import TextEmbedding, read_embedding

SMALL: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 9, "latents_only": True}
PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def pipeline() -> api.Pipeline:
    return api.load()


@pytest.fixture(scope="module")
def draws() -> list[np.ndarray]:
    return []


@pytest.fixture(scope="module")
def clip(pipeline: api.Pipeline, draws: list[np.ndarray]) -> api.Clip:
    """A clip of the default seed, whose draws are kept."""

    def keep(event: Event) -> None:
        if isinstance(event, Noised):
            draws.append(event.noise)

    return pipeline(PROMPT, **SMALL, observer=keep)


def same(one: api.Clip, other: api.Clip) -> bool:
    assert one.video_latent is not None
    assert one.audio_latent is not None
    return np.array_equal(one.video_latent, other.video_latent) and np.array_equal(one.audio_latent, other.audio_latent)


def test_a_list_of_prompts_gives_a_list_of_clips_with_one_seed(pipeline: api.Pipeline, clip: api.Clip) -> None:
    clips = pipeline([PROMPT, "a blue square"], **SMALL)
    assert [made.settings["prompt"] for made in clips] == [PROMPT, "a blue square"]
    assert {made.settings["seed"] for made in clips} == {clip.settings["seed"]}
    assert same(clips[0], clip)
    assert not same(clips[1], clip)


def test_a_list_is_checked_before_the_first_one_runs(pipeline: api.Pipeline, tmp_path: Path) -> None:
    def never(_: Event) -> None:
        raise AssertionError("it ran")

    for prompts, more, message in (
        ([], {}, "the list of prompts is empty"),
        ([PROMPT, 3], {}, "prompt must be a text or a list of texts, got 3 in a list"),
        ([PROMPT, " "], {}, "the prompt is empty"),
        ([PROMPT, PROMPT], {"state_folder": tmp_path / "state"}, "give one prompt with them, not a list"),
    ):
        with pytest.raises(ltx2rt.UsageError, match=message):
            pipeline(prompts, **SMALL, **more, observer=never)  # type: ignore[call-overload]


def test_an_embedding_from_memory_gives_the_clip_of_its_prompt(
    pipeline: api.Pipeline, clip: api.Clip, tmp_path: Path
) -> None:
    embedding = ltx2rt.encode(PROMPT, output=tmp_path / "a.safetensors")
    made = pipeline(embedding=embedding, **SMALL)
    assert same(made, clip)
    assert list(made.record.in_memory) == ["embedding"]
    assert same(pipeline(embedding=tmp_path / "a.safetensors", **SMALL), clip)
    read = read_embedding(tmp_path / "a.safetensors")
    contexts = {name: to_numpy(value) for name, value in read.contexts().items()}
    assert same(pipeline(embedding=TextEmbedding("19b", **contexts), **SMALL), clip)


def test_an_embedding_of_another_shape_is_refused(pipeline: api.Pipeline) -> None:
    flat = TextEmbedding("19b", np.zeros((1024, 64), np.float32), np.zeros((1, 1024, 64), np.float32))
    with pytest.raises(ltx2rt.CheckpointError, match=r"embedding: video_context must have shape \(1, rows, channels\)"):
        pipeline(embedding=flat, **SMALL)


@pytest.mark.slow
def test_noise_is_consumed_in_the_order_of_the_draws(
    pipeline: api.Pipeline, clip: api.Clip, draws: list[np.ndarray]
) -> None:
    assert [draw.shape for draw in draws] == [(1, 2, 128), (1, 9, 128), (1, 8, 128), (1, 9, 128)]
    for noise in (draws, tuple(draws), TorchCpuNoise(clip.settings["seed"])):
        assert same(pipeline(PROMPT, **SMALL, noise=noise), clip)
    assert not same(pipeline(PROMPT, **SMALL, noise=[*draws[:3], -draws[3]]), clip)


def test_a_source_of_noise_stays_where_it_is(pipeline: api.Pipeline, clip: api.Clip) -> None:
    source = TorchCpuNoise(clip.settings["seed"])
    for made in pipeline([PROMPT, PROMPT], **SMALL, noise=source):
        assert same(made, clip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda draws: draws[:3], r"Only 3 noise draws were recorded, but another \(1, 9, 128\) was asked for"),
        (lambda draws: [*draws[:3], draws[0]], r"Recorded noise 3 has shape \(1, 2, 128\), but \(1, 9, 128\)"),
    ],
)
def test_noise_that_does_not_fit_is_refused_before_anything_runs(
    pipeline: api.Pipeline, clip: api.Clip, draws: list[np.ndarray], change: Any, message: str
) -> None:
    assert clip.record.in_memory == {}
    started: list[Event] = []
    with pytest.raises(ltx2rt.UsageError, match=message):
        pipeline(PROMPT, **SMALL, noise=change(draws), observer=started.append)
    assert started == []


def test_latents_are_the_noise_of_the_first_stage(pipeline: api.Pipeline, draws: list[np.ndarray]) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 2, 1, 1, 128)).astype(np.float32)
    taken: list[np.ndarray] = []

    def keep(event: Event) -> None:
        if isinstance(event, Noised):
            taken.append(event.noise)

    clip = pipeline(PROMPT, **SMALL, latents=latents, seed=4, observer=keep)
    bits = latents.reshape(1, 2, 128).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    assert np.array_equal(taken[0], rounded)
    assert np.array_equal(taken[1], TorchCpuNoise(4).normal((1, 9, 128), "bfloat16"))
    assert list(clip.record.in_memory) == ["latents"]


def test_latents_with_key_frames_leave_the_rest_to_the_seed() -> None:
    one_stage = api.load("one-stage")
    picture = np.zeros((64, 64, 3), np.uint8)
    latents = np.zeros((1, 2, 2, 2, 128), np.float32)
    taken: list[np.ndarray] = []

    def keep(event: Event) -> None:
        if isinstance(event, Noised):
            taken.append(event.noise)

    images = [api.ImageInput(picture, 8, 0.5)]
    one_stage(PROMPT, **SMALL, latents=latents, images=images, num_inference_steps=1, observer=keep)
    assert taken[0].shape == (1, 12, 128)
    assert not taken[0][:, :8].any()
    assert np.array_equal(taken[0][:, 8:], TorchCpuNoise(10).normal((1, 4, 128), "bfloat16"))


@pytest.mark.slow
def test_what_lay_in_memory_is_recorded_and_cannot_be_repeated_from_files(
    pipeline: api.Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    images = [Image.fromarray(pixels), pixels, api.ImageInput(pixels + 1, 8)]
    clip = pipeline(PROMPT, **{**SMALL, "latents_only": False}, images=images[1:])
    clip.save(tmp_path / "a.mp4")
    record, _ = read_record(sidecar_path(tmp_path / "a.mp4"))
    assert list(record.in_memory) == ["images[0]", "images[1]"]
    assert len(set(record.in_memory.values())) == 2
    assert all(sha in json.dumps(record.settings["images"]) for sha in record.in_memory.values())
    assert pipeline.record_for(PROMPT, **SMALL, images=images[:1]).in_memory["images[0]"]
    assert run(["generate", "--from-sidecar", str(tmp_path / "a.mp4.json"), "-o", str(tmp_path / "b.mp4")]) == 2
    assert "whose images[0], images[1] lay in memory: files cannot repeat it" in capsys.readouterr().err
    assert same(pipeline(PROMPT, **SMALL, images=images[1:], repeated=record), clip)
    with pytest.raises(ltx2rt.UsageError, match=r"images\[1\] in memory is not what the repeated run used"):
        pipeline(PROMPT, **SMALL, images=images[1:2], repeated=record)


@pytest.mark.slow
def test_an_interrupted_run_with_a_picture_in_memory_continues(pipeline: api.Pipeline, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.index == 2:
            raise ltx2rt.Cancelled

    state, picture = tmp_path / "state", np.full((64, 64, 3), 90, np.uint8)
    with pytest.raises(ltx2rt.Cancelled):
        pipeline(PROMPT, **SMALL, images=[picture], state_folder=state, observer=stop)
    with pytest.raises(ltx2rt.UsageError, match=r"differs from this one: images"):
        pipeline(PROMPT, **SMALL, images=[picture + 1], state_folder=state, resume=True)
    resumed = pipeline(PROMPT, **SMALL, images=[picture], state_folder=state, resume=True)
    assert same(resumed, pipeline(PROMPT, **SMALL, images=[picture]))


def test_a_step_shows_its_latents_and_can_stop_the_run(pipeline: api.Pipeline) -> None:
    steps: list[StepDone] = []

    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event)
            if event.index == 1:
                raise ltx2rt.Cancelled("enough")

    with pytest.raises(ltx2rt.Cancelled, match="enough"):
        pipeline(PROMPT, **SMALL, observer=stop)
    assert [(step.stage, step.index, step.steps) for step in steps] == [("denoise 1", 0, 8), ("denoise 1", 1, 8)]
    video, audio = steps[-1].video, steps[-1].audio
    assert video is not None
    assert audio is not None
    assert (video.shape, audio.shape) == ((1, 2, 128), (1, 9, 128))


def test_components_say_what_has_been_opened(tmp_path: Path) -> None:
    pipeline = api.load("ic-lora")
    found = pipeline.components
    assert {"transformer", "video_vae", "audio_vae", "vocoder", "text_encoder", "spatial_upscaler"} <= set(found)
    transformer = found["transformer"]
    assert transformer.path == embedded.CHECKPOINT
    assert transformer.config["num_layers"] > 0
    assert transformer.dtypes[0] == "BF16"
    assert transformer.nbytes == sum(info.nbytes for info in transformer.tensors.values()) > 1e6
    assert (found["loras[0]"].path, found["loras[0]"].strength) == (embedded.IC_LORA, 1.0)
    assert sum(found[name].nbytes for name in ("transformer", "video_vae")) < embedded.CHECKPOINT.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 3}, "images must be a list of images: paths, PIL images, arrays .*, got 3"),
        ({"height": "256"}, "height must be a whole number, 32 or more, got '256'"),
        ({"prompt": 3}, "prompt must be a text, got 3"),
        (
            {"embedding": np.zeros(3)},
            r"embedding must be a text embedding file, or what ltx2rt.encode gives, got array",
        ),
        ({"latents": 3}, r"latents must be an array \(1, f, h, w, 128\) of floating-point numbers, got 3"),
        ({"latents": np.zeros((1, 128, 2, 1, 1))}, r"first stage, \(1, 2, 1, 1, 128\), got \(1, 128, 2, 1, 1\)"),
        ({"noise": 3}, "noise must be a list of arrays of floating-point numbers, .*, got 3"),
        ({"noise": [], "seed": 1}, "noise and seed contradict each other"),
        ({"noise": [], "latents": np.zeros((1, 2, 1, 1, 128))}, "noise and latents contradict each other"),
        ({"observer": 3}, "observer must be a function, got 3"),
        ({"on_preview": "a.png"}, "on_preview must be a function, got 'a.png'"),
        ({"state_folder": 3}, "state_folder must be a path, got 3"),
        ({"memory": 1.5}, "memory must be like 12GB, or a whole number of bytes, got 1.5"),
        ({"guidance_scale": 3.0}, "here it is video_cfg_guidance_scale"),
        ({"generator": None}, "here a seed decides the noise"),
    ],
)
def test_wrong_arguments_of_a_call(pipeline: api.Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ltx2rt.UsageError, match=message):
        pipeline(**{"prompt": PROMPT, **SMALL, **arguments})


def test_a_picture_may_be_a_path_in_a_list(pipeline: api.Pipeline, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "x.png")
    record = pipeline.record_for(PROMPT, **SMALL, images=[str(tmp_path / "x.png")])
    assert list(record.inputs) == [str(tmp_path / "x.png")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pipeline": "Lightricks/LTX-2"},
            "'Lightricks/LTX-2' is no name of a pipeline; weights are given with checkpoint=FILE, and the pipelines",
        ),
        ({"pipeline": "ltx-2.safetensors"}, "is no name of a pipeline; weights are given with checkpoint=FILE"),
        ({"pipeline": 3}, "3 is no name of a pipeline"),
        ({"checkpoint": 3}, "checkpoint must be a path, or ORG/NAME or ORG/NAME:FILE of the hub, got 3"),
        ({"loras": "style.safetensors"}, "loras must be a list of LoRA files, .*, got 'style.safetensors'"),
        ({"loras": 3}, "loras must be a list of LoRA files, .*, got 3"),
        ({"distilled_lora": ["a"]}, "distilled_lora must be a LoRA file, a path or"),
        ({"dtype": np.float32}, "dtype must be a text, got <class 'numpy.float32'>"),
        ({"torch_dtype": "float16"}, "unknown setting 'torch_dtype'; here it is dtype"),
        ({"checkpoints": "a"}, r"unknown setting 'checkpoints'; did you mean checkpoint\?"),
    ],
)
def test_wrong_arguments_of_load(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ltx2rt.UsageError, match=message):
        api.load(**arguments)


def test_wrong_arguments_of_encode_and_upscale() -> None:
    with pytest.raises(ltx2rt.UsageError, match=r"prompt must be a text, got \['a'\]"):
        ltx2rt.encode(["a"])  # type: ignore[arg-type]
    with pytest.raises(ltx2rt.UsageError, match="the source must be a path, got 3"):
        ltx2rt.upscale(3)  # type: ignore[arg-type]


def test_names_of_other_programs_are_none_of_ours_and_lead_to_some_that_are() -> None:
    assert not set(DIFFUSERS_NAMES) & {*settings_of(Settings), *inspect.signature(api.Pipeline.__call__).parameters}
    assert not set(LOADING_NAMES) & set(inspect.signature(api.load).parameters)
    for hint in (*DIFFUSERS_NAMES.values(), *LOADING_NAMES.values()):
        assert hint.startswith("here ")
        assert hint.endswith(".")


def test_the_call_is_typed_and_spelled_out() -> None:
    parameters = inspect.signature(api.Pipeline.__call__).parameters
    assert set(settings_of(Settings)) <= set(parameters)
    assert set(CallArguments.__annotations__) == set(settings_of(Settings)) - {"prompt"}
    assert parameters["height"].annotation == "int"
    assert {name for name in inspect.signature(api.load).parameters if name != "unknown"} == {
        "pipeline",
        "keep_loaded",
        *settings_of(WeightFiles),
    }

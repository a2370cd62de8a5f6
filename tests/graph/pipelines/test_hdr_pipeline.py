"""The HDR pipeline: its one stage, seams, inputs and outputs; and high dynamic range of other pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import mlx.core as mx
import numpy as np
import pytest
from ltx25_pack import write_diffusion_vae, write_lora, write_pack

from ltx2rt import api
from ltx2rt.errors import Cancelled, CheckpointError, Ltx2rtError, MediaError, UsageError
from ltx2rt.graph.diffusion.noise import NoiseSource, TorchCpuNoise
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines.hdr import seams
from ltx2rt.graph.stages.decode import stage as decode
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.events import Evaluated, Event, Noised, StepDone, VideoDecodeStarted, VideoEncoded
from ltx2rt.graph.stages.inputs import GenerationInputs, HdrInput
from ltx2rt.graph.stages.run import Run
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.exr import encoded_exr, exr_folder, frame_name, frames_in, read_exr
from ltx2rt.media.hdr import ACESCG, HDR_SPACES, HdrSpace, acescct_of_srgb, hlg_of_acescct, srgb_of_acescct
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.media.yuv import yuv420_bt2020
from ltx2rt.types import Array
from ltx2rt.weights.safetensors import write_safetensors

EMBEDDED: dict[str, Any] = {"zero_text": True, "seam_keyframes": False, "seed": 3}


def write_clip(path: Path, frames: int = 9, height: int = 64, width: int = 64, rate: float = 24) -> Path:
    """A bright square that moves over a dark ground."""
    pictures = np.full((frames, height, width, 3), 40, np.uint8)
    for index, picture in enumerate(pictures):
        picture[20:40, index : index + 20] = [250, 200, 120]
    with VideoWriter(path, width, height, rate, crf=1) as writer:
        writer.write(pictures)
    return path


def write_frames(folder: Path, codes: Array, space: HdrSpace = ACESCG) -> Path:
    folder.mkdir()
    for number, frame in enumerate(codes):
        (folder / frame_name(number)).write_bytes(encoded_exr(space.of_acescct(frame), space))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pack of LTX-2.5 without text encoder and sound, the IC-LoRA, and its contexts as they are published."""
    folder = tmp_path_factory.mktemp("pack")
    pack = write_pack(folder, head=False)
    context = np.random.default_rng(0).standard_normal((1, 16, 64)).astype(np.float32)
    write_safetensors(folder / "scene-emb.safetensors", {"video_context": mx.array(context).astype(mx.bfloat16)}, {})
    return {
        "load": {
            "transformer": pack["transformer"],
            "video_vae": write_diffusion_vae(folder),
            "loras": [write_lora(folder / "hdr-lora.safetensors")],
        },
        "conv": pack["video_vae"],
        "embedding": folder / "scene-emb.safetensors",
        "clip": write_clip(folder / "clip.mp4", 25, 48, 80, rate=48),
    }


@pytest.fixture(scope="module")
def toy() -> api.Pipeline:
    """With the embedded model, whose weights stay in memory."""
    return api.load("hdr")


def prepared(pipeline: api.Pipeline, **settings: Any) -> tuple[GenerationInputs, HdrInput]:
    inputs, _ = pipeline._prepare(settings, pipeline._files)
    assert inputs.media.hdr is not None
    return inputs, inputs.media.hdr


def all_frames(hdr: HdrInput) -> Array:
    with closing(hdr.frames.read()) as frames:
        return np.stack(list(frames))


@pytest.mark.parametrize(
    ("frames", "places"),
    [
        (1, ()),
        (9, ()),
        (17, ()),
        (25, (24,)),
        (33, (32,)),
        (49, (24, 48)),
        (57, (32,)),
        (97, (32, 64, 96)),
        (105, (24, 48, 72, 96)),
        (201, tuple(range(24, 200, 24))),
    ],
)
def test_seams(frames: int, places: tuple[int, ...]) -> None:
    assert seams(frames) == places


def test_one_stage_without_sound(files: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[NoiseSource] = []

    class Noted(decode.FrameNoise):
        def __init__(self, source: NoiseSource) -> None:
            draws.append(source.fork())
            super().__init__(source)

    monkeypatch.setattr(decode, "FrameNoise", Noted)
    events: list[Event] = []
    pipeline = api.load("hdr-ic-lora", **files["load"], dtype="float32")
    settings = {"input": files["clip"], "embedding": files["embedding"], "seed": 7, "keyframe_strength": 0.75}
    clip = pipeline(observer=events.append, **settings)
    encoded = [event.latent for event in events if isinstance(event, VideoEncoded)]
    assert [latent.shape[1:4] for latent in encoded] == [(4, 2, 3), (1, 2, 3)]  # padded to 64x96
    assert {latent.dtype for latent in encoded} == {mx.float32}
    (start,) = [event for event in events if isinstance(event, Noised)]
    assert (start.modality, start.noise_scale) == ("video", 1.0)
    # The clip's 24 tokens, the reference's 24, the guide's 6 and the key frame's 6.
    np.testing.assert_array_equal(start.state.denoise_mask[0], [1] * 24 + [0] * 24 + [0.25] * 6 + [1] * 6)
    np.testing.assert_array_equal(start.before.latent[:, :24], start.before.clean_latent[:, 24:48])
    np.testing.assert_array_equal(start.state.latent[:, :24], start.noise[:, :24])
    np.testing.assert_array_equal(start.noise, TorchCpuNoise(7).normal(start.noise.shape))
    assert start.state.keyframe_slots is not None
    assert start.state.keyframe_slots.pixel_frames == (24,)
    # Times of a clip with 30 frames/s in place of its 48.
    np.testing.assert_allclose(start.state.positions[0, 0, 48:, 0], 24 / 30)
    np.testing.assert_allclose(start.state.positions[0, 0, 48:, 1], 25 / 30)
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert len(evaluations) == 8
    assert all(event.audio is None for event in evaluations)
    assert sum(isinstance(event, StepDone) for event in events) == 8
    # It is cut to the input's size and keeps its rate; the decoder draws from a generator of its own.
    frames = np.concatenate(list(clip.frames))
    assert frames.shape == (25, 48, 80, 3)
    assert clip.frame_rate == Fraction(48)
    assert clip.audio is None
    np.testing.assert_array_equal(draws[0].normal((8,)), TorchCpuNoise(7).normal((8,)))
    (decoded,) = [event.latent for event in events if isinstance(event, VideoDecodeStarted)]
    assert decoded.dtype == mx.float32
    # The decoder looks at the key frames.
    plain = pipeline(**settings, seam_keyframes=False)
    assert np.abs(frames - np.concatenate(list(plain.frames))).max() > 1e-3


@pytest.mark.slow
def test_high_quality_works_on_twice_the_frames(files: Mapping[str, Any], toy: api.Pipeline, tmp_path: Path) -> None:
    pipeline = api.load("hdr", **files["load"])
    settings = {"input": files["clip"], "embedding": files["embedding"]}
    usual, usual_hdr = prepared(pipeline, **settings)
    inputs, hdr = prepared(pipeline, **settings, high_quality=True)
    assert (usual.num_frames, inputs.num_frames, usual_hdr.seams, hdr.seams) == (25, 49, (24,), (48,))
    np.testing.assert_array_equal(all_frames(hdr), np.repeat(all_frames(usual_hdr), 2, axis=0)[:49])
    clip = toy(input=write_clip(tmp_path / "clip.mp4"), high_quality=True, **EMBEDDED)
    assert sum(len(chunk) for chunk in clip.frames) == clip.num_frames == 9
    assert clip.video_latent is not None
    assert clip.video_latent.shape[1] == 3


def test_clips_become_acescct_and_are_mirrored_to_the_grid(files: Mapping[str, Any]) -> None:
    _, hdr = prepared(api.load("hdr"), input=files["clip"], **EMBEDDED)
    signal = np.stack(list(ClipReader(files["clip"]).frames())).astype(np.float32) / 255
    expected = np.pad(acescct_of_srgb(signal) * 2 - 1, ((0, 0), (0, 16), (0, 16), (0, 0)), mode="reflect")
    np.testing.assert_allclose(all_frames(hdr), expected, atol=1e-6)
    assert (hdr.height, hdr.width) == (48, 80)
    _, linear = prepared(api.load("hdr"), input=files["clip"], input_colorspace="srgb", **EMBEDDED)
    assert all_frames(linear).mean() > all_frames(hdr).mean() + 0.1


@pytest.mark.parametrize(("given", "space"), [("acescg", "acescg"), ("ACEScct", "acescct"), ("srgb", "srgb_linear")])
def test_exr_frames_become_acescct(tmp_path: Path, given: str, space: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.random((9, 64, 64, 1), np.float32) * 0.7 + 0.15 + rng.random((9, 64, 64, 3), np.float32) * 0.05
    folder = write_frames(tmp_path / "frames", codes, HDR_SPACES[space])
    inputs, hdr = prepared(api.load("hdr"), input=folder, input_colorspace=given, frame_rate=25, **EMBEDDED)
    np.testing.assert_allclose(all_frames(hdr), codes * 2 - 1, atol=4e-3)  # half floats of light
    assert inputs.frame_rate == 25
    assert hdr.words == ()


@pytest.mark.parametrize(("height", "width", "tiled"), [(512, 768, False), (512, 800, True)])
def test_large_inputs_are_encoded_in_tiles(
    tmp_path: Path, toy: api.Pipeline, monkeypatch: pytest.MonkeyPatch, height: int, width: int, tiled: bool
) -> None:
    tilings: list[Tiling | None] = []

    def noted(run: Run, name: str, clips: Any, beside: int, tiling: Tiling | None) -> Any:
        tilings.append(tiling)
        return encode_pixels(run, name, clips, beside, tiling)

    monkeypatch.setattr("ltx2rt.graph.pipelines.hdr.encode_pixels", noted)
    folder = write_frames(tmp_path / "frames", np.zeros((1, height, width, 3), np.float32))
    toy.plan(input=folder, input_colorspace="acescg", frame_rate=24, **EMBEDDED)
    assert set(tilings) == {Tiling.auto(height, width, 32) if tiled else None}


def test_exr_frames_that_state_another_space_are_told_of(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", np.full((1, 64, 64, 3), 0.5, np.float32), ACESCG)
    _, hdr = prepared(api.load("hdr"), input=folder, input_colorspace="acescct", frame_rate=24, **EMBEDDED)
    assert hdr.words == (f"{folder / frame_name(0)} states the colour space ACEScg; it is read as ACEScct",)


def bad_inputs(folder: Path) -> Iterator[tuple[dict[str, Any], type[Ltx2rtError], str]]:
    clip = write_clip(folder / "clip.mp4")
    long = write_clip(folder / "long.mp4", 12)
    frames = write_frames(folder / "frames", np.zeros((1, 64, 64, 3), np.float32))
    picture = folder / "picture.png"
    picture.write_bytes(b"")
    (folder / "empty").mkdir()
    exr: dict[str, Any] = {"input": frames, "input_colorspace": "acescg", "frame_rate": 24}
    yield {}, UsageError, "HDR IC-LoRA requires --input"
    yield {"input": picture}, UsageError, r"expected an MP4/MOV file or a directory of \*\.exr frames; got .*picture"
    yield (
        {"input": clip, "input_colorspace": "acescg"},
        UsageError,
        r"input_colorspace acescg expects a directory of \*\.exr frames; got .*clip",
    )
    yield (
        {"input": frames, "frame_rate": 24},
        UsageError,
        "input_colorspace srgb_gamma expects an MP4/MOV file; got EXR frames at .*and these state ACEScg",
    )
    yield {"input": clip, "frame_rate": 24}, UsageError, "frame_rate is only valid for an EXR-frame folder"
    yield {**exr, "frame_rate": None}, UsageError, "EXR-frame folder requires frame_rate"
    yield {**exr, "input": frames / frame_name(0)}, MediaError, "single EXR picture; give the folder"
    yield {**exr, "input": folder / "empty"}, MediaError, r"holds no \*\.exr files"
    yield (
        {"input": long},
        UsageError,
        r"Video frame count must satisfy 8k\+1 \(e\.g\. 97, 193\)\. Got 12; use a video with 9 frames\.",
    )
    yield {"input": folder / "missing.mp4"}, MediaError, "does not exist"
    yield {"input": clip, "zero_text": False, "prompt": "a dog"}, UsageError, "reads no prompt but the contexts"
    yield {"input": clip, "prompt": "a dog"}, UsageError, "hdr reads no prompt; leave prompt out"
    yield {"input": clip, "input_colorspace": "rec709"}, UsageError, "input_colorspace must be one of its choices"
    yield {"input": clip, "keyframe_strength": 1.5}, UsageError, "keyframe_strength must be 0 to 1"
    yield {"input": clip, "num_frames": 9}, UsageError, "num_frames has no meaning for the pipeline hdr"
    yield {"input": clip, "hdr": "acescg"}, UsageError, "hdr has no meaning for the pipeline hdr"


def test_what_cannot_work(tmp_path: Path) -> None:
    pipeline = api.load("hdr")
    for settings, kind, message in bad_inputs(tmp_path):
        with pytest.raises(kind, match=message):
            pipeline.record_for(**{**EMBEDDED, **settings})


def test_key_frames_need_a_model_that_makes_them(files: Mapping[str, Any], tmp_path: Path) -> None:
    settings = {**EMBEDDED, "input": files["clip"], "seam_keyframes": True}
    with pytest.raises(UsageError, match=r"\(19b\) was not made to generate key frames, .*; give seam_keyframes"):
        api.load("hdr").record_for(**settings)
    blind = {**files["load"], "video_vae": write_diffusion_vae(tmp_path, mark=None)}
    with pytest.raises(CheckpointError, match=r"not trained to look at key frames .*; give seam_keyframes"):
        api.load("hdr", **blind).record_for(**settings)
    with pytest.raises(UsageError, match="needs its IC-LoRA; give it with --hdr-lora"):
        api.load("hdr", **{**files["load"], "loras": []}).record_for(**settings)


def test_a_bfloat16_run_with_a_decoder_that_does_not_look_at_key_frames(
    files: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    pipeline = api.load("hdr", **{**files["load"], "video_vae": files["conv"]})
    clip = pipeline(input=files["clip"], embedding=files["embedding"], seed=3, observer=events.append)
    assert "does not look at key frames; those at the seams only guide the transformer" in caplog.text
    assert np.isfinite(next(iter(clip.frames))).all()
    # The VAE works in float32 whatever the transformer does.
    latents = [event.latent for event in events if isinstance(event, (VideoEncoded, VideoDecodeStarted))]
    assert [latent.dtype for latent in latents] == [mx.float32] * 3


def test_contexts_of_a_trainer_and_files_without_contexts(files: Mapping[str, Any], tmp_path: Path) -> None:
    pipeline = api.load("hdr", **files["load"])
    settings = {"input": files["clip"], "seed": 3, "latents_only": True}
    path = tmp_path / "trainer.safetensors"
    context = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    write_safetensors(path, {"video_prompt_embeds": context}, {})
    inputs, _ = prepared(pipeline, embedding=path, **settings)
    assert inputs.context is not None
    assert (inputs.context.video.shape, inputs.context.audio.shape) == ((1, 16, 64), (1, 0, 32))
    write_safetensors(path, {"text": context}, {})
    with pytest.raises(CheckpointError, match=r"video_context/video_prompt_embeds not found in it \(keys=text\)"):
        pipeline.record_for(embedding=path, **settings)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(files: Mapping[str, Any], tmp_path: Path) -> None:
    pipeline = api.load("hdr", **files["load"])
    settings = {"input": files["clip"], "embedding": files["embedding"], "seed": 3, "latents_only": True}
    expected = pipeline(**settings)
    steps: list[Event] = []

    def stop(event: Event) -> None:
        steps.extend([event] if isinstance(event, StepDone) else [])
        if len(steps) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline(observer=stop, state_folder=tmp_path / "state", **settings)
    clip = pipeline(state_folder=tmp_path / "state", resume=True, **settings)
    np.testing.assert_array_equal(clip.video_latent, expected.video_latent)


def luma(path: Path) -> tuple[Any, Array]:
    """The codec context of a master, and its Y planes (F, H, W)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        planes = [picture.planes[0] for picture in container.decode(stream)]
        codes = [np.frombuffer(p, np.uint16).reshape(p.height, -1)[:, : p.width] for p in planes]
        return stream.codec_context, np.stack(codes)


def test_the_master_and_the_frames_beside_it(tmp_path: Path, toy: api.Pipeline) -> None:
    source, space = write_clip(tmp_path / "clip.mp4", 1), HDR_SPACES["srgb_linear"]
    clip = toy(input=source, exr_colorspace="SRGB_LINEAR", **EMBEDDED)
    target = tmp_path / "master.mp4"
    clip.save(target, save_first_frame=tmp_path / "first.png", contact_sheet=tmp_path / "sheet.png")
    (codes,) = np.concatenate(list(clip.frames))
    (path,) = frames_in(exr_folder(target, space.name))
    np.testing.assert_array_equal(read_exr(path), space.of_acescct(codes).astype(np.float16))
    context, master = luma(target)
    tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
    assert tuple(map(int, tags)) == (9, 18, 9, 1)
    assert np.abs(master[0].astype(int) - yuv420_bt2020(hlg_of_acescct(codes))[0]).mean() < 2
    result = json.loads((tmp_path / "master.mp4.json").read_text())["result"]
    assert (result["exr_colorspace"], result["audio_samples"]) == (space.name, 0)


def test_odd_sides_stay_in_the_frames(tmp_path: Path, toy: api.Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_frames(tmp_path / "frames", np.full((1, 65, 67, 3), 0.5, np.float32))
    clip = toy(input=folder, input_colorspace="acescg", frame_rate=24, **EMBEDDED)
    clip.save(tmp_path / "master.mp4")
    assert read_exr(tmp_path / "master_acescg_exr" / frame_name(0)).shape == (65, 67, 3)
    assert luma(tmp_path / "master.mp4")[1].shape == (1, 64, 66)
    assert "is cut to 66x64, files of video have even sides" in caplog.text


def test_nothing_is_replaced_that_was_not_made_here(tmp_path: Path, toy: api.Pipeline) -> None:
    folder = write_frames(tmp_path / "in_acescg_exr", np.full((1, 64, 64, 3), 0.5, np.float32))
    clip = toy(input=folder, input_colorspace="acescg", frame_rate=24, **EMBEDDED)
    with pytest.raises(UsageError, match=r"lies among the inputs in .*; name another file, inputs are never replaced"):
        clip.save(tmp_path / "in.mp4")
    target = tmp_path / "out_acescg_exr"
    target.mkdir()
    (target / "grade.nk").write_text("notes")
    with pytest.raises(MediaError, match=r"holds grade\.nk, which was not written here"):
        clip.save(tmp_path / "out.mp4")
    (target / "grade.nk").rename(target / frame_name(7))
    with pytest.raises(UsageError, match="out_acescg_exr exists; give overwrite"):
        clip.save(tmp_path / "out.mp4", overwrite=False)
    clip.save(tmp_path / "out.mp4")
    assert [path.name for path in frames_in(target)] == [frame_name(0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in_acescg_exr",
        "out.mp4",
        "out.mp4.json",
        "out_acescg_exr",
    ]
    with pytest.raises(UsageError, match="the master of high dynamic range is hevc, got h264"):
        clip.save(tmp_path / "other.mp4", codec="h264")


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, toy: api.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = toy(input=write_clip(tmp_path / "clip.mp4", 1), **EMBEDDED)
    clip.save(tmp_path / "out.mp4")
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}

    def fail(codes: Array) -> Array:
        raise MediaError("no space")

    monkeypatch.setattr("ltx2rt.api.clip.hlg_of_acescct", fail)
    with pytest.raises(MediaError, match="no space"):
        clip.save(tmp_path / "out.mp4")
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before


def test_other_pipelines_make_masters_with_sound(tmp_path: Path) -> None:
    clip = api.load("distilled")("a red circle", hdr="ACESCCT", height=64, width=64, num_frames=9, seed=3)
    clip.save(tmp_path / "clip.mp4")
    codes = np.concatenate(list(clip.frames))
    for path, frame in zip(frames_in(tmp_path / "clip_acescct_exr"), codes, strict=True):
        np.testing.assert_array_equal(read_exr(path), frame.astype(np.float16))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(container.streams.audio) == 1
        assert container.streams.video[0].codec_context.color_trc == 18
        assert container.streams.video[0].average_rate == 24


def test_pictures_that_condition_high_dynamic_range_become_acescct(tmp_path: Path) -> None:
    codes = np.full((64, 64, 3), 0.6, np.float32)
    still = tmp_path / "still.exr"
    still.write_bytes(encoded_exr(ACESCG.of_acescct(codes), ACESCG))
    grey = np.full((64, 64, 3), 128, np.uint8)
    pipeline = api.load("distilled")
    settings: dict[str, Any] = {"prompt": "a dog", "height": 64, "width": 64, "num_frames": 9, "hdr": "acescg"}
    images = [api.ImageInput(still), api.ImageInput(grey, 8, crf=0)]
    inputs, _ = pipeline._prepare({**settings, "images": images}, pipeline._files)
    first, last = (image.pixels(64, 64) for image in inputs.media.images)
    np.testing.assert_allclose(first, 0.2, atol=2e-3)
    np.testing.assert_allclose(last, acescct_of_srgb(grey / np.float32(255)) * 2 - 1, atol=1e-6)
    with pytest.raises(UsageError, match=r"still\.exr: EXR input requires hdr, which says its colour space: ACESCG"):
        pipeline.record_for(**{**settings, "images": [still], "hdr": None})


def test_control_videos_of_high_dynamic_range(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).random((9, 64, 64, 3), np.float32) * 0.5 + 0.2
    folder, clip = write_frames(tmp_path / "frames", codes), write_clip(tmp_path / "clip.mp4")
    pipeline = api.load("ic-lora")
    settings: dict[str, Any] = {"prompt": "a dog", "height": 64, "width": 64, "num_frames": 9}

    def reference(**more: Any) -> Array:
        inputs, _ = pipeline._prepare({**settings, **more}, pipeline._files)
        with closing(inputs.media.references[0].frames(64, 64, range(9)).read()) as frames:
            return np.stack(list(frames))

    np.testing.assert_allclose(reference(video_conditioning=[folder], hdr="acescg"), codes * 2 - 1, atol=4e-3)
    usual, converted = reference(video_conditioning=[clip]), reference(video_conditioning=[clip], hdr="acescg")
    np.testing.assert_allclose(converted, acescct_of_srgb((usual + 1) / 2) * 2 - 1, atol=1e-5)
    edges = {"video_conditioning": [clip], "control_type": "canny"}
    np.testing.assert_array_equal(reference(**edges, hdr="acescg"), reference(**edges))
    with pytest.raises(UsageError, match="EXR frames and other clips do not mix"):
        pipeline.record_for(**settings, video_conditioning=[folder, clip], hdr="acescg")
    with pytest.raises(UsageError, match="EXR input requires hdr"):
        pipeline.record_for(**settings, video_conditioning=[folder])


def test_previews_are_pictures_for_usual_screens(tmp_path: Path, toy: api.Pipeline) -> None:
    previews: list[api.Preview] = []
    clip = toy(input=write_clip(tmp_path / "clip.mp4", 1), on_preview=previews.append, **EMBEDDED)
    (codes,) = np.concatenate(list(clip.frames))
    np.testing.assert_allclose(previews[-1].picture(), srgb_of_acescct(codes), atol=1e-3)


@pytest.mark.slow
def test_edits_of_high_dynamic_range(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).random((17, 64, 64, 3), np.float32) * 0.4 + 0.3
    folder, clip = (
        write_frames(tmp_path / "frames", codes, HDR_SPACES["acescct"]),
        write_clip(tmp_path / "clip.mp4", 17),
    )
    pipeline = api.load("retake")
    settings: dict[str, Any] = {"prompt": "a dog", "start_time": 0.4, "end_time": 0.6, "seed": 3, "hdr": "acescct"}
    edited = pipeline(video_path=folder, frame_rate=24, **settings)
    frames = np.concatenate(list(edited.frames))
    assert frames.shape == (17, 64, 64, 3)
    # What is kept is the input's own, in half floats as it was.
    np.testing.assert_array_equal(frames[0], codes[0].astype(np.float16))
    assert np.abs(frames[12] - codes[12]).max() > 0.05
    usual = pipeline._prepare({**settings, "video_path": clip}, pipeline._files)[0].media.source
    assert usual is not None
    with closing(usual.edit.pictures.read()) as own, closing(usual.frames.read()) as seen:
        picture = next(own)
        np.testing.assert_allclose(next(seen), picture * 2 - 1, atol=1e-6)
    signal = next(ClipReader(clip).frames()).astype(np.float32) / 255
    np.testing.assert_allclose(picture, acescct_of_srgb(signal), atol=1e-6)
    with pytest.raises(UsageError, match="EXR-frame folder requires frame_rate"):
        pipeline.record_for(video_path=folder, **settings)
    with pytest.raises(UsageError, match="frame_rate is only valid for an EXR-frame folder"):
        pipeline.record_for(video_path=clip, frame_rate=24, **settings)
    with pytest.raises(UsageError, match="EXR input requires hdr"):
        pipeline.record_for(video_path=folder, frame_rate=24, **{**settings, "hdr": None})

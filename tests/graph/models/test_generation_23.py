"""LTX-2.3 as a whole, at tiny size: every pipeline, detection without metadata, FP8, LoRAs, upscalers, defaults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_files import AUDIO_VAE, TRANSFORMER_23, VOCODER_23

from ltx2rt import api, embedded
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.models.transformer import model as transformer
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.defaults import defaults_for
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.generations import LTX_2_3, stated_generation
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.tensor_source import widen

CONFIG: dict[str, Any] = {
    "transformer": TRANSFORMER_23,
    "vae": {
        "_class_name": "CausalVideoAutoencoder",
        "latent_channels": 128,
        "patch_size": 4,
        "encoder_base_channels": 4,
        "decoder_base_channels": 4,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
        ],
        "timestep_conditioning": False,
        "spatial_padding_mode": "zeros",
    },
    "audio_vae": AUDIO_VAE,
    "vocoder": {
        part: {**given, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
        for part, given in VOCODER_23.items()
    },
}
UPSCALERS: dict[str, dict[str, Any]] = {
    "x2": {},
    "x1.5": {"spatial_scale": 1.5, "rational_resampler": True},
    "temporal": {"spatial_upsample": False, "temporal_upsample": True},
}
PROMPT = "a red circle moves left"


def random_tensor(spec: ParamSpec, rng: np.random.Generator) -> mx.array:
    """Neutral norms and statistics, small tables and biases, matrices scaled by their fan-in."""
    leaf = spec.name.rsplit(".", 1)[-1]
    if leaf in ("std-of-means", "mean-of-means") or (leaf == "weight" and len(spec.shape) == 1):
        values = np.full(spec.shape, 0.0 if leaf == "mean-of-means" else 1.0)
    else:
        scale = 1 / math.sqrt(math.prod(spec.shape[1:])) if leaf in ("weight", "filter") else 0.05
        values = scale * rng.standard_normal(spec.shape)
    return mx.array(values.astype(np.float32)).astype(mx.float32 if spec.dtype == "F32" else mx.bfloat16)


def model_specs() -> list[tuple[str, list[ParamSpec]]]:
    """Prefix in the single file and tensors, of every component."""
    section = CONFIG["transformer"]
    text = Checkpoint.open(embedded.TEXT_ENCODER).section("text_encoder")["text_config"]
    projection = feature_extractor.FeatureExtractorConfig.from_dict(
        section, encoder_width=text["hidden_size"], encoder_states=text["num_hidden_layers"] + 1
    )
    streams = {name: connector.ConnectorConfig.from_dict(section, name) for name in ("video", "audio")}
    return [
        ("model.diffusion_model.", transformer.param_specs(transformer.TransformerConfig.from_dict(section))),
        *(
            (f"model.diffusion_model.{name}_embeddings_connector.", connector.param_specs(config))
            for name, config in streams.items()
        ),
        ("text_embedding_projection.", feature_extractor.param_specs(projection)),
        ("vae.", video_vae.param_specs(video_vae.VideoVaeConfig.from_dict(CONFIG["vae"]))),
        ("audio_vae.", audio_vae.param_specs(audio_vae.AudioVaeConfig.from_dict(CONFIG["audio_vae"]))),
        ("vocoder.", vocoder.param_specs(vocoder.VocoderConfig.from_dict(CONFIG["vocoder"]))),
    ]


def write_lora(path: Path, rng: np.random.Generator, metadata: dict[str, str]) -> None:
    """Rank 4 on every linear weight of the blocks."""
    tensors = {}
    for spec in transformer.param_specs(transformer.TransformerConfig.from_dict(CONFIG["transformer"])):
        if spec.layout == "linear" and spec.name.startswith("transformer_blocks."):
            module = f"diffusion_model.{spec.name.removesuffix('.weight')}"
            for side, shape in (("A", (4, spec.shape[1])), ("B", (spec.shape[0], 4))):
                values = mx.array((0.1 * rng.standard_normal(shape)).astype(np.float32))
                tensors[f"{module}.lora_{side}.weight"] = values.astype(mx.bfloat16)
    write_safetensors(path, tensors, metadata)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of a tiny 2.3 by role, the embedding of a prompt, and a clip with its first frame."""
    folder = tmp_path_factory.mktemp("generation_23")
    rng = np.random.default_rng(23)
    stated = {"config": json.dumps(CONFIG), "model_version": "2.3.0"}
    tensors = {prefix + spec.name: random_tensor(spec, rng) for prefix, specs in model_specs() for spec in specs}
    paths = {"model": folder / "ltx-2.3-tiny.safetensors", "bare": folder / "bare.safetensors"}
    write_safetensors(paths["model"], tensors, stated)
    write_safetensors(paths["bare"], tensors)

    quantized: dict[str, Any] = dict(tensors)
    widened = dict(tensors)
    for name in tensors:
        if ".transformer_blocks.1." in name and name.endswith(".weight") and tensors[name].ndim == 2:
            codes = encode_e4m3(np.array(tensors[name].astype(mx.float32)) * 64)
            quantized[name] = RawTensor("F8_E4M3", codes)
            quantized[f"{name}_scale"] = mx.array(1 / 64)
            widened[name] = mx.array(widen(codes, "F8_E4M3") / 64)
    paths |= {"fp8": folder / "fp8.safetensors", "widened": folder / "widened.safetensors"}
    write_safetensors(paths["fp8"], quantized, stated)
    write_safetensors(paths["widened"], widened, stated)

    for name, own in UPSCALERS.items():
        section = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, **own}
        section = {"spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0, **section}
        specs = upscaler.param_specs(upscaler.LatentUpscalerConfig.from_dict(section))
        paths[name] = folder / f"{name}.safetensors"
        write_safetensors(paths[name], {s.name: random_tensor(s, rng) for s in specs}, {"config": json.dumps(section)})
    paths["distilled_lora"], paths["ic_lora"] = folder / "distilled_lora.safetensors", folder / "ic_lora.safetensors"
    write_lora(paths["distilled_lora"], rng, {})
    write_lora(paths["ic_lora"], rng, {"reference_downscale_factor": "2", "model_version": "2.3.0"})

    paths["embedding"] = folder / "embedding.safetensors"
    encoding = {"checkpoint": paths["model"], "text_encoder": embedded.TEXT_ENCODER, "dtype": "float32"}
    api.encode(PROMPT, **encoding, output=paths["embedding"])
    paths |= {"clip": folder / "clip.mp4", "picture": folder / "picture.png"}
    clip = load(paths, "one-stage")(**SIZE, embedding=paths["embedding"], num_inference_steps=1, seed=1)
    clip.save(paths["clip"], save_first_frame=paths["picture"])
    return paths


SIZE = {"height": 64, "width": 64, "num_frames": 9, "frame_rate": 24.0}


def load(files: dict[str, Path], pipeline: str, checkpoint: str = "model", **options: Any) -> api.Pipeline:
    return api.load(
        pipeline,
        checkpoint=files[checkpoint],
        text_encoder=embedded.TEXT_ENCODER,
        dtype="float32",
        model_variant=PIPELINES[pipeline].variant or "dev",
        **options,
    )


def options_of(pipeline: str, files: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `load` and what the call need beside the prompt."""
    entry = PIPELINES[pipeline]
    loading: dict[str, Any] = {"spatial_upscaler": files["x2"]} if entry.two_stage else {}
    call: dict[str, Any] = {
        "seed": 7,
        "embedding": files["embedding"],
        **({"num_inference_steps": 2} if entry.is_guided else {}),
    }
    if entry.two_stage and entry.is_guided:
        loading["distilled_lora"] = files["distilled_lora"]
    if pipeline == "ic-lora":
        # Its references have half the size, and the first stage half of that.
        loading["loras"] = [(files["ic_lora"], 1.0)]
        call |= {"video_conditioning": [api.VideoInput(files["clip"])], **SIZE, "height": 128, "width": 128}
    if pipeline in ("alpha-gen", "dub-it"):
        loading["loras"] = [(files["ic_lora"], 1.0)]
        call |= {"height": 128, "width": 128}
    if pipeline == "alpha-gen":
        call["video_conditioning"] = [api.VideoInput(files["clip"])]
    if pipeline == "hdr":
        loading["loras"] = [(files["ic_lora"], 1.0)]
        return loading, call | {"input": files["clip"], "seam_keyframes": False}
    if pipeline == "dub-it":
        return loading, call | {"reference_video": files["clip"]}
    if pipeline == "keyframe-interpolation":
        call["images"] = [api.ImageInput(files["picture"]), api.ImageInput(files["picture"], 8, 0.9)]
    if pipeline == "audio-to-video":
        call["audio_path"] = files["clip"]
    if pipeline in ("retake", "extend"):
        call["video_path"] = files["clip"]
        return loading, call | ({"start_time": 0.1, "end_time": 0.3} if pipeline == "retake" else {"extend_frames": 8})
    if pipeline == "text-to-audio":
        return loading, call | {"num_frames": 9, "frame_rate": 24.0}
    return loading, SIZE | call


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [name for name in PIPELINES if name != "dfr"])  # which needs LTX-2.5
def test_every_pipeline_makes_a_clip(pipeline: str, files: dict[str, Path]) -> None:
    loading, call = options_of(pipeline, files)
    clip = load(files, pipeline, **loading)(**call)
    if pipeline != "text-to-audio":
        frames = np.concatenate(list(clip.frames))
        side = 128 if pipeline in ("ic-lora", "dub-it", "alpha-gen") else 64
        assert frames.shape == (17 if pipeline == "extend" else 9, side, side, 3)
        assert frames.std() > 0.01
    if PIPELINES[pipeline].silent:
        assert clip.audio is None
        return
    assert clip.audio is not None
    assert np.isfinite(clip.audio).all()
    assert np.abs(clip.audio).max() > 1e-4
    if pipeline != "audio-to-video":
        assert clip.sample_rate == 48000


def latents(pipeline: api.Pipeline, files: dict[str, Path], **call: Any) -> np.ndarray:
    """The final video and audio latent of a short run, as one vector."""
    clip = pipeline(**{**SIZE, "embedding": files["embedding"], "seed": 5, "latents_only": True, **call})
    assert clip.video_latent is not None
    assert clip.audio_latent is not None
    return np.concatenate([np.array(clip.video_latent).ravel(), np.array(clip.audio_latent).ravel()])


@pytest.mark.slow
def test_a_file_without_metadata_is_recognised(files: dict[str, Path]) -> None:
    bare, stated = Checkpoint.open(files["bare"]), Checkpoint.open(files["model"])
    assert not bare.metadata
    assert bare.generation == stated.generation == LTX_2_3
    pipelines = [load(files, "one-stage", name) for name in ("model", "bare")]
    assert pipelines[0].defaults == pipelines[1].defaults
    assert pipelines[0].defaults.num_inference_steps == 30
    # Block 28 of 48, at the same relative depth of two.
    assert pipelines[0].defaults.video_guider.stg_blocks == (1,)
    clips = [pipeline(PROMPT, **SIZE, seed=5, num_inference_steps=1) for pipeline in pipelines]
    assert np.array_equal(*(clip.video_latent for clip in clips))
    assert np.array_equal(*(np.concatenate(list(clip.frames)) for clip in clips))
    assert np.array_equal(*(clip.audio for clip in clips))


@pytest.mark.slow
def test_fp8_weights_are_their_codes_times_the_scale(files: dict[str, Path]) -> None:
    short = {"num_inference_steps": 2}
    quantized, widened, plain = (
        latents(load(files, "one-stage", name), files, **short) for name in ("fp8", "widened", "model")
    )
    np.testing.assert_allclose(quantized, widened, rtol=1e-4, atol=1e-4)
    assert np.abs(widened - plain).max() > 1e-3


@pytest.mark.slow
def test_fp8_weights_take_loras(files: dict[str, Path]) -> None:
    none, zero, full = (
        latents(load(files, "one-stage", "fp8", loras=loras), files, num_inference_steps=2)
        for loras in ([], [(files["distilled_lora"], 0.0)], [(files["distilled_lora"], 1.0)])
    )
    assert np.array_equal(none, zero)
    assert np.abs(full - zero).max() > 1e-3


def test_the_control_video_steers_the_clip(files: dict[str, Path]) -> None:
    loading, call = options_of("ic-lora", files)
    pipeline = load(files, "ic-lora", **loading)
    call["skip_stage_2"] = True
    weak = [api.VideoInput(files["clip"], strength=0.5)]
    full, half = (
        latents(pipeline, files, **{**call, "video_conditioning": v}) for v in (call["video_conditioning"], weak)
    )
    assert np.abs(full - half).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "role", "setting", "size"),
    [
        pytest.param("x2", "spatial_upscaler", "upscale_spatial", (9, 128, 128), marks=pytest.mark.slow),
        ("x1.5", "spatial_upscaler", "upscale_spatial", (9, 96, 96)),
        ("temporal", "temporal_upscaler", "upscale_temporal", (17, 64, 64)),
    ],
)
def test_upscalers_enlarge_the_clip(
    name: str, role: str, setting: str, size: tuple[int, int, int], files: dict[str, Path]
) -> None:
    pipeline = load(files, "one-stage", **{role: files[name]})
    clip = pipeline(**SIZE, embedding=files["embedding"], seed=5, num_inference_steps=1, **{setting: True})
    assert np.concatenate(list(clip.frames)).shape == (*size, 3)
    assert (clip.num_frames, clip.height, clip.width) == size


@pytest.mark.parametrize(
    ("version", "steps", "stg_blocks", "crf"),
    [("2.0", 40, (29,), 33), ("2.3", 30, (28,), 33), ("2.3.0", 30, (28,), 33), ("2.4", 30, (28,), 18)],
)
def test_defaults_follow_the_model_version(version: str, steps: int, stg_blocks: tuple[int, ...], crf: int) -> None:
    generation = stated_generation({"model_version": version})
    assert generation is not None
    defaults = defaults_for(generation)
    assert defaults.num_inference_steps == steps
    assert defaults.video_guider.stg_blocks == defaults.audio_guider.stg_blocks == stg_blocks
    assert defaults.image_crf == crf

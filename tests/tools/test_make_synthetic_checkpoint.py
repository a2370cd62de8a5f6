"""Synthetic checkpoints: readable as published files, order-one activations, FP8, no traces of a failed write."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor, gemma, gemma3, gemma4
from ltx2rt.graph.models.transformer import model as transformer
from ltx2rt.graph.models.transformer.model import Modality
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2
from ltx2rt.weights.safetensors import SafetensorsFile
from ltx2rt.weights.tokenizer import GemmaTokenizer

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool("make_synthetic_checkpoint")

VAE: dict[str, Any] = {
    "latent_channels": 128,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "timestep_conditioning": False,
    "encoder_blocks": [["res_x", 2], ["compress_space_res", {}], ["res_x", 1], ["compress_time_res", {}]],
    "decoder_blocks": [["res_x", 2], ["compress_all", {"residual": True, "multiplier": 2}], ["res_x", 2]],
}


def transformer_section(layers: int, **more: Any) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": 8,
        "in_channels": 128,
        "out_channels": 128,
        "audio_out_channels": 128,
        "cross_attention_dim": 64,
        "audio_cross_attention_dim": 32,
        "caption_channels": 64,
        "norm_eps": 1e-6,
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "audio_positional_embedding_max_pos": [20],
        "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0,
        "rope_type": "split",
        "frequencies_precision": "float64",
        "connector_num_layers": 2,
        "connector_num_attention_heads": 2,
        "connector_attention_head_dim": 32,
        "connector_num_learnable_registers": 128,
        "connector_positional_embedding_max_pos": [4096],
        **more,
    }


GATED = {"apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True}


# Rotated weights have groups of 256 inputs.
WIDE = {
    "attention_head_dim": 64,
    "audio_attention_head_dim": 64,
    "cross_attention_dim": 256,
    "audio_cross_attention_dim": 256,
}


def manifest(folder: Path, layers: int, **more: Any) -> Path:
    """A manifest of a narrow model in the layout of the published single files; a gated one without its text path."""
    section = transformer_section(layers, **more)
    parts = {
        "model.diffusion_model.": transformer.param_specs(transformer.TransformerConfig.from_dict(section)),
        "vae.": video_vae.param_specs(video_vae.VideoVaeConfig.from_dict(VAE)),
    }
    if not more:
        video, audio = (connector.ConnectorConfig.from_dict(section, stream) for stream in ("video", "audio"))
        projection = feature_extractor.FeatureExtractorConfig.from_dict(section, encoder_width=64, encoder_states=49)
        parts |= {
            "model.diffusion_model.video_embeddings_connector.": connector.param_specs(video),
            "model.diffusion_model.audio_embeddings_connector.": connector.param_specs(audio),
            "text_embedding_projection.": feature_extractor.param_specs(projection),
        }
    tensors = {prefix + spec.name: [spec.dtype, spec.shape] for prefix, specs in parts.items() for spec in specs}
    metadata = {"config": {"transformer": section, "vae": VAE}, "_quantization_metadata": "present or absent"}
    path = folder / "tiny-distilled.json"
    path.write_text(json.dumps({"tensors": tensors, "metadata": metadata}))
    return path


def rms(x: mx.array) -> float:
    return float(mx.sqrt(mx.mean(mx.square(x.astype(mx.float32)))).item())


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def modality(tokens: int, width: int, axes: int) -> Modality:
    positions = np.stack([np.arange(tokens), np.arange(tokens) + 1], -1)[None, None].repeat(axes, axis=1)
    return Modality(
        latent=normal(1, tokens, 128),
        sigma=np.array([0.7], np.float32),
        timesteps=np.full((1, tokens), 0.7, np.float32),
        positions=positions.astype(np.float32),
        context=normal(1, 8, width),
    )


@pytest.mark.parametrize(
    ("more", "blocks"),
    [
        pytest.param({}, 48, id="19b", marks=pytest.mark.slow),
        pytest.param(GATED, 48, id="2.3", marks=pytest.mark.slow),
        pytest.param(GATED, 16, id="2.3, the first blocks"),
    ],
)
def test_activations_stay_of_order_one_through_all_blocks(tmp_path: Path, more: dict[str, Any], blocks: int) -> None:
    path = tmp_path / "out-distilled.safetensors"
    assert tool.main([str(manifest(tmp_path, blocks, **more)), str(path), "--fp8"]) == 0
    checkpoint = Checkpoint.open(path)
    config = transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    assert config.num_layers == blocks
    params = Params(checkpoint.load("transformer", transformer.param_specs(config)))
    model = transformer.Transformer(config, params, mx.bfloat16)
    inputs = modality(12, 64, 3), modality(5, 32 if more else 64, 1)
    states = [[np.array(stream.x.astype(mx.float32)) for stream in streams] for streams in model.states(*inputs)]
    assert len(states) == blocks + 1
    sizes = [[np.sqrt(np.square(x).mean()) for x in streams] for streams in states]
    assert np.min(sizes) > 0.3
    assert np.max(sizes) < 3.0
    # Each block does more than rounding would.
    steps = [abs(after - before).mean() for a, b in pairwise(states) for before, after in zip(a, b, strict=True)]
    assert min(steps) > 0.01
    for velocity in model(*inputs):
        assert velocity is not None
        assert 0.3 < rms(velocity) < 3.0


def test_the_file_is_what_the_manifest_says(tmp_path: Path) -> None:
    source, path = manifest(tmp_path, 8), tmp_path / "out-distilled.safetensors"
    assert tool.main([str(source), str(path)]) == 0
    file = SafetensorsFile(path)
    listed = json.loads(source.read_text())["tensors"]
    assert {name: [info.dtype, list(info.shape)] for name, info in file.tensors.items()} == {
        name: [dtype, list(shape)] for name, (dtype, shape) in listed.items()
    }
    assert "_quantization_metadata" not in file.metadata
    assert "not a trained model" in file.metadata["ltx2rt_note"]
    checkpoint = Checkpoint.open(path)
    assert (checkpoint.generation, checkpoint.variant, checkpoint.unknown) == (LTX_2, "distilled", [])
    # Matrices by their inputs, residual outputs smaller, norms one, tables around zero.
    block = "model.diffusion_model.transformer_blocks.1."
    for name, expected in {"attn1.to_q": 64**-0.5, "ff.net.2": 256**-0.5 / 2, "attn1.to_out.0": 64**-0.5 / 2}.items():
        values = file.numpy(f"{block}{name}.weight")
        assert values.std() == pytest.approx(expected, rel=0.05)
        assert abs(values.mean()) < 0.1 * expected
    assert (file.numpy(f"{block}attn1.q_norm.weight") == 1.0).all()
    assert 0.01 < abs(file.numpy(f"{block}scale_shift_table")).mean() < 0.03
    assert (file.numpy("vae.per_channel_statistics.std-of-means") == 1.0).all()
    assert not np.array_equal(file.numpy(f"{block}attn1.to_q.weight"), file.numpy(f"{block}attn1.to_k.weight"))


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    source = manifest(tmp_path, 1)
    for name in ("first.safetensors", "second.safetensors"):
        tool.write_from_manifest(source, tmp_path / name)
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()


def test_fp8_keeps_the_outer_blocks_and_the_size_of_the_values(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    tool.write_from_manifest(manifest(tmp_path, 8, **GATED), path, eight_bits="fp8")
    checkpoint = Checkpoint.open(path)
    dtypes = {
        int(name.split(".")[1]): info.dtype
        for name, info in checkpoint.names("transformer").items()
        if name.endswith("attn1.to_gate_logits.weight") and ".audio_" not in name
    }
    assert dtypes == {0: "BF16", 1: "F8_E4M3", 2: "F8_E4M3", **dict.fromkeys(range(3, 8), "BF16")}
    config = transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    weights = checkpoint.load("transformer", transformer.param_specs(config))
    eight, whole = (weights[f"transformer_blocks.{block}.ff.net.0.proj.weight"] for block in (1, 3))
    assert (eight.mode, whole.mode) == ("e4m3", "dense")
    assert rms(dequantise(eight)) == pytest.approx(64**-0.5, rel=0.05)
    assert rms(dequantise(whole)) == pytest.approx(64**-0.5, rel=0.05)
    assert not (np.array(eight.values) % 128 == 127).any()  # the codes of NaN
    # A file whose manifest is in FP8 is made as it is.
    again = {name: [info.dtype, info.shape] for name, info in SafetensorsFile(path).tensors.items()}
    (tmp_path / "fp8.json").write_text(json.dumps({"tensors": again}))
    tool.write_from_manifest(tmp_path / "fp8.json", tmp_path / "again.safetensors", eight_bits="fp8")
    assert SafetensorsFile(tmp_path / "again.safetensors").tensors.keys() == again.keys()


def test_int8_is_rotated_in_every_linear_layer_as_in_the_files_of_25(tmp_path: Path) -> None:
    source, path = manifest(tmp_path, 2, **GATED, ff_bias=False, **WIDE), tmp_path / "out-distilled.safetensors"
    assert tool.main([str(source), str(path), "--int8"]) == 0
    checkpoint = Checkpoint.open(path)
    config = transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    assert checkpoint.problems("transformer", transformer.param_specs(config)) == ([], [])
    weights = checkpoint.load("transformer", transformer.param_specs(config))
    eight = [name for name, weight in weights.items() if isinstance(weight, LinearWeight) and weight.mode == "int8"]
    # Six attentions of four products and two feed-forwards of two: 28 in each block, no gates.
    assert len(eight) == 2 * 28
    assert not any("gate_logits" in name for name in eight)
    weight = weights["transformer_blocks.1.ff.net.0.proj.weight"]
    assert weight.rotation == 256
    assert rms(dequantise(weight)) == pytest.approx(256**-0.5, rel=0.05)
    model = transformer.Transformer(config, Params(weights), mx.bfloat16)
    for velocity in model(modality(12, 256, 3), modality(5, 256, 1)):
        assert velocity is not None
        assert 0.3 < rms(velocity) < 3.0


def test_fewer_layers_and_their_configuration(tmp_path: Path) -> None:
    source, path = manifest(tmp_path, 3), tmp_path / "out.safetensors"
    tool.write_from_manifest(source, path, layers=2, encoder_layers=4)
    checkpoint = Checkpoint.open(path)
    config = transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    assert config.num_layers == 2
    assert checkpoint.problems("transformer", transformer.param_specs(config)) == ([], [])
    assert checkpoint.names("video_connector")  # its blocks are not those of the transformer
    assert checkpoint.names("text_projection")["aggregate_embed.weight"].shape[1] == 5 * 3840


def test_decoded_frames_are_not_flat(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    tool.write_from_manifest(manifest(tmp_path, 1), path)
    checkpoint = Checkpoint.open(path)
    config = video_vae.VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    specs = video_vae.decoder_specs(config) + video_vae.statistics_specs(config.latent_channels)
    decoder = VideoDecoder(config, Params(checkpoint.load("video_vae", specs)))
    frames = decoder(normal(1, 2, 4, 4, 128))
    assert 0.2 < rms(frames) < 3.0


def test_gemma_has_the_published_tensors() -> None:
    tensors = tool.gemma_tensors(tool.GEMMA_CONFIG)
    config = gemma3.Gemma3Config.from_dict(tool.GEMMA_CONFIG)
    expected = {f"language_model.model.{spec.name}": spec.shape for spec in gemma.param_specs(config)}
    assert {name: shape for name, (_, shape) in tensors.items()} == expected
    assert sum(math.prod(shape) for _, shape in tensors.values()) == pytest.approx(11.77e9, rel=1e-3)


@pytest.fixture
def small_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": 32, "query_pre_attn_scalar": 32, "vocab_size": 2000}
    text = tool.GEMMA_CONFIG["text_config"] | small
    monkeypatch.setattr(tool, "GEMMA_CONFIG", tool.GEMMA_CONFIG | {"text_config": text})


@pytest.mark.usefixtures("small_gemma")
def test_gemma_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gemma"
    assert tool.main([tool.GEMMA, str(folder), "--layers", "24"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    checkpoint = Checkpoint.open(folder)
    config = gemma3.Gemma3Config.from_dict(checkpoint.section("text_encoder"))
    assert config.num_layers == 24
    model = gemma.Gemma(config, Params(checkpoint.load("text_encoder", gemma.param_specs(config))))
    ids = GemmaTokenizer.from_path(folder).encode("a red circle moves left")
    assert all(0.3 < rms(state) < 3.0 for state in model.hidden_states(ids))


def gemma_4_manifest(folder: Path, layers: int) -> Path:
    """A text encoder file of LTX-2.5 with its projection, narrow."""
    text = {
        "model_type": "gemma4_unified_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_global_key_value_heads": 1,
        "head_dim": 32,
        "global_head_dim": 64,
        "attention_k_eq_v": True,
        "num_hidden_layers": layers,
        "layer_types": ["full_attention" if n % 3 == 2 else "sliding_attention" for n in range(layers)],
        "vocab_size": 2000,
    }
    config = {"model_type": "gemma4_unified", "gemma_version": "gemma4-12b-ltx-v1", "text_config": text}
    specs = gemma.param_specs(gemma4.Gemma4Config.from_dict(config))
    tensors = {f"model.{spec.name}": ["BF16", list(spec.shape)] for spec in specs}
    tensors["text_embedding_projection.video_aggregate_embed.weight"] = ["BF16", [48, 64 * (layers + 1)]]
    path = folder / "gemma4.json"
    path.write_text(json.dumps({"tensors": tensors, "metadata": {"gemma_config": config}}))
    return path


@pytest.mark.parametrize("published", ["ltx-2.5-video-vae", "ltx-2.5-duration-head"])
def test_parts_that_are_neither_weights_nor_norms(published: str) -> None:
    """Embeddings and packed biases lie around zero, what is added to a residual stream is small."""
    names = {
        "ltx-2.5-video-vae": {"decoder.type_emb": (128,), "decoder.diff_blocks.0.context_proj.bias": (256,)},
        "ltx-2.5-duration-head": {
            "duration_head.video_modality_emb": (256,),
            "duration_head.attention_pooler.cross_attn.in_proj_bias": (768,),
        },
    }
    for name, shape in names[published].items():
        assert tool.values_of(name, shape, 0) == tool.Values(0.0, 0.02)
    assert tool.values_of("decoder.diff_blocks.0.attn.proj.weight", (256, 256), 0).std < 256**-0.5


def test_text_encoder_of_25(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, path = gemma_4_manifest(tmp_path, 12), tmp_path / "gemma4.safetensors"
    assert tool.main([str(source), str(path), "--layers", "6"]) == 0
    checkpoint = Checkpoint.open(path)
    config = gemma4.Gemma4Config.from_dict(checkpoint.section("text_encoder"))
    assert config.global_layers == (False, False, True) * 2
    assert checkpoint.problems("text_encoder", gemma.param_specs(config)) == ([], [])
    assert checkpoint.names("text_projection")["video_aggregate_embed.weight"].shape == (48, 64 * 7)
    model = gemma.Gemma(config, Params(checkpoint.load("text_encoder", gemma.param_specs(config))))
    ids = GemmaTokenizer.of(checkpoint).encode("a red circle moves left")
    assert all(0.3 < rms(state) < 3.0 for state in model.hidden_states(ids))
    assert tool.main([str(source), str(path), "--layers", "4"]) == 2
    assert "--layers must be one of 3, 6, 9, 12 for this text encoder, got 4" in capsys.readouterr().err


def test_memory_does_not_depend_on_the_size(tmp_path: Path) -> None:
    tensors = {f"matrix{n}.weight": ("BF16", (4096, 4096)) for n in range(4)}
    tracemalloc.start()
    try:
        size = tool.write_file(tmp_path / "large.safetensors", tensors, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 134e6
    assert peak < 32e6
    # Rows that lie a block apart still differ.
    rows = SafetensorsFile(tmp_path / "large.safetensors").numpy("matrix1.weight")
    assert len(np.unique(rows[:, :4], axis=0)) == 4096


def test_refuses_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = manifest(tmp_path, 1)
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(1.5e6)))
    assert tool.main([str(source), str(tmp_path / "out.safetensors")]) == 1
    assert "out.safetensors needs 0.00 GB, but only 0.00 GB are free" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [(KeyboardInterrupt(), 130, "stopped"), (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left")],
)
@pytest.mark.usefixtures("small_gemma")
def test_a_failed_write_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: BaseException,
    code: int,
    message: str,
) -> None:
    source = manifest(tmp_path, 1)

    def fail_later(file: Any, data: bytes) -> None:
        if file.tell() > 0:
            raise failure
        file.write(data)

    monkeypatch.setattr(tool, "write_all", fail_later)
    assert tool.main([str(source), str(tmp_path / "out.safetensors")]) == code
    assert message in capsys.readouterr().err
    assert tool.main([tool.GEMMA, str(tmp_path / "gemma"), "--layers", "1"]) == code
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "3"], "--layers must be 1 to 2, got 3"),
        (["--layers", "0"], "--layers must be 1 to 2, got 0"),
        (["--fp8"], "--fp8 has no effect on this manifest"),
    ],
)
def test_refuses_options_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert tool.main([str(manifest(tmp_path, 2)), str(tmp_path / "out.safetensors"), *words]) == 2
    assert message in capsys.readouterr().err


def test_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "other.json"
    source.write_text("{}")
    assert tool.main([str(source), str(tmp_path / "out.safetensors")]) == 2
    assert "is no tensor manifest" in capsys.readouterr().err
    source.write_text(json.dumps({"tensors": {"tokenizer_json": ["U8", [100]]}}))
    assert tool.main([str(source), str(tmp_path / "out.safetensors")]) == 2
    assert "tensor tokenizer_json is U8" in capsys.readouterr().err
    source.write_text(json.dumps({"tensors": {"a.weight": ["F32", [4]]}}))
    assert tool.main([str(source), str(tmp_path / "missing" / "out.safetensors")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert tool.main([tool.GEMMA, str(tmp_path / "gemma"), "--fp8"]) == 2
    assert "do not apply to gemma-3-12b" in capsys.readouterr().err
    assert tool.main([tool.GEMMA, str(tmp_path / "gemma"), "--layers", "49"]) == 2
    assert "--layers must be 1 to 48, got 49" in capsys.readouterr().err

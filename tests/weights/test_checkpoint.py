"""Opening every kind of weight file, and loading tensors in the form the kernels take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_files import CONFIG_19B, CONFIG_23, model_specs, tensors_of, write_model

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2, LTX_2_3, LTX_2_5
from ltx2rt.weights.names import locate
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.tensor_source import widen

LINEAR = ParamSpec("transformer_blocks.0.attn1.to_q.weight", (8, 64), layout="linear")
PREFIX = "model.diffusion_model.transformer_blocks.0.attn1.to_q"
W = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)


def save(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    write_safetensors(path, tensors, metadata)
    return path


def load_linear(path: Path) -> LinearWeight:
    weight = Checkpoint.open(path).load("transformer", [LINEAR])[LINEAR.name]
    assert isinstance(weight, LinearWeight)
    return weight


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.diffusion_model.patchify_proj.weight", ("transformer", "patchify_proj.weight")),
        ("model.diffusion_model.video_embeddings_connector.x", ("video_connector", "x")),
        ("model.diffusion_model.embeddings_connector.x", ("video_connector", "x")),
        ("model.diffusion_model.audio_embeddings_connector.x", ("audio_connector", "x")),
        ("text_embedding_projection.aggregate_embed.weight", ("text_projection", "aggregate_embed.weight")),
        ("vae.encoder.x", ("video_vae", "encoder.x")),
        ("audio_vae.decoder.x", ("audio_vae", "decoder.x")),
        ("vocoder.conv_pre.weight", ("vocoder", "conv_pre.weight")),
        ("vocoder.vocoder.conv_pre.weight", ("vocoder", "vocoder.conv_pre.weight")),
        ("vocoder.bwe_generator.x", ("vocoder", "bwe_generator.x")),
        ("upsampler.0.weight", ("upscaler", "upsampler.0.weight")),
        ("language_model.model.norm.weight", ("text_encoder", "norm.weight")),
        ("model.language_model.layers.3.x", ("text_encoder", "layers.3.x")),
        ("model.layers.3.x", ("text_encoder", "layers.3.x")),
        ("model.embed_tokens.weight", ("text_encoder", "embed_tokens.weight")),
        ("vision_tower.x", ("ignored", "vision_tower.x")),
        ("something.else", None),
    ],
)
def test_names(name: str, place: tuple[str, str] | None) -> None:
    assert locate(name) == place


def test_a_single_file(tmp_path: Path) -> None:
    specs = model_specs(CONFIG_19B)
    checkpoint = Checkpoint.open(write_model(tmp_path / "ltx-2-19b-distilled.safetensors", specs, CONFIG_19B))
    assert checkpoint.components == {
        "transformer",
        "video_connector",
        "audio_connector",
        "text_projection",
        "video_vae",
        "audio_vae",
        "vocoder",
    }
    assert (checkpoint.generation, checkpoint.variant) == (LTX_2, "distilled")
    assert checkpoint.names("vocoder")["conv_pre.weight"].shape == (64, 128, 7)
    assert checkpoint.names("duration_head") == {}
    assert checkpoint.section("video_connector")["connector_num_layers"] == 1
    with pytest.raises(CheckpointError, match=r"has no upscaler; it holds audio_connector, .* Give the file"):
        checkpoint.section("upscaler")


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_transformer_that_lost_its_prefix(tmp_path: Path, prefix: str) -> None:
    specs = {n: s for n, s in model_specs(CONFIG_19B).items() if n.startswith("model.diffusion_model.")}
    bare = {prefix + name.removeprefix("model.diffusion_model."): value for name, value in tensors_of(specs).items()}
    checkpoint = Checkpoint.open(save(tmp_path / "a.safetensors", bare))
    assert checkpoint.components == {"transformer", "video_connector", "audio_connector"}
    assert checkpoint.unknown == []


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("ltx-2-19b-dev.safetensors", "dev"),
        ("ltx-2.3-22b-distilled-1.1.safetensors", "distilled"),
        ("device.safetensors", None),
    ],
)
def test_variant(tmp_path: Path, name: str, variant: str | None) -> None:
    assert Checkpoint.open(save(tmp_path / name, {f"{PREFIX}.weight": W})).variant == variant


def test_same_local_name_twice(tmp_path: Path) -> None:
    kernel = np.zeros((2, 3, 1, 1, 1), np.float32)
    name = "encoder.conv_in.conv.weight"
    statistics = {"vae.per_channel_statistics.mean-of-means": kernel}
    path = save(tmp_path / "a.safetensors", {f"vae.{name}": kernel, name: kernel, **statistics})
    with pytest.raises(CheckpointError, match=rf"'vae.{name}' and '{name}' are both '{name}' of the video_vae"):
        Checkpoint.open(path)


def test_dense_weights_and_layouts(tmp_path: Path) -> None:
    conv = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    transposed = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    path = save(
        tmp_path / "a.safetensors",
        {
            f"{PREFIX}.weight": mx.array(W).astype(mx.bfloat16),
            "model.diffusion_model.table": W,
            "model.diffusion_model.conv": mx.array(conv).astype(mx.bfloat16),
            "model.diffusion_model.up": transposed,
            "model.diffusion_model.wide": W.astype(np.float64),
        },
    )
    specs = [
        LINEAR,
        ParamSpec("table", (8, 64)),
        ParamSpec("conv", (2, 3, 4, 5), layout="conv"),
        ParamSpec("up", (2, 3, 4), layout="conv_transpose1d"),
        ParamSpec("wide", (8, 64), layout="linear"),
        ParamSpec("absent", (1,), optional=True),
    ]
    loaded = Checkpoint.open(path).load("transformer", specs)
    assert set(loaded) == {spec.name for spec in specs} - {"absent"}
    assert isinstance(loaded[LINEAR.name], LinearWeight)
    assert loaded[LINEAR.name].values.dtype == mx.bfloat16
    assert loaded["table"].dtype == mx.float32  # the dtype of the file stays, whatever the spec says is published
    np.testing.assert_array_equal(np.array(loaded["table"]), W)
    assert loaded["conv"].dtype == mx.bfloat16
    np.testing.assert_array_equal(np.array(loaded["conv"].astype(mx.float32)), conv.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(np.array(loaded["up"]), transposed.transpose(1, 2, 0))
    assert loaded["wide"].values.dtype == mx.float32


@pytest.mark.parametrize(
    ("companions", "scale"),
    [
        ({"weight_scale": np.float32(0.25), "input_scale": np.float32(7)}, 0.25),
        ({"scale_weight": np.array([0.5], np.float32), "scale_input": np.float32(7)}, 0.5),
        ({"comfy_quant": np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)}, 1.0),
        ({}, 1.0),
    ],
    ids=["official", "comfy", "comfy_quant", "no scale"],
)
def test_fp8(tmp_path: Path, companions: dict[str, Any], scale: float) -> None:
    codes = np.arange(512).reshape(8, 64).astype(np.uint8)
    codes[codes & 0x7F == 0x7F] = 0  # every code but the NaN ones, which are refused
    tensors = {f"{PREFIX}.weight": RawTensor("F8_E4M3", codes)}
    if scale != 1:
        tensors["scaled_fp8"] = np.zeros(0, np.float32)
    tensors |= {f"{PREFIX}.{key}": np.asarray(value) for key, value in companions.items()}
    weight = load_linear(save(tmp_path / "a.safetensors", tensors))
    assert weight.mode == "e4m3"
    assert weight.scale.shape == ()
    np.testing.assert_array_equal(np.array(weight.values), codes)
    np.testing.assert_array_equal(np.array(dequantise(weight)), widen(codes, "F8_E4M3") * np.float32(scale))


def test_fp8_where_no_kernel_takes_it(tmp_path: Path) -> None:
    codes = np.array([0x38, 0x40], np.uint8)
    tensors = {f"{PREFIX}.bias": RawTensor("F8_E4M3", codes), f"{PREFIX}.bias_scale": np.array(2, np.float32)}
    path = save(tmp_path / "a.safetensors", tensors)
    spec = ParamSpec("transformer_blocks.0.attn1.to_q.bias", (2,))
    bias = Checkpoint.open(path).load("transformer", [spec])[spec.name]
    assert bias.dtype == mx.bfloat16
    assert bias.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (8, 64)])
def test_affine(tmp_path: Path, bits: int, group: int) -> None:
    packed, scales, biases = mx.quantize(mx.array(W), group_size=group, bits=bits)
    tensors = {f"{PREFIX}.weight": packed, f"{PREFIX}.scales": scales, f"{PREFIX}.biases": biases}
    path = save(tmp_path / "a.safetensors", tensors)
    weight = load_linear(path)
    assert (weight.mode, weight.bits, weight.group_size) == ("affine", bits, group)
    assert (weight.out_features, weight.in_features) == (8, 64)
    expected = mx.dequantize(packed, scales, biases, group_size=group, bits=bits)
    np.testing.assert_array_equal(np.array(dequantise(weight)), np.array(expected))
    plain = Checkpoint.open(path).load("transformer", [ParamSpec(LINEAR.name, (8, 64))])[LINEAR.name]
    assert mx.array_equal(plain, expected.astype(mx.bfloat16))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": W.astype(np.int32)}, "I32 without the scales of a known format cannot be used as a weight"),
        (
            {"weight": RawTensor("F8_E4M3", W.astype(np.uint8)), "weight_scale": np.ones((8, 2), np.float32)},
            r"weight_scale has shape \[8, 2\]; expected one value, \[8\] or \[8, 1\]",
        ),
        (
            {"weight": RawTensor("F8_E4M3", W.astype(np.uint8)), "weight_scale": np.array(np.nan, np.float32)},
            "weight_scale': 1 of 1 values are not finite numbers; the file is damaged",
        ),
        ({"weight": np.zeros((8, 8), np.uint32), "scales": W[:, :2]}, "has '.scales' but no '.biases'"),
        (
            {"weight": np.zeros((8, 8), np.uint32), "scales": W[:, :2], "biases": W[:, :1]},
            r"packed \[8, 8\] with scales F32 \[8, 2\] and biases F32 \[8, 1\] is no MLX form",
        ),
        (
            {"weight": np.zeros((8, 7), np.uint32), "scales": W[:, :2], "biases": W[:, :2]},
            "is no MLX form of 2 to 8 bits in groups of 32, 64 or 128",
        ),
    ],
)
def test_weights_no_kernel_takes(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.safetensors", {f"{PREFIX}.{key}": value for key, value in tensors.items()})
    with pytest.raises(CheckpointError, match=message):
        load_linear(path)


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save(tmp_path / "a.safetensors", {f"{PREFIX}.weight": W}))
    specs = [ParamSpec(f"absent{i}", (1,)) for i in range(12)] + [ParamSpec(LINEAR.name, (64, 8))]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load("transformer", specs)
    text = str(caught.value)
    assert "12 tensors missing: absent0," in text
    assert "absent9 and 2 more" in text
    assert f"1 tensors of the wrong shape: {LINEAR.name} is F32 [8, 64], expected [64, 8]" in text
    with pytest.raises(CheckpointError, match="has no vocoder"):
        checkpoint.load("vocoder", specs)
    with pytest.raises(CheckpointError, match="does not fit the layout conv"):
        checkpoint.load("transformer", [ParamSpec(LINEAR.name, (8, 64), layout="conv")])


GEMMA = {"embed_tokens.weight": W, "layers.0.self_attn.q_norm.weight": W[0], "norm.weight": W[0]}


def test_gemma_folder_in_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "text_config": {"hidden_size": 64}}')
    names = list(GEMMA)
    shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        tensors = {f"language_model.model.{name}": GEMMA[name] for name in names if shards[name] == shard}
        save(tmp_path / shard, tensors | ({"vision_tower.x": W} if shard.startswith("model-00001") else {}))
    weight_map = {f"language_model.model.{name}": shard for name, shard in shards.items()}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save(tmp_path / "consolidated.safetensors", {"language_model.model.norm.weight": W[0]})
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.components == {"text_encoder"}
    assert checkpoint.ignored == ["vision_tower.x"]
    assert checkpoint.section("text_encoder")["text_config"]["hidden_size"] == 64
    loaded = checkpoint.load("text_encoder", [ParamSpec(name, value.shape) for name, value in GEMMA.items()])
    np.testing.assert_array_equal(np.array(loaded["embed_tokens.weight"]), W)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 weight files are missing \(model-00002-of-00002.safetensors\)"):
        Checkpoint.open(tmp_path)


def test_a_lora_among_shards_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "text_config": {"hidden_size": 64}}')
    for name, value in GEMMA.items():
        save(tmp_path / f"{name}.safetensors", {f"language_model.model.{name}": value})
    lora = {f"transformer_blocks.0.attn1.to_q.lora_{x}.weight": W for x in ("A", "B")}
    path = save(tmp_path / "adapter.safetensors", lora)
    with caplog.at_level("WARNING"):
        checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.names("text_encoder")) == set(GEMMA)
    assert caplog.messages == [f"{path}: a LoRA among the files of {tmp_path}; it is left aside (loras adds it)"]


def test_gemma_file_beside_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "text_config": {"sliding_window": 48}}')
    path = save(tmp_path / "model.safetensors", {f"model.{name}": value for name, value in GEMMA.items()})
    assert Checkpoint.open(path).section("text_encoder")["text_config"]["sliding_window"] == 48


def test_gemma_without_config(tmp_path: Path) -> None:
    more = {
        f"model.layers.0.{name}.weight": np.zeros(shape, np.float32)
        for name, shape in {
            "mlp.gate_proj": (96, 64),
            "self_attn.q_proj": (256, 64),
            "self_attn.k_proj": (128, 64),
        }.items()
    }
    path = save(tmp_path / "gemma.safetensors", {f"model.{name}": value for name, value in GEMMA.items()} | more)
    text = Checkpoint.open(path).section("text_encoder")["text_config"]
    assert (text["head_dim"], text["num_attention_heads"], text["num_key_value_heads"]) == (64, 4, 2)
    assert (text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]) == (64, 96, 1)


def test_packed_gemma_config_and_assets(tmp_path: Path) -> None:
    tensors = {f"model.{name}": value for name, value in GEMMA.items()}
    tensors["tokenizer_json"] = np.frombuffer(b"{}", np.uint8)
    tensors["model.layers.0.layer_scalar"] = W[0, :1]
    path = save(tmp_path / "a.safetensors", tensors, gemma_config='{"model_type": "gemma4_unified"}')
    checkpoint = Checkpoint.open(path)
    assert checkpoint.generation == LTX_2_5
    assert checkpoint.section("text_encoder") == {"model_type": "gemma4_unified"}
    assert checkpoint.bytes("text_assets", "tokenizer_json") == b"{}"
    with pytest.raises(CheckpointError, match="no tensor 'other' in the text_assets"):
        checkpoint.bytes("text_assets", "other")


FOREIGN_TENSORS = {
    "damaged marker": ({f"{PREFIX}.comfy_quant": np.frombuffer(b"{", np.uint8)}, "is not readable as JSON"),
    "lora": ({"diffusion_model.x.lora_A.weight": W}, "a LoRA file, not a checkpoint; give it with loras"),
    "stranger": ({"some.weight": W}, r"none of its 1 tensors belongs to an LTX-2 model \(the first is 'some.weight'\)"),
}


@pytest.mark.parametrize("kind", FOREIGN_TENSORS)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    tensors, message = FOREIGN_TENSORS[kind]
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF\3\0\0\0", "truncated or damaged: the header ends behind the file"),
        (b"PK\3\4rest", "a zip archive"),
        (b"\x80\2}q\0.", "a Python pickle"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"split_model.json": "{}"}, "a pack without weight files"),
        (
            {"split_model.json": '{"components": ["transformer", "vocoder"], "transformer_variants": ["dev"]}'},
            "split_model.json names vocoder.safetensors, transformer-dev.safetensors, which are missing",
        ),
        ({"model_index.json": '{"_class_name": "LTX2Pipeline"}'}, "a diffusers folder without weights"),
        ({"model_index.json": '{"_class_name": "LTXPipeline"}'}, r"an LTX-Video pipeline \(LTXPipeline\)"),
        ({"model_index.json": '{"_class_name": "FluxPipeline"}'}, r"another pipeline \(FluxPipeline\)"),
        ({"adapter_config.json": "{}"}, "the folder of a PEFT adapter"),
        ({}, "no .safetensors or .gguf file in this folder"),
    ],
)
def test_folders_of_other_kinds_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"),
        ('{"weight_map": {"x": 3}}', "weight_map must map tensor names to file names"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "names files outside its folder"),
    ],
)
def test_damaged_shard_index(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path)


def test_absent_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Checkpoint.open(tmp_path / "absent.safetensors")


def test_manifest(tmp_path: Path) -> None:
    path = tmp_path / "ltx-2.3-22b-dev.json"
    tensors = {name: [spec.dtype, list(spec.shape)] for name, spec in model_specs(CONFIG_23).items()}
    path.write_text(json.dumps({"tensors": tensors, "metadata": {"config": CONFIG_23}}))
    checkpoint = Checkpoint.open(path)
    assert (checkpoint.generation, checkpoint.variant, checkpoint.is_manifest) == (LTX_2_3, "dev", True)
    assert checkpoint.names("vocoder")["vocoder.conv_pre.weight"].nbytes == 64 * 128 * 7 * 2
    with pytest.raises(CheckpointError, match="a manifest lists tensors without their data"):
        checkpoint.load("transformer", [ParamSpec("proj_out.bias", (128,))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a tensor manifest"),
        ("[]", "must hold a JSON object, got a list"),
        ('{"tensors": {"x": ["F7", [1]]}}', r"tensor 'x' must be \[dtype, shape\]"),
        ('{"tensors": {"x": ["F32", [-1]]}}', r"tensor 'x' must be \[dtype, shape\]"),
    ],
)
def test_damaged_manifest(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)

"""The files that mutants are made of: every kind of header, marker and LoRA name, and whole models."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from header_fuzzing.file_model import Model, Tensor, marker, tensor

from ltx2rt.types import ParamSpec
from ltx2rt.weights.tensor_source import entry

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "weights"))
import tiny_files


def corpus() -> list[Model]:
    """The small files that mutants are made of."""
    even = [model for model in _components() if sum(len(one.data) for one in model.tensors) % 2 == 0]
    in_planes = [replace(model, container="byte planes") for model in even]
    return [*_quantised(), *_loras(), *_components(), *in_planes, *_gguf()]


def whole_models() -> Iterator[Model]:
    """Complete models of every generation, and an upscaler: whatever reads a configuration has what it looks for."""
    configs = (
        tiny_files.CONFIG_19B,
        {"transformer": tiny_files.TRANSFORMER_23},
        {"transformer": tiny_files.TRANSFORMER_25},
    )
    for config in configs:
        specs = tiny_files.model_specs(config).items()
        tensors = tuple(_of_spec(name, spec) for name, spec in specs)
        yield Model("safetensors", tensors, {"config": json.dumps(config), "model_version": "2.3.0"})
        yield Model("safetensors", tensors)
    for part in ("vae.", "audio_vae.", "vocoder."):
        specs = tiny_files.model_specs({**tiny_files.CONFIG_23, "transformer": tiny_files.TRANSFORMER_19B}).items()
        tensors = tuple(_of_spec(name, spec) for name, spec in specs if name.startswith(part))
        section = json.dumps({part[:-1]: tiny_files.CONFIG_23[part[:-1]]})
        yield Model("safetensors", tensors, {"config": section})
        yield Model("safetensors", tensors)


def _of_spec(name: str, spec: ParamSpec) -> Tensor:
    return Tensor(name, spec.dtype, spec.shape, bytes(entry(spec.dtype, spec.shape).nbytes))


def _quantised() -> Iterator[Model]:
    block = "model.diffusion_model.transformer_blocks.0."
    q, k, v = (f"{block}attn1.to_{letter}" for letter in "qkv")
    dense = [
        tensor(f"{block}scale_shift_table", "F32", 6, 64),
        tensor("model.diffusion_model.patchify_proj.bias", "BF16", 8),
    ]
    fp8 = (
        tensor(f"{q}.weight", "F8_E4M3", 16, 64),
        tensor(f"{q}.weight_scale", "F32"),
        tensor(f"{q}.bias", "BF16", 16),
    )
    yield Model("safetensors", (*dense, *fp8, tensor(f"{k}.weight", "F8_E5M2", 16, 64)), {"format": "pt"})
    old = (tensor(f"{q}.weight", "F8_E4M3", 16, 64), tensor(f"{q}.scale_weight", "F32", 1))
    yield Model("safetensors", (*old, tensor("model.diffusion_model.scaled_fp8", "F8_E4M3", 0)))
    int8 = (tensor(f"{q}.weight", "I8", 16, 64), tensor(f"{q}.weight_scale", "F32", 16, 1))
    rotated = marker(q, format="int8_tensorwise", convrot=True, convrot_groupsize=64)
    yield Model("safetensors", (*dense, *int8, rotated))
    layers = {
        "format_version": "1.0",
        "layers": {q: {"format": "int8_tensorwise", "params": {"convrot": True}}, v: "int8"},
    }
    second = (tensor(f"{v}.weight", "I8", 4, 256), tensor(f"{v}.weight_scale", "F32", 4))
    yield Model("safetensors", (*int8, *second), {"_quantization_metadata": json.dumps(layers)})
    nvfp4 = (
        tensor(f"{q}.weight", "U8", 16, 32),
        tensor(f"{q}.weight_scale", "F8_E4M3", 128, 4),
        tensor(f"{q}.weight_scale_2", "F32"),
        marker(q, format="nvfp4"),
    )
    mxfp8 = (
        tensor(f"{k}.weight", "F8_E4M3", 32, 64),
        tensor(f"{k}.weight_scale", "F8_E8M0", 128, 4),
        marker(k, format="mxfp8"),
    )
    yield Model("safetensors", (*nvfp4, *mxfp8))
    w4a8 = (
        tensor(f"{q}.weight", "I8", 8, 128),
        tensor(f"{q}.weight_s_rel", "F8_E4M3", 8, 16),
        tensor(f"{q}.weight_s_channel", "F32", 8),
        tensor(f"{q}.weight_codebook", "F32", 16),
        marker(q, format="asym_w4a8_int8", group_size=16, convrot_groupsize=256),
    )
    w4a4 = (
        tensor(f"{k}.weight", "I8", 8, 128),
        tensor(f"{k}.weight_scale", "F32", 8),
        marker(k, format="convrot_w4a4", convrot_groupsize=256, quant_group_size=64),
    )
    awq = (
        tensor(f"{v}.weight", "I8", 8, 64),
        tensor(f"{v}.weight_scale", "BF16", 2, 8),
        tensor(f"{v}.weight_zeros", "BF16", 2, 8),
        marker(v, format="awq_w4a16", group_size=64),
    )
    yield Model("safetensors", (*w4a8, *w4a4, *awq))
    mlx = (
        tensor(f"{q}.weight", "U32", 8, 16),
        tensor(f"{q}.scales", "BF16", 8, 2),
        tensor(f"{q}.biases", "BF16", 8, 2),
    )
    yield Model("safetensors", (*mlx, tensor(f"{k}.weight", "U32", 8, 8), tensor(f"{k}.scales", "U8", 8, 2)))
    rows = (tensor(f"{q}.weight", "F8_E4M3", 16, 64), tensor(f"{q}.weight_scale", "F32", 16, 1))
    yield Model("safetensors", (*rows, marker(q, format="float8_e4m3fn_rowwise")))


def _loras() -> Iterator[Model]:
    a, b = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.2"
    flat = f"lora_unet_{a.replace('.', '_')}"

    def pair(base: str, down: str, up: str) -> tuple[Tensor, Tensor]:
        return tensor(base + down, "F32", 2, 64), tensor(base + up, "F32", 64, 2)

    peft = (*pair(f"diffusion_model.{a}", ".lora_A.weight", ".lora_B.weight"),)
    yield Model("safetensors", (*peft, *pair(f"diffusion_model.{b}", ".lora_A.weight", ".lora_B.weight")))
    named = {"lora_rank": "2", "lora_alpha": "2", "reference_downscale_factor": "2"}
    yield Model(
        "safetensors", (*peft, *pair(f"transformer.{b}", ".lora_A.default.weight", ".lora_B.default.weight")), named
    )
    kohya = (*pair(flat, ".lora_down.weight", ".lora_up.weight"), tensor(f"{flat}.alpha", "F32"))
    yield Model("safetensors", (*kohya, tensor(f"{flat}.dora_scale", "F32", 64, 1)), {"ss_network_dim": "2"})
    settings = {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.alpha_pattern": {a: 8}}
    yield Model("safetensors", peft, {"lora_adapter_metadata": json.dumps(settings)})
    lokr = (
        tensor(f"lycoris_{a.replace('.', '_')}.lokr_w1", "F32", 4, 4),
        tensor(f"lycoris_{a.replace('.', '_')}.lokr_w2", "F32", 16, 16),
    )
    loha = tuple(
        tensor(f"diffusion_model.{b}.hada_{part}", "F32", *shape)
        for part, shape in (("w1_a", (64, 2)), ("w1_b", (2, 64)), ("w2_a", (64, 2)), ("w2_b", (2, 64)))
    )
    yield Model("safetensors", (*lokr, *loha))
    yield Model(
        "safetensors",
        (tensor(f"diffusion_model.{a}.diff", "F32", 64, 64), tensor(f"diffusion_model.{a}.diff_b", "F32", 64)),
    )


def _components() -> Iterator[Model]:
    config = {
        "transformer": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32},
        "vae": {"latent_channels": 8},
    }
    yield Model(
        "safetensors",
        (
            tensor("model.diffusion_model.patchify_proj.weight", "BF16", 64, 8),
            tensor("model.diffusion_model.transformer_blocks.0.attn1.to_gate_logits.weight", "BF16", 2, 64),
            tensor("model.diffusion_model.video_embeddings_connector.learnable_registers", "BF16", 8, 64),
            tensor("text_embedding_projection.video_aggregate_embed.weight", "BF16", 64, 32),
            tensor("vae.encoder.conv_in.conv.weight", "BF16", 8, 3, 3, 3, 3),
            tensor("vae.per_channel_statistics.mean-of-means", "BF16", 8),
            tensor("audio_vae.decoder.conv_in.conv.weight", "BF16", 8, 8, 3, 3),
            tensor("vocoder.conv_pre.weight", "BF16", 8, 8, 7),
            tensor("duration_head.mlp_hidden.weight", "BF16", 8, 8),
        ),
        {"config": json.dumps(config), "model_version": "2.3.0", "gemma_source_checkpoint": "{}"},
    )
    gemma = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    yield Model(
        "safetensors",
        (
            tensor("model.embed_tokens.weight", "BF16", 16, 64),
            *(tensor(f"model.layers.0.{name}.weight", "BF16", 64) for name in gemma),
            tensor("model.layers.0.self_attn.q_proj.weight", "BF16", 64, 64),
            tensor("model.layers.0.self_attn.k_proj.weight", "BF16", 32, 64),
            tensor("model.layers.0.self_attn.q_norm.weight", "BF16", 32),
            tensor("model.layers.0.mlp.gate_proj.weight", "BF16", 128, 64),
            tensor("model.norm.weight", "BF16", 64),
            tensor("spiece_model", "U8", len(_SPIECE), data=_SPIECE),
        ),
        {"gemma_config": json.dumps({"model_type": "gemma3", "text_config": {"hidden_size": 64}})},
    )
    upscaler = ("initial_conv", "res_blocks.0.conv1", "upsampler.0", "final_conv")
    yield Model("safetensors", tuple(tensor(f"{name}.weight", "BF16", 8, 8, 3, 3, 3) for name in upscaler))
    packs = (
        "transformer.transformer_blocks.0.attn1.to_out.weight",
        "transformer.transformer_blocks.0.ff.proj_in.weight",
    )
    yield Model(
        "safetensors",
        (
            *(tensor(name, "BF16", 64, 64) for name in packs),
            tensor("vae_decoder.conv_in.conv.weight", "BF16", 8, 3, 3, 3, 8),
        ),
    )
    diffusers = (
        "transformer_blocks.0.attn1.norm_q.weight",
        "time_embed.emb.timestep_embedder.linear_1.weight",
        "proj_in.weight",
    )
    yield Model("safetensors", tuple(tensor(name, "BF16", 64, 64) for name in diffusers))


def _gguf() -> Iterator[Model]:
    q = "transformer_blocks.0.attn1.to_q.weight"
    types = (
        "Q8_0",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "IQ4_XS",
        "MXFP4",
    )
    yield Model(
        "gguf",
        (
            *(tensor(q.replace("0", str(index), 1), name, 2, 256) for index, name in enumerate(types)),
            tensor("scale_shift_table", "F32", 2, 8),
        ),
        {
            "general.architecture": "ltxv",
            "general.alignment": np.uint32(64),
            f"comfy.gguf.orig_shape.{q}": np.array([8, 64], np.int32),
        },
    )
    int8 = {"format": "int8_tensorwise", "convrot": True, "weight_rotated": True, "convrot_groupsize": 64}
    yield Model(
        "gguf",
        (tensor(q, "I8", 4, 64), tensor(f"{q}_scale", "F32", 4, 1), tensor("patchify_proj.weight", "F16", 8, 8)),
        {
            "general.architecture": "ltxv",
            f"comfy.gguf.quant.{q}": json.dumps(int8),
            "model_version": "2.5.0",
            "config": "{}",
        },
    )
    pieces = [
        ("<pad>", 3),
        ("<eos>", 3),
        ("<bos>", 3),
        ("<unk>", 2),
        ("\n", 4),
        ("  ", 4),
        ("<0x41>", 6),
        ("▁", 1),
        ("a", 1),
        ("▁a", 1),
    ]
    sizes = {"block_count": 1, "embedding_length": 64, "feed_forward_length": 128, "attention.head_count": 2}
    sizes |= {"attention.head_count_kv": 1, "attention.key_length": 32, "attention.sliding_window": 8}
    for architecture, merged in (("gemma3", {}), ("gemma4", {"tokenizer.ggml.merges": ["▁ a"]})):
        yield Model(
            "gguf",
            (
                tensor("token_embd.weight", "Q8_0", 10, 64),
                tensor("blk.0.attn_norm.weight", "F32", 64),
                tensor("blk.0.attn_q.weight", "Q4_0", 64, 64),
                tensor("blk.0.attn_q_norm.weight", "F32", 32),
                tensor("output_norm.weight", "F32", 64),
                tensor("rope_freqs.weight", "F32", 16),
            ),
            {
                "general.architecture": architecture,
                "general.name": "small",
                **{f"{architecture}.{key}": value for key, value in sizes.items()},
                f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
                f"{architecture}.attention.sliding_window_pattern": np.array([True]),
                "tokenizer.ggml.model": "llama" if architecture == "gemma3" else architecture,
                "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
                "tokenizer.ggml.token_type": np.array([kind for _, kind in pieces], np.int32),
                "tokenizer.ggml.scores": np.arange(len(pieces), dtype=np.float32),
                **merged,
            },
        )


def _message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


_SPIECE = b"".join(
    _message(1, _message(1, piece.encode()) + b"\x15" + struct.pack("<f", -index) + b"\x18" + bytes([kind]))
    for index, (piece, kind) in enumerate([("<pad>", 3), ("<bos>", 3), ("<unk>", 2), ("▁", 1), ("a", 1), ("▁a", 1)])
)

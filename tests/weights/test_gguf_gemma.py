"""Gemma in GGUF files: llama.cpp's names, the configuration in the header, declared quantisations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import of_array, write_gguf

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text import gemma3, gemma4
from ltx2rt.graph.models.text.gemma import RopeFrequencies
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.gguf_config import gemma_config
from ltx2rt.weights.names.llama_cpp import LlamaCppName, official_name

SIZES: dict[str, Any] = {
    "block_count": 6,
    "embedding_length": 64,
    "feed_forward_length": 160,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.sliding_window": 48,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6,
}
EMBEDDING = {"token_embd.weight": of_array(np.zeros((11, 64), np.float16))}


def header(path: Path, architecture: str = "gemma3", **changes: Any) -> GgufFile:
    sizes = {**SIZES, **changes}
    values = {f"{architecture}.{key.replace('__', '.')}": value for key, value in sizes.items() if value is not None}
    return GgufFile(write_gguf(path / "a.gguf", EMBEDDING, {"general.architecture": architecture, **values}))


@pytest.mark.parametrize(
    ("name", "official", "minus_one"),
    [
        ("token_embd.weight", "model.embed_tokens.weight", False),
        ("output_norm.weight", "model.norm.weight", True),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", True),
        ("blk.7.post_attention_norm.weight", "model.layers.7.post_attention_layernorm.weight", True),
        ("blk.7.ffn_norm.weight", "model.layers.7.pre_feedforward_layernorm.weight", True),
        ("blk.47.post_ffw_norm.weight", "model.layers.47.post_feedforward_layernorm.weight", True),
        ("blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight", True),
        ("blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight", True),
        ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", False),
        ("blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", False),
        ("blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight", False),
        ("blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight", False),
        ("blk.1.attn_q.weight_scale", "model.layers.1.self_attn.q_proj.weight_scale", False),
        ("blk.12.ffn_gate.weight", "model.layers.12.mlp.gate_proj.weight", False),
        ("blk.12.ffn_up.weight", "model.layers.12.mlp.up_proj.weight", False),
        ("blk.12.ffn_down.weight", "model.layers.12.mlp.down_proj.weight", False),
    ],
)
def test_names_of_llama_cpp(name: str, official: str, minus_one: bool) -> None:
    assert official_name(name, "gemma3") == LlamaCppName(official, minus_one)
    assert official_name(name, "gemma4") == LlamaCppName(official, False)


def test_names_that_are_left_out_and_those_of_others() -> None:
    for unused in ("output.weight", "rope_freqs.weight"):
        assert official_name(unused, "gemma4") == LlamaCppName(None)
    assert official_name("blk.3.layer_output_scale.weight", "gemma4") == LlamaCppName("model.layers.3.layer_scalar")
    assert official_name("blk.3.layer_output_scale.weight", "gemma3") is None
    for foreign in ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_gate_inp.weight", "blk.x.attn_q.weight", "", "a"):
        assert official_name(foreign, "gemma3") is None


def test_gemma3_configuration_is_one_that_the_model_takes(tmp_path: Path) -> None:
    found = gemma3.Gemma3Config.from_dict(gemma_config(header(tmp_path)))
    assert found == gemma3.Gemma3Config(
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=11,
        global_layers=(False,) * 5 + (True,),
        sliding_window=48,
        query_pre_attn_scalar=32,
        rms_norm_eps=1e-6,
        global_rope=RopeFrequencies(1e6),
        local_rope=RopeFrequencies(1e4),
    )


def test_what_the_header_states_about_positions(tmp_path: Path) -> None:
    stated = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0, "rope__freq_base_swa": 5000.0}
    found = gemma3.Gemma3Config.from_dict(gemma_config(header(tmp_path, attention__sliding_window_pattern=2, **stated)))
    assert found.global_rope == RopeFrequencies(1e6, 4.0)
    assert found.local_rope == RopeFrequencies(5000.0)
    assert found.global_layers == (False, True) * 3
    wide = gemma3.Gemma3Config.from_dict(gemma_config(header(tmp_path, embedding_length=3840)))
    assert wide.global_rope == RopeFrequencies(1e6, 8.0)  # of the 12B
    without = gemma3.Gemma3Config.from_dict(gemma_config(header(tmp_path, rope__scaling__type="none")))
    assert without.global_rope == RopeFrequencies(1e6)


def test_gemma4_configuration(tmp_path: Path) -> None:
    changes = {
        "attention__head_count_kv": None,
        "attention.head_count_kv": np.array([2, 2, 2, 2, 2, 1], np.int32),
        "attention.sliding_window_pattern": np.array([True] * 5 + [False]),
        "attention.key_length_swa": 16,
        "rope.freq_base_swa": 1e4,
        "final_logit_softcapping": 30.0,
    }
    found = gemma_config(header(tmp_path, "gemma4", **changes))
    text = found["text_config"]
    assert found["model_type"] == "gemma4_unified"
    assert (text["num_key_value_heads"], text["num_global_key_value_heads"]) == (2, 1)
    assert (text["head_dim"], text["global_head_dim"]) == (16, 32)
    assert text["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert text["attention_k_eq_v"] is True  # no blk.5.attn_v
    assert text["rope_parameters"]["full_attention"]["rope_theta"] == 1e6

    config = gemma4.Gemma4Config.from_dict(found)
    assert config.attention(is_global=False) == (4, 2, 16, False)
    assert config.attention(is_global=True) == (4, 1, 32, True)
    assert config.global_rope == RopeFrequencies(1e6, rotated=0.25)


def test_a_configuration_in_the_file_is_followed_but_for_the_vocabulary(tmp_path: Path) -> None:
    stated = {"model_type": "gemma4_unified", "gemma_version": "x", "text_config": {"vocab_size": 64, "head_dim": 8}}
    found = gemma_config(header(tmp_path, "gemma4"), stated)
    assert found == {**stated, "text_config": {"vocab_size": 11, "head_dim": 8}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "gemma3.block_count is missing"),
        ({"embedding_length": "64"}, "gemma3.embedding_length must be a positive size, got '64'"),
        ({"feed_forward_length": 0}, "feed_forward_length must be a positive size, got 0"),
        ({"attention.head_count": True}, "attention.head_count must be a positive size"),
        ({"attention.layer_norm_rms_epsilon": "small"}, "must be a positive number, got 'small'"),
        ({"rope.freq_base": float("nan")}, "rope.freq_base must be a positive number"),
        ({"attention.sliding_window_pattern": np.zeros(3, np.int32)}, "must have 6 entries"),
    ],
)
def test_headers_without_a_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        gemma_config(header(tmp_path, **changes))


def test_lists_for_another_number_of_layers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="head_count_kv must have 6 sizes"):
        gemma_config(header(tmp_path, "gemma4", **{"attention.head_count_kv": np.ones(5, np.int32)}))
    with pytest.raises(CheckpointError, match="of architecture 'ltxv', not of a Gemma model"):
        gemma_config(header(tmp_path, "ltxv"))


NAME = "transformer_blocks.0.attn1.to_q.weight"


def declared(path: Path, marker: Any, name: str = NAME) -> Checkpoint:
    text = marker if isinstance(marker, str) else json.dumps(marker)
    tensors = {NAME: of_array(np.zeros((4, 256), np.int8)), f"{NAME}_scale": of_array(np.ones((4, 1), np.float32))}
    return Checkpoint.open(write_gguf(path / "a.gguf", tensors, {f"comfy.gguf.quant.{name}": text}))


@pytest.mark.parametrize(
    ("marker", "label"),
    [
        ({"convrot": True, "convrot_groupsize": 64, "weight_rotated": True}, "int8 convrot"),
        ({"convrot": True, "convrot_groupsize": 64}, "int8"),  # declared, and never done
        ({"convrot": True, "convrot_groupsize": 100, "weight_rotated": True}, "int8"),
        ({"convrot": False, "convrot_groupsize": 64, "weight_rotated": True}, "int8"),
    ],
)
def test_int8_is_rotated_only_where_it_says_so_twice(tmp_path: Path, marker: dict[str, Any], label: str) -> None:
    assert declared(tmp_path, {"format": "int8_tensorwise", **marker}).formats("transformer") == {label: 1}


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ({"format": "int4_pytorch"}, r"to_q.weight': unknown quantisation format 'int4_pytorch'"),
        ({"format": "int4_cr", "backing": "packed"}, "unknown quantisation format 'int4_cr'"),
        ("{", "to_q.weight is not readable as JSON"),
        ("[" * 50_000, "not readable as JSON"),
        ("[]", "not an object"),
        (" " * 70_000, "holds 70000 bytes; at most 65536"),
    ],
)
def test_other_declarations_are_refused(tmp_path: Path, marker: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        declared(tmp_path, marker)


def test_a_declaration_without_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.weight belongs to no tensor"):
        declared(tmp_path, {"format": "int8_tensorwise"}, "absent.weight")

"""Names of tensors in LoRA files, in every spelling that trainers and converters use."""

from __future__ import annotations

import pytest

from ltx2rt.weights.lora.keys import (
    Target,
    component_of,
    foreign_method,
    identity,
    is_lora,
    is_of_text_encoder,
    parse,
    readable,
    target,
)

MODULE = "transformer_blocks.0.attn1.to_out.0"
FLAT = MODULE.replace(".", "_")
SPELLINGS = {
    MODULE: MODULE,
    "official": f"diffusion_model.{MODULE}",
    "checkpoint": f"model.diffusion_model.{MODULE}",
    "diffusers": f"transformer.{MODULE}",
    "PEFT": f"base_model.model.{MODULE}",
    "PEFT after a prefix": f"diffusion_model.base_model.model.{MODULE}",
    "DiffSynth": f"pipe.dit.{MODULE}",
    "kohya": f"lora_unet_{FLAT}",
    "musubi": f"lora_unet_model_{FLAT}",
    "OneTrainer": f"lora_transformer_{FLAT}",
    "LyCORIS": f"lycoris_{FLAT}",
    "musubi's export": "diffusion.model.transformer.blocks.0.attn1.to.out.0",
    "wrapped twice": f"base_model.model.model.diffusion_model.{MODULE}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_means_the_same_module(spelling: str) -> None:
    assert Target(identity(spelling), "weight") == target("transformer", f"{MODULE}.weight")


@pytest.mark.parametrize(
    ("module", "component", "name"),
    [
        ("transformer.proj_in", "transformer", "patchify_proj.weight"),
        ("audio_proj_in", "transformer", "audio_patchify_proj.weight"),
        ("transformer.time_embed.linear", "transformer", "adaln_single.linear.weight"),
        (
            "time_embed.emb.timestep_embedder.linear_1",
            "transformer",
            "adaln_single.emb.timestep_embedder.linear_1.bias",
        ),
        ("prompt_adaln.linear", "transformer", "prompt_adaln_single.linear.weight"),
        ("prompt_adaln_single.linear", "transformer", "prompt_adaln_single.linear.weight"),
        ("av_cross_attn_video_a2v_gate.linear", "transformer", "av_ca_a2v_gate_adaln_single.linear.weight"),
        (
            "transformer_blocks.3.video_a2v_cross_attn_scale_shift_table",
            "transformer",
            "transformer_blocks.3.scale_shift_table_a2v_ca_video",
        ),
        ("transformer_blocks.1.attn2.norm_k", "transformer", "transformer_blocks.1.attn2.k_norm.weight"),
        (
            "connectors.video_connector.transformer_blocks.0.attn1.to_q",
            "video_connector",
            "transformer_1d_blocks.0.attn1.to_q.weight",
        ),
        (
            "lora_unet_audio_embeddings_connector_transformer_1d_blocks_1_ff_net_2",
            "audio_connector",
            "transformer_1d_blocks.1.ff.net.2.weight",
        ),
        ("diffusion_model.embeddings_connector.x", "video_connector", "x.weight"),
        ("connectors.text_proj_in", "text_projection", "aggregate_embed.weight"),
        ("text_embedding_projection.audio_aggregate_embed", "text_projection", "audio_aggregate_embed.bias"),
    ],
)
def test_names_of_diffusers_and_other_components(module: str, component: str, name: str) -> None:
    place = target(component, name)
    assert place is not None
    assert identity(module) == place.module
    assert component_of(place.module) == component or name == "x.weight"


def test_components_that_loras_do_not_reach() -> None:
    assert target("video_vae", "decoder.conv_in.conv.weight") is None
    assert component_of("double_blocks_0_img_attn") is None


@pytest.mark.parametrize(
    ("ending", "part", "adapter"),
    [
        (".lora_A.weight", "A", ""),
        (".lora_B", "B", ""),
        (".lora_A.default.weight", "A", "default"),
        (".lora_B.default_0.weight", "B", "default_0"),
        (".lora_A.my.adapter.weight", "A", "my.adapter"),
        (".lora_down.weight", "A", ""),
        (".lora_up", "B", ""),
        (".lora.down.weight", "A", ""),
        ("_lora.up.weight", "B", ""),
        (".lora_linear_layer.down.weight", "A", ""),
        (".lora_B.bias", "B_bias", ""),
        (".lora_B.default.bias", "B_bias", "default"),
        (".alpha", "alpha", ""),
        (".dora_scale", "magnitude", ""),
        (".lora_magnitude_vector", "magnitude", ""),
        (".lora_magnitude_vector.default.weight", "magnitude", "default"),
        (".magnitude", "magnitude", ""),
        (".hada_w1_a", "hada_w1_a", ""),
        (".lokr_w2", "lokr_w2", ""),
        (".lokr_w1_b", "lokr_w1_b", ""),
        (".diff", "diff", ""),
        (".diff_b", "diff_b", ""),
        (".w_norm", "diff", ""),
        (".b_norm", "diff_b", ""),
        (".set_weight", "set_weight", ""),
    ],
)
def test_parts(ending: str, part: str, adapter: str) -> None:
    key = parse(f"diffusion_model.{MODULE}{ending}")
    assert key == (f"diffusion_model.{MODULE}", part, adapter)


@pytest.mark.parametrize("ending", [".weight", ".lora_A.weight_scale", ".comfy_quant", ".bias", ".lora_C.weight", ""])
def test_what_is_no_part(ending: str) -> None:
    assert parse(f"diffusion_model.{MODULE}{ending}") is None
    assert parse("x" * 2000 + ".lora_A.weight") is None


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("x.oft_blocks", "OFT"),
        ("x.oft_R.default.weight", "OFT"),
        ("x.boft_R", "BOFT"),
        ("x.a1.weight", "GLoRA"),
        ("x.lora_mid.weight", "Tucker"),
        ("x.hada_t1", "Tucker"),
        ("x.lokr_t2", "Tucker"),
        ("x.ia3_l", "IA3"),
        ("x.on_input", "IA3"),
        ("x.lora_A.weight", None),
    ],
)
def test_methods_that_are_not_supported(name: str, method: str | None) -> None:
    assert foreign_method(name) == method
    assert is_lora([name])


def test_a_vocoder_is_no_lora() -> None:
    assert not is_lora(["vocoder.bwe_generator.act_post.act.alpha", "model.diffusion_model.patchify_proj.weight"])


@pytest.mark.parametrize(
    "module",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder.model.layers.0.self_attn.q_proj",
        "text_encoders.gemma3_12b.transformer.model.layers.0.self_attn.q_proj",
        "base_model.model.model.layers.3.mlp.gate_proj",
        "language_model.model.layers.0.self_attn.q_proj",
    ],
)
def test_modules_of_text_encoders(module: str) -> None:
    assert is_of_text_encoder(identity(module))
    assert not is_of_text_encoder(identity(f"diffusion_model.{MODULE}"))
    assert not is_of_text_encoder(identity("text_embedding_projection.aggregate_embed"))


def test_readable() -> None:
    assert readable("base_model.model.adapter_extra.proj") == "adapter_extra.proj"
    assert readable("lora_unet_adapter_extra_proj") == "lora_unet_adapter_extra_proj"

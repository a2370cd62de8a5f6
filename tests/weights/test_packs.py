"""Packs for other MLX programs: what the JSON files beside the weights say, and of which of them."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from renamed_files import write

from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets.parts import find

CONV, DIFFUSION = {"_class_name": "CausalVideoAutoencoder"}, {"_class_name": "CausalDiffusionVAE"}
DECODERS = {"conv": "up_blocks.0.res_blocks.0.conv1.conv.bias", "av": "det_stages.0.0.mlp.bias"}


def pack(folder: Path, vae: dict[str, str]) -> Path:
    """A pack of 2.5 with both kinds of video VAEs; ``vae``: the section of its configuration."""
    write(folder / "transformer-distilled.safetensors", {"transformer.transformer_blocks.0.x": mx.zeros(2)})
    write(folder / "connector.safetensors", {"connector.audio_embeddings_connector.x": mx.zeros(2)})
    write(folder / "text_encoder.safetensors", {"text_encoder.layers.0.x": mx.zeros(2)})
    write(folder / "spatial_upscaler_x2.safetensors", {"initial_conv.weight": mx.zeros((4, 3, 3, 3, 2))})
    for kind, name in DECODERS.items():
        for half, tensor in (("encoder", "conv_in.conv.bias"), ("decoder", name)):
            base = f"vae_{half}_{kind}"
            tensors = {f"{base}.{tensor}": mx.zeros(2), f"{base}.per_channel_statistics.mean": mx.zeros(2)}
            write(folder / f"{base}.safetensors", tensors)
    (folder / "split_model.json").write_text('{"model_version": "2.5.0"}')
    (folder / "config.json").write_text('{"cross_attention_adaln": false}')
    (folder / "embedded_config.json").write_text(json.dumps({"transformer": {"num_layers": 1}, "vae": vae}))
    (folder / "text_encoder_config.json").write_text('{"model_type": "gemma4_unified"}')
    return folder


@pytest.mark.parametrize(("kind", "section"), [("conv", CONV), ("av", DIFFUSION)])
def test_the_kinds_of_a_video_vae_are_told_apart(tmp_path: Path, kind: str, section: dict[str, str]) -> None:
    parts = find(pack(tmp_path, section)).of("video_vae")
    assert {part.path.name: part.video_decoder for part in parts} == {
        "vae_decoder_av.safetensors": "diffusion",
        "vae_decoder_conv.safetensors": "conv",
    }
    assert all(part.checkpoint.names("video_vae").keys() >= {"encoder.conv_in.conv.bias"} for part in parts)
    described = [part.path.name for part in parts if part.checkpoint.stated.get("vae") == section]
    assert described == [f"vae_decoder_{kind}.safetensors"]


def test_one_file_of_a_pack_has_its_configuration(tmp_path: Path) -> None:
    folder = pack(tmp_path, CONV)
    assert Checkpoint.open(folder / "transformer-distilled.safetensors").stated["transformer"] == {"num_layers": 1}
    encoder = Checkpoint.open(folder / "text_encoder.safetensors")
    assert encoder.section("text_encoder") == {"model_type": "gemma4_unified"}
    assert Checkpoint.open(folder / "spatial_upscaler_x2.safetensors").stated == {}


def test_another_config_beside_a_text_encoder_is_none_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "gemma.safetensors", {"model.layers.0.x": mx.zeros(2)})
    (tmp_path / "config.json").write_text('{"model_type": "AudioVideo"}')
    assert Checkpoint.open(path)._hf_config is None
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    assert Checkpoint.open(path).section("text_encoder") == {"model_type": "gemma3"}

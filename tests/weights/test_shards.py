"""Models in several files: what one of the files tells counts for all of them, wherever they were cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import RawTensor, write_safetensors

Q = "transformer_blocks.0.attn1.to_q"


def in_shards(folder: Path, tensors: dict[str, Any], count: int, stem: str = "model", **metadata: str) -> Path:
    """A folder of shards, neighbours far from each other; the first shard alone has the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    listed: dict[str, str] = {}
    for index in range(count):
        file = f"{stem}-{index + 1:05}-of-{count:05}.safetensors"
        here = names[index::count]
        write_safetensors(folder / file, {name: tensors[name] for name in here}, {} if index else metadata)
        listed |= dict.fromkeys(here, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return folder


def test_bare_names_in_shards_are_those_of_one_file(tmp_path: Path) -> None:
    names = ("audio_patchify_proj.weight", "proj_out.weight", "scale_shift_table", f"{Q}.weight")
    tensors = {name: mx.zeros((2, 2)) for name in names}
    cut = Checkpoint.open(in_shards(tmp_path, tensors, len(names), model_version="2.3.0"))
    assert set(cut.names("transformer")) == set(names)
    assert (cut.unknown, cut.metadata) == ([], {"model_version": "2.3.0"})


@pytest.mark.parametrize(
    ("component", "names"),
    [
        ("video_connector", {"video_connector.learnable_registers": "learnable_registers"}),
        (
            "audio_connector",
            {"audio_connector.transformer_blocks.0.ff.net.2.bias": "transformer_1d_blocks.0.ff.net.2.bias"},
        ),
        ("text_projection", {"audio_text_proj_in.weight": "audio_aggregate_embed.weight"}),
        (
            "video_vae",
            {
                "latents_mean": "per_channel_statistics.mean-of-means",
                "encoder.down_blocks.1.resnets.0.conv1.conv.bias": "encoder.down_blocks.2.res_blocks.0.conv1.conv.bias",
                "encoder.mid_block.resnets.0.conv1.conv.bias": "encoder.down_blocks.4.res_blocks.0.conv1.conv.bias",
                "decoder.mid_block.resnets.0.conv1.conv.bias": "decoder.up_blocks.0.res_blocks.0.conv1.conv.bias",
            },
        ),
    ],
)
def test_names_of_diffusers_in_shards_are_those_of_one_file(
    tmp_path: Path, component: str, names: dict[str, str]
) -> None:
    first = {} if component == "video_vae" else {"video_connector.learnable_registers": mx.zeros((2, 2))}
    tensors = first | {name: mx.zeros((2, 2)) for name in names}
    cut = Checkpoint.open(in_shards(tmp_path, tensors, len(tensors), "diffusion_pytorch_model"))
    assert set(cut.names(component)) == set(names.values())
    assert cut.unknown == []


def test_a_marker_counts_for_a_weight_in_another_shard(tmp_path: Path) -> None:
    marker = json.dumps({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16}).encode()
    first = {f"{Q}.comfy_quant": RawTensor("U8", np.frombuffer(marker, np.uint8).copy())}
    tensors: dict[str, Any] = {
        f"{Q}.weight": RawTensor("I8", np.ones((4, 16), np.int8)),
        f"{Q}.weight_scale": mx.full((4,), 0.5),
        "audio_patchify_proj.weight": mx.zeros((2, 2)),
    }
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", first)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", tensors)
    form, encoding = Checkpoint.open(tmp_path).stored_form("transformer", f"{Q}.weight")
    assert form.label(encoding) == "int8 convrot"
    listed = json.dumps({"layers": {Q: json.loads(marker)}})
    write_safetensors(
        tmp_path / "model-00001-of-00002.safetensors",
        {"proj_out.bias": mx.zeros(2)},
        {"_quantization_metadata": listed},
    )
    form, encoding = Checkpoint.open(tmp_path).stored_form("transformer", f"{Q}.weight")
    assert form.label(encoding) == "int8 convrot"


def test_scaled_fp8_in_one_shard_counts_for_all(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        f"{Q}.weight": RawTensor("F8_E4M3", np.zeros((4, 16), np.uint8)),
        "audio_patchify_proj.weight": mx.zeros((2, 2)),
    }
    write_safetensors(
        tmp_path / "model-00001-of-00002.safetensors", {"scaled_fp8": RawTensor("F8_E4M3", np.zeros(0, np.uint8))}
    )
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"to_q.*scaled_fp8.*no scale_weight"):
        Checkpoint.open(tmp_path)


def test_projections_in_different_shards_are_joined(tmp_path: Path) -> None:
    base = "attention_pooler.cross_attn"
    names = [f"{base}.to_{letter}.weight" for letter in "qkv"]
    tensors: dict[str, Any] = {name: mx.full((2, 3), float(value)) for value, name in enumerate(names)}
    folder = in_shards(tmp_path, {**tensors, "mlp_hidden.weight": mx.zeros((2, 3))}, 4)
    [values] = Checkpoint.open(folder).value_slabs("duration_head", ParamSpec(f"{base}.in_proj_weight", (6, 3)))
    np.testing.assert_array_equal(values[:, 0], [0, 0, 1, 1, 2, 2])


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        tensors = (
            {f"{Q}.weight": mx.zeros((2, 2)), "audio_patchify_proj.bias": mx.zeros(2)}
            if number == 1
            else {f"{Q}.weight": mx.zeros((2, 2))}
        )
        write_safetensors(tmp_path / f"model-{number:05}-of-00002.safetensors", tensors)
    with pytest.raises(CheckpointError, match=f"{Q}.weight' is in more than one file"):
        Checkpoint.open(tmp_path)

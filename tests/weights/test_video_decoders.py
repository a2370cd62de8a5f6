"""Files of the two video VAEs of LTX-2.5: which one is taken, and the names that other programs give their tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from ltx25_pack import DIFFUSION_DECODER
from tiny_files import CONFIG_23

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import VIDEO_VAE, video_decoder
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.convolutional_decoder import ConvolutionalDecoder
from ltx2rt.graph.models.video_vae.diffusion_ways import DiffusionDecoder
from ltx2rt.graph.settings.setting import plain_values, stored_values
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.inspection import inspect
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets import parts as roles
from ltx2rt.weights.sets.parts import find

DIFFUSION: dict[str, Any] = {"_class_name": "CausalDiffusionVAE", "decoder": DIFFUSION_DECODER}
CONV = CONFIG_23["vae"]


def tensors(section: dict[str, Any]) -> dict[str, mx.array]:
    rng = np.random.default_rng(0)
    config = VideoVaeConfig.from_dict(section)
    specs: list[ParamSpec] = [spec for spec in VIDEO_VAE.specs(config) if ".gate_" not in spec.name]
    return {spec.name: mx.array(rng.standard_normal(spec.shape).astype(np.float32)) for spec in specs}


def save(path: Path, section: dict[str, Any], values: dict[str, mx.array] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps({"vae": section}), "model_version": "2.5.0"}
    mx.save_safetensors(str(path), tensors(section) if values is None else values, metadata)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    save(folder / "video-vae-conv.safetensors", CONV)
    save(folder / "video-vae.safetensors", DIFFUSION)
    return folder


def taken(**files: Any) -> str:
    given = WeightFiles(**stored_values(WeightFiles, files))
    return WeightSet.open(given, (roles.VIDEO_VAE,)).source(VIDEO_VAE).path.name


def test_the_diffusion_decoder_is_taken_where_both_are(both: Path) -> None:
    conv, diffusion = both / "video-vae-conv.safetensors", both / "video-vae.safetensors"
    assert taken(video_vae=[conv, diffusion]) == taken(video_vae=[diffusion, conv]) == diffusion.name
    assert taken(checkpoint=both) == taken(video_vae=both) == diffusion.name
    for given in ({"video_vae": [str(diffusion), str(conv)]}, {"checkpoint": both}, {"video_vae": both}):
        assert taken(video_decoder="conv", **given) == conv.name
        assert taken(video_decoder="diffusion", **given) == diffusion.name
    assert taken(video_vae=conv) == taken(video_vae=conv, video_decoder="conv") == conv.name


@pytest.mark.parametrize(
    ("decoder", "file", "wanted"),
    [
        ("conv", "video-vae.safetensors", r"convolutional decoder \(ltx-2.5-video-vae-conv-bf16.safetensors\)"),
        ("diffusion", "video-vae-conv.safetensors", r"diffusion decoder \(ltx-2.5-video-vae-bf16.safetensors\)"),
    ],
)
def test_a_decoder_that_is_not_there(both: Path, decoder: str, file: str, wanted: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"{file}: video_decoder='?{decoder}'? asks for a video VAE with the {wanted}"
    ):
        taken(video_vae=both / file, video_decoder=decoder)


def test_words_of_the_choice(both: Path) -> None:
    with pytest.raises(UsageError, match="video_decoder must be one of its choices, got 'vae'"):
        taken(video_vae=both, video_decoder="vae")
    given = stored_values(WeightFiles, {"video_vae": [both / "a", both / "b"], "video_decoder": "conv"})
    plain = plain_values(WeightFiles(**given))
    assert plain["video_vae"] == [str(both / "a"), str(both / "b")]
    assert stored_values(WeightFiles, {"video_vae": plain["video_vae"]}) == {"video_vae": given["video_vae"]}
    assert plain["video_decoder"] == "conv"


def test_decoders_by_class(both: Path) -> None:
    kinds = {"video-vae-conv.safetensors": ConvolutionalDecoder, "video-vae.safetensors": DiffusionDecoder}
    for name, kind in kinds.items():
        config = VIDEO_VAE.parse(Checkpoint.open(both / name))
        assert isinstance(video_decoder(config), kind)
        assert inspect(both / name).complete


def in_names_of_diffusers(values: dict[str, mx.array]) -> dict[str, mx.array]:
    renamed: dict[str, mx.array] = {}
    for name, value in values.items():
        for official, other in (
            ("per_channel_statistics.mean-of-means", "latents_mean"),
            ("per_channel_statistics.std-of-means", "latents_std"),
            ("attn.proj.", "attn.to_out.0."),
            ("q_norm", "norm_q"),
            ("k_norm", "norm_k"),
            ("t_embedder.mlp.0", "t_embedder.timestep_embedder.linear_1"),
            ("t_embedder.mlp.2", "t_embedder.timestep_embedder.linear_2"),
        ):
            name = name.replace(official, other)
        if ".attn.qkv." in name:
            renamed |= {
                name.replace("qkv", f"to_{letter}"): part
                for letter, part in zip("qkv", mx.split(value, 3, axis=0), strict=True)
            }
        else:
            renamed[name] = value
    return renamed


def test_names_of_diffusers(tmp_path: Path) -> None:
    values = tensors(DIFFUSION)
    folder = tmp_path / "decoder"
    folder.mkdir()
    mx.save_safetensors(str(folder / "diffusion_pytorch_model.safetensors"), in_names_of_diffusers(values))
    own = DIFFUSION["decoder"]
    stated = {
        "_class_name": "LTX2VideoDiffusionDecoderModel",
        "decoder_head_dim": 16,
        "decoder_stage_channels": own["stage_channels"],
        "decoder_stage_depths": own["stage_depths"],
        "decoder_stage_kernels": own["stage_kernels"][:4],
        "decoder_stage5_kernel": own["stage5_kernel"],
        "decoder_upsample_channel_reductions": [reduction for _, reduction in own["upsamples"]],
    }
    (folder / "config.json").write_text(json.dumps(stated))
    (part,) = find(folder).parts
    config = VIDEO_VAE.parse(part.checkpoint)
    assert config.diffusion == VideoVaeConfig.from_dict(DIFFUSION).diffusion
    specs = [spec for spec in VIDEO_VAE.specs(config) if not spec.optional]
    loaded = part.checkpoint.load("video_vae", specs)
    for spec in specs:
        found = loaded[spec.name]
        assert mx.array_equal(getattr(found, "values", found), values[spec.name]), spec.name


def test_a_head_of_the_training_is_not_unexpected(tmp_path: Path) -> None:
    file = save(
        tmp_path / "vae.safetensors", DIFFUSION, tensors(DIFFUSION) | {"decoder.coarse_head.weight": mx.zeros(4)}
    )
    report = inspect(file)
    assert report.complete
    assert report.ignored == 1
    without = {name: value for name, value in tensors(DIFFUSION).items() if not name.endswith("type_emb")}
    assert inspect(save(tmp_path / "unmarked.safetensors", DIFFUSION, without)).complete

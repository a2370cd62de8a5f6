"""LoRAs from paths: files, folders of PEFT and diffusers, manifests, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.generation import shown, stated
from ltx2rt.weights.lora.opening import is_lora_path, open_lora
from ltx2rt.weights.safetensors import write_safetensors

Array = np.ndarray[Any, np.dtype[Any]]
MODULE = "transformer_blocks.0.attn1.to_q"
A, B = np.ones((4, 8), np.float32), np.ones((8, 4), np.float32)


def pair(module: str, **more: Array) -> dict[str, Array]:
    return {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B, **{f"{module}.{k}": v for k, v in more.items()}}


def opened(path: Path, tensors: dict[str, Array], **metadata: str) -> LoraFile:
    write_safetensors(path, tensors, metadata)
    return open_lora(path)


def scale(lora: LoraFile) -> float:
    change = lora.change("transformer", f"{MODULE}.weight")
    assert change is not None
    return change.scale.value


def test_a_folder_of_peft_with_its_config(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "adapter_model.safetensors", pair(f"base_model.model.{MODULE}"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        lora = open_lora(path)
        assert lora.path == tmp_path / "adapter_model.safetensors"
        assert scale(lora) == 2.0
        assert is_lora_path(path)


def test_the_config_of_another_file_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}))
    write_safetensors(tmp_path / "adapter_model.safetensors", pair(MODULE))
    assert scale(opened(tmp_path / "style.safetensors", pair(MODULE))) == 1.0


def test_a_folder_of_diffusers_with_other_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "pytorch_lora_weights.safetensors", pair(f"transformer.{MODULE}"))
    write_safetensors(tmp_path / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": A})
    (tmp_path / "README.md").write_text("words")
    assert open_lora(tmp_path).path.name == "pytorch_lora_weights.safetensors"
    assert not is_lora_path(tmp_path)  # it is a folder of a model, too


def test_folders_with_several_or_none(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no LoRA in this folder \(no \.safetensors file in it\); give a LoRA file"
    ):
        open_lora(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which is refused: convert it"):
        open_lora(tmp_path)
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", pair(MODULE))
    with pytest.raises(
        CheckpointError, match=r"holds 2 LoRA files \(a\.safetensors, b\.safetensors\); give one of them"
    ):
        open_lora(tmp_path)


def test_a_manifest_has_shapes_and_no_values(tmp_path: Path) -> None:
    listed = {name: ["BF16", list(value.shape)] for name, value in pair(MODULE, alpha=np.ones(())).items()}
    (tmp_path / "m.json").write_text(json.dumps({"tensors": listed, "metadata": {"model_version": "2.3.0"}}))
    lora = open_lora(tmp_path / "m.json")
    change = lora.change("transformer", f"{MODULE}.weight")
    assert change is not None
    assert (lora.is_manifest, lora.rank, change.shape) == (True, 4, (8, 8))
    message = r"m\.json: a manifest lists tensors without their data; give the LoRA file"
    with pytest.raises(CheckpointError, match=message):
        change.begin(1.0, np.zeros((8, 8), np.float32))
    with pytest.raises(CheckpointError, match=message):
        lora.require_finite()


def test_several_adapters_and_doubled_factors(tmp_path: Path) -> None:
    several = {f"{MODULE}.lora_A.{name}.weight": A for name in ("first", "second")}
    with pytest.raises(CheckpointError, match=r"holds several adapters \(first, second\); give a file with one"):
        opened(tmp_path / "a.safetensors", several)
    with pytest.raises(CheckpointError, match=f"are the same factor of {MODULE}"):
        opened(tmp_path / "b.safetensors", {**pair(MODULE), f"transformer.{MODULE}.lora_A.weight": A})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.weight": A}, "not a LoRA file: no tensor ends in lora_A/lora_B"),
        (
            {"vocoder.act.alpha": A, "model.diffusion_model.patchify_proj.weight": A},
            r"a checkpoint \(it holds transformer, vocoder\), not a LoRA; give it as the checkpoint",
        ),
        (pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj"), "changes a text encoder alone .*LoRAs are not"),
        ({f"{MODULE}.oft_blocks": A}, "OFT adapters are not supported; merge it"),
        ({f"{MODULE}.a1.weight": A, f"{MODULE}.b1.weight": A}, "GLoRA adapters are not supported"),
        ({**pair(MODULE), f"{MODULE}.lora_mid.weight": A}, "lora_mid.weight': the Tucker form is not supported"),
        ({f"{MODULE}.ia3_l": A}, "IA3 adapters are not supported"),
    ],
)
def test_what_is_refused_by_its_name(tmp_path: Path, tensors: dict[str, Array], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: .*{message}"):
        opened(tmp_path / "a.safetensors", tensors)


def test_what_is_not_applied_is_known(tmp_path: Path) -> None:
    tensors = {**pair(MODULE), **pair("text_encoder.model.layers.0.self_attn.q_proj"), "other.tensor": A}
    lora = opened(tmp_path / "a.safetensors", tensors)
    assert lora.text_encoder == ["text_encoder.model.layers.0.self_attn.q_proj"]
    assert lora.strangers == ["other.tensor"]
    assert lora.modules == [MODULE.replace(".", "_")]


@pytest.mark.parametrize(
    ("metadata", "spatial", "temporal"),
    [
        ({}, None, None),
        ({"reference_downscale_factor": "2", "reference_temporal_scale_factor": "3"}, 2, 3),
        ({"ss_reference_downscale_factor": "2"}, 2, None),
        ({"modelspec.Reference_Downscale_Factor": "4.0", "reference_downscale_factor": "4"}, 4, None),
    ],
)
def test_factors_of_references(
    tmp_path: Path, metadata: dict[str, str], spatial: int | None, temporal: int | None
) -> None:
    lora = opened(tmp_path / "a.safetensors", pair(MODULE), **metadata)
    assert (lora.stated_factor("spatial"), lora.stated_factor("temporal")) == (spatial, temporal)


@pytest.mark.parametrize("text", ["half", "0", "1.5", "inf", "nan", "1e99"])
def test_factors_that_cannot_be(tmp_path: Path, text: str) -> None:
    lora = opened(tmp_path / "a.safetensors", pair(MODULE), ss_reference_downscale_factor=text)
    with pytest.raises(
        CheckpointError, match=rf"ss_reference_downscale_factor must be a whole number .*, got '{text}'"
    ):
        lora.stated_factor("spatial")


def test_factors_that_contradict_each_other(tmp_path: Path) -> None:
    both = {"reference_downscale_factor": "1", "ss_reference_downscale_factor": "2"}
    lora = opened(tmp_path / "a.safetensors", pair(MODULE), **both)
    with pytest.raises(CheckpointError, match="metadata contradict each other: reference_downscale_factor = 1, ss_"):
        lora.stated_factor("spatial")


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("model_version", "2.3.0", "2.3"),
        ("model_version", "2.0", "19b"),
        ("model_version", "2.5.1-rc", "2.5"),
        ("model_version", "0.9.8", "LTX-Video"),
        ("model_version", "ltx-2.3-22b-dev", "2.3"),
        ("ss_base_model_version", "ltx2.3", "2.3"),
        ("ss_base_model_version", "ltx_2_3", "2.3"),
        ("ss_base_model_version", "ltx23", "2.3"),
        ("ss_base_model_version", "ltx2", None),
        ("ss_base_model_version", "ltxv2", None),
        ("ss_base_model_version", "ltx2_19b", "19b"),
        ("base_model", "Lightricks/LTX-2.5", "2.5"),
        ("base_model", "Lightricks/LTX-2", "19b"),
        ("base_model", "/models/ltx-2-19b-dev.safetensors", "19b"),
        ("base_model", "ltx-22b-dev", "2.3 or 2.5"),
        ("base_model", "Lightricks/LTX-Video", "LTX-Video"),
        ("base_model", "ltxv-13b-0.9.8-dev", "LTX-Video"),
        ("modelspec.architecture", "ltx-2.3/lora", "2.3"),
        ("modelspec.architecture", "something else", None),
    ],
)
def test_what_metadata_state(tmp_path: Path, key: str, text: str, named: str | None) -> None:
    evidence = stated(opened(tmp_path / "a.safetensors", pair(MODULE), **{key: text}))
    assert (None if evidence is None else evidence.named) == named
    assert evidence is None or evidence.source == f"{key} = {text}"


def test_ltx_video_has_no_sound(tmp_path: Path) -> None:
    tensors = {**pair(MODULE), **pair("transformer_blocks.0.audio_attn1.to_q")}
    metadata = {"modelspec.architecture": "ltx-video/lora", "base_model": "ltxv"}
    assert stated(opened(tmp_path / "a.safetensors", tensors, **metadata)) is None
    evidence = stated(opened(tmp_path / "a.safetensors", pair(MODULE), **metadata))
    assert evidence is not None
    assert evidence.named == "LTX-Video"


def test_what_modules_show(tmp_path: Path) -> None:
    shows = {
        "caption_projection.linear_1": "19b",
        "transformer_blocks.0.attn1.to_gate_logits": "2.3 or 2.5",
        "prompt_adaln.linear": "2.3 or 2.5",
        MODULE: None,
    }
    for module, named in shows.items():
        lora = opened(tmp_path / "a.safetensors", pair(module))
        evidence = shown(lora.modules)
        assert (None if evidence is None else evidence.named) == named
        assert stated(lora) is None


def test_the_folder_of_the_hubs_cache(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    write_safetensors(folder / "snapshots" / "abc" / "style.safetensors", pair(MODULE))
    assert is_lora_path(folder)
    assert open_lora(folder).path.name == "style.safetensors"

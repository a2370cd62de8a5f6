"""Which file each part of a model is taken from, for every way in which people keep them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from renamed_files import MODEL, bare, parts, write
from tiny_files import CONFIG_19B, CONFIG_23, model_specs, tensors_of, upscaler_specs

from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.set_inspection import inspect_set
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2_5
from ltx2rt.weights.sets.pairing import check_declared, check_pairing
from ltx2rt.weights.sets.parts import find
from ltx2rt.weights.sets.resolution import ModelSet, resolve
from ltx2rt.weights.sets.units import followed, layout_of

UPSCALER = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
ALL = {"transformer", "video_connector", "audio_connector", "text_projection", "video_vae", "audio_vae", "vocoder"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of a 2.3 and a 19B model in files of their own, without metadata, and what may lie beside them."""
    folder = tmp_path_factory.mktemp("files")
    for generation, config in (("2.3", CONFIG_23), ("19b", CONFIG_19B)):
        split = parts(tensors_of(model_specs(config)))
        write(folder / f"ltx-{generation}-distilled_transformer_only.safetensors", bare(split["transformer"], MODEL))
        write(folder / f"ltx-{generation}-dev_transformer_only.safetensors", split["transformer"])
        write(folder / f"ltx-{generation}_connectors.safetensors", split["connectors"] | split["projection"])
        write(folder / f"ltx-{generation}-video_vae.safetensors", bare(split["vae"], "vae."))
        write(folder / f"ltx-{generation}-audio_vae.safetensors", split["audio"])
        whole = {name: value for part in split.values() for name, value in part.items()}
        write(folder / f"ltx-{generation}-distilled.safetensors", whole, config=json.dumps(config))
    gemma = {"model.embed_tokens.weight": mx.zeros((8, 16)), "model.layers.0.input_layernorm.weight": mx.zeros(16)}
    write(folder / "gemma_3.safetensors", gemma)
    for name, kind in (("spatial", {"spatial_upsample": True}), ("temporal", {"temporal_upsample": True})):
        config = {"spatial_upsample": False, "temporal_upsample": False, **UPSCALER, **kind}
        write(folder / f"{name}-upscaler.safetensors", tensors_of(upscaler_specs(config)))
    write(folder / "flux.safetensors", {"double_blocks.0.img_attn.qkv.weight": mx.zeros((2, 2))})
    write(folder / "t5xxl.safetensors", {"encoder.block.0.layer.0.SelfAttention.q.weight": mx.zeros((2, 2))})
    write(folder / "taeltx.safetensors", {"decoder.1.weight": mx.zeros((2, 2, 3, 3))})
    write(folder / "some-lora.safetensors", {f"{MODEL}x.lora_A.weight": mx.zeros((2, 2))})
    return folder


def placed(files: Path, folder: Path, places: Mapping[str, str]) -> Path:
    """A folder with links to some files: name there -> file."""
    for there, file in places.items():
        (folder / there).parent.mkdir(parents=True, exist_ok=True)
        (folder / there).symlink_to(files / f"{file}.safetensors")
    return folder


SPLIT_23 = {
    "a-distilled.safetensors": "ltx-2.3-distilled_transformer_only",
    "b.safetensors": "ltx-2.3_connectors",
    "c.safetensors": "ltx-2.3-video_vae",
    "d.safetensors": "ltx-2.3-audio_vae",
    "e.safetensors": "gemma_3",
}


def taken_names(found: ModelSet) -> dict[str, str]:
    return {setting: path.name for setting, path in found.taken.items()}


def test_one_file_needs_nothing_and_tells_nothing(files: Path) -> None:
    found = resolve(files / "ltx-2.3-distilled.safetensors", {"text_encoder": files / "gemma_3.safetensors"})
    assert found.sources.keys() == ALL | {"text_encoder"}
    assert (dict(found.gaps), dict(found.taken)) == ({}, {})
    assert len({id(source) for name, source in found.sources.items() if name != "text_encoder"}) == 1


def test_parts_of_a_flat_folder(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23 | {"z.safetensors": "flux", "y.safetensors": "some-lora"})
    found = resolve(folder, {})
    assert found.sources.keys() == ALL | {"text_encoder"}
    assert taken_names(found) == {
        "transformer": "a-distilled.safetensors",
        "connectors": "b.safetensors",
        "text_projection": "b.safetensors",
        "text_encoder": "e.safetensors",
        "video_vae": "c.safetensors",
        "audio_vae": "d.safetensors",
        "vocoder": "d.safetensors",
    }
    assert found.gaps == {}


def test_siblings_of_a_transformer_fill_gaps_only(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23)
    (tmp_path / "elsewhere").mkdir()
    other = placed(files, tmp_path / "elsewhere", {"vae.safetensors": "ltx-2.3-video_vae"}) / "vae.safetensors"
    found = resolve(folder / "a-distilled.safetensors", {"video_vae": other})
    assert "transformer" not in found.taken
    assert "video_vae" not in found.taken
    assert found.sources["video_vae"].path == other
    assert found.sources["audio_vae"].path.name == "d.safetensors"


def test_parts_of_another_generation_are_never_taken(files: Path, tmp_path: Path) -> None:
    mixed = {
        **SPLIT_23,
        "b.safetensors": "ltx-19b_connectors",
        "d.safetensors": "ltx-19b-audio_vae",
        "m.safetensors": "ltx-19b-distilled",
    }
    folder = placed(files, tmp_path, mixed)
    found = resolve(folder / "a-distilled.safetensors", {})
    assert found.gaps.keys() == {"connectors", "text_projection", "audio_vae", "vocoder"}
    assert "no connectors of generation 2.3: give connectors=FILE (usually ltx-2.3" in found.gaps["connectors"]
    assert "not taken: b.safetensors (19b), m.safetensors (19b)" in found.gaps["connectors"]
    with pytest.raises(CheckpointError, match=r"b.safetensors: connectors of generation 19b \(no gates\), but a-dist"):
        resolve(folder / "a-distilled.safetensors", {"connectors": folder / "b.safetensors"})


def test_dev_goes_with_dev(files: Path, tmp_path: Path) -> None:
    folder = placed(
        files,
        tmp_path,
        {
            "dev.safetensors": "ltx-19b-dev_transformer_only",
            "connectors-dev.safetensors": "ltx-19b_connectors",
            "connectors-distilled.safetensors": "ltx-19b_connectors",
        },
    )
    found = resolve(folder / "dev.safetensors", {})
    assert found.sources["video_connector"].path.name == "connectors-dev.safetensors"
    (folder / "connectors-dev.safetensors").unlink()
    assert "not taken: connectors-distilled.safetensors" in resolve(folder / "dev.safetensors", {}).gaps["connectors"]


def test_several_candidates_are_listed_with_the_option(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23)
    values = {n: mx.ones(i.shape, mx.bfloat16) for n, i in Checkpoint.open(folder / "c.safetensors").tensors.items()}
    write(folder / "second-vae.safetensors", values)
    found = resolve(folder, {})
    assert found.gaps["video_vae"].startswith("several video VAEs: ")
    assert "second-vae.safetensors" in found.gaps["video_vae"]
    assert "name one with video_vae=FILE" in found.gaps["video_vae"]
    named = resolve(folder, {"video_vae": folder / "c.safetensors"})
    assert named.gaps == {}


def test_the_same_part_twice_is_one(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23 | {"b2.safetensors": "ltx-2.3_connectors"})
    shutil.copyfile(files / "ltx-2.3-video_vae.safetensors", folder / "copy.safetensors")
    assert resolve(folder, {}).gaps == {}


def test_of_several_text_encoders_the_one_of_its_size_is_taken(files: Path, tmp_path: Path) -> None:
    split = {name: file for name, file in SPLIT_23.items() if file != "gemma_3"}
    folder = placed(files, tmp_path, split)
    projection = Checkpoint.open(folder / "b.safetensors").names("text_projection")
    width = projection["video_aggregate_embed.weight"].shape[1]
    for name, hidden in (("4b", 6), ("12b", width // 2)):
        tensors = {"model.norm.weight": mx.zeros(hidden), "model.layers.0.input_layernorm.weight": mx.zeros(hidden)}
        write(folder / f"gemma_3_{name}.safetensors", tensors)
    assert resolve(folder, {}).sources["text_encoder"].path.name == "gemma_3_12b.safetensors"
    (folder / "gemma_3_12b.safetensors").unlink()
    write(folder / "gemma_3_27b.safetensors", {"model.norm.weight": mx.zeros(10)})
    assert resolve(folder, {}).gaps["text_encoder"].startswith("several text encoders: ")


def test_several_transformers(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23 | {"x-dev.safetensors": "ltx-2.3-dev_transformer_only"})
    message = (
        r"several transformers: .*a-distilled.* \(2.3 distilled\), .*x-dev.* \(2.3 dev\); name one with transformer="
    )
    with pytest.raises(CheckpointError, match=message):
        resolve(folder, {})
    assert resolve(folder, {}, "dev").sources["transformer"].path.name == "x-dev.safetensors"
    named = resolve(folder, {"transformer": folder / "a-distilled.safetensors"})
    assert named.sources["transformer"].path.name == "a-distilled.safetensors"
    assert named.gaps == {}


COMFYUI = {
    "diffusion_models/ltx2/a-distilled.safetensors": "ltx-2.3-distilled_transformer_only",
    "diffusion_models/flux.safetensors": "flux",
    "text_encoders/b.safetensors": "ltx-2.3_connectors",
    "text_encoders/old.safetensors": "ltx-19b_connectors",
    "text_encoders/gemma.safetensors": "gemma_3",
    "text_encoders/t5.safetensors": "t5xxl",
    "vae/ltx/c.safetensors": "ltx-2.3-video_vae",
    "vae/d.safetensors": "ltx-2.3-audio_vae",
    "vae_approx/tae.safetensors": "taeltx",
    "latent_upscale_models/up.safetensors": "spatial-upscaler",
    "loras/l.safetensors": "some-lora",
}


@pytest.mark.parametrize("given", [".", "diffusion_models/ltx2/a-distilled.safetensors"])
def test_the_models_folder_of_comfyui(files: Path, tmp_path: Path, given: str) -> None:
    root = placed(files, tmp_path / "models", COMFYUI)
    found = resolve(root / given, {})
    assert found.gaps == {}
    assert found.sources.keys() == ALL | {"text_encoder", "spatial_upscaler"}
    assert found.sources["video_connector"].path == root / "text_encoders/b.safetensors"
    assert found.sources["video_vae"].path == root / "vae/ltx/c.safetensors"


@pytest.mark.parametrize("old", ["unet", "diffusion_models"])
def test_its_old_folder_names(files: Path, tmp_path: Path, old: str) -> None:
    renamed = {"diffusion_models": old, "text_encoders": "clip"}
    places = {
        "/".join(renamed.get(element, element) for element in there.split("/")): file for there, file in COMFYUI.items()
    }
    root = placed(files, tmp_path, places)
    assert layout_of(root) == "comfyui"
    assert resolve(root / old / "ltx2/a-distilled.safetensors", {}).gaps == {}


def test_upscalers_are_taken_where_there_is_one(files: Path, tmp_path: Path) -> None:
    folder = placed(
        files, tmp_path, SPLIT_23 | {"s.safetensors": "spatial-upscaler", "t.safetensors": "temporal-upscaler"}
    )
    found = resolve(folder, {})
    assert found.sources["spatial_upscaler"].path.name == "s.safetensors"
    assert found.sources["temporal_upscaler"].path.name == "t.safetensors"
    values = {n: mx.ones(i.shape, mx.bfloat16) for n, i in Checkpoint.open(folder / "s.safetensors").tensors.items()}
    write(folder / "s2.safetensors", values)
    several = resolve(folder, {})
    assert "spatial_upscaler" not in several.sources
    assert "several spatial upscalers" in several.gaps["spatial_upscaler"]


def test_the_temporal_upscaler_of_25_is_none_in_space(tmp_path: Path) -> None:
    kind = {"spatial_upsample": False, "temporal_upsample": True, "spatial_scale": 1.0, "rational_resampler": True}
    config = UPSCALER | kind
    path = write(tmp_path / "t.safetensors", tensors_of(upscaler_specs(config)), config=json.dumps(config))
    assert [part.component for part in find(path).parts] == ["temporal_upscaler"]


def test_a_gemma_folder_beside_the_model(files: Path, tmp_path: Path) -> None:
    model = placed(files, tmp_path, {"m-distilled.safetensors": "ltx-2.3-distilled"}) / "m-distilled.safetensors"
    assert "no text encoder of generation 2.3" in resolve(model, {}).gaps["text_encoder"]
    gemma = placed(files, tmp_path / "gemma-3-12b", {"model.safetensors": "gemma_3"})
    (gemma / "config.json").write_text('{"model_type": "gemma3", "text_config": {}}')
    found = resolve(model, {})
    assert found.taken == {"text_encoder": gemma}


def test_the_cache_of_the_hub(files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--Lightricks--LTX-2.3"
    for revision in ("aaa", "bbb"):
        placed(files, cache / "snapshots" / revision, {"m-distilled.safetensors": "ltx-2.3-distilled"})
    with pytest.raises(CheckpointError, match=r"without a current snapshot \(there are: aaa, bbb\)"):
        find(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb\n")
    assert followed(cache) == cache / "snapshots" / "bbb"
    assert resolve(cache, {}).sources["transformer"].path == cache / "snapshots" / "bbb" / "m-distilled.safetensors"


def test_metadata_may_be_in_any_file_of_the_set(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, {k: v for k, v in SPLIT_23.items() if k != "d.safetensors"})
    section = {**CONFIG_23["transformer"], "norm_eps": 1e-5}
    audio = {n: f.mlx(n) for f in Checkpoint.open(files / "ltx-2.3-audio_vae.safetensors").files for n in f.tensors}
    write(folder / "d.safetensors", audio, config=json.dumps({"transformer": section, "vae": CONFIG_23["vae"]}))
    found = resolve(folder, {})
    assert found.sources["transformer"].section("transformer")["norm_eps"] == 1e-5
    assert found.sources["text_projection"].section("text_projection")["norm_eps"] == 1e-5
    assert found.sources["video_vae"].section("video_vae")["encoder_base_channels"] == 8
    assert found.sources["vocoder"].section("vocoder")["bwe"]["num_mels"] == 64  # inferred


def test_a_set_without_metadata_is_configured_by_its_tensors(files: Path, tmp_path: Path) -> None:
    found = resolve(placed(files, tmp_path, SPLIT_23), {})
    section = found.sources["text_projection"].section("text_projection")
    assert section["connector_num_attention_heads"] == 2
    assert section["audio_connector_attention_head_dim"] == 16
    assert section["caption_proj_before_connector"] is True


def test_a_file_given_for_another_part(files: Path) -> None:
    model = files / "ltx-2.3-distilled.safetensors"
    with pytest.raises(CheckpointError, match=r"gemma_3.safetensors: not a video VAE: it holds text_encoder"):
        resolve(model, {"video_vae": files / "gemma_3.safetensors"})
    with pytest.raises(CheckpointError, match=r"gemma_3.safetensors: not a model checkpoint: it holds text_encoder"):
        resolve(files / "gemma_3.safetensors", {})
    with pytest.raises(CheckpointError, match="a preview decoder"):
        resolve(model, {"video_vae": files / "taeltx.safetensors"})


def test_a_folder_of_strangers(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, {"a.safetensors": "flux", "b.safetensors": "t5xxl"})
    with pytest.raises(CheckpointError, match=r"no file in this folder belongs .*flux|none of its 1 .*\(and 1 more\)"):
        find(folder)


def test_connectors_that_do_not_state_their_generation(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = files / "ltx-2.3-distilled_transformer_only.safetensors"
    resolve(model, {"connectors": files / "ltx-2.3_connectors.safetensors"})
    assert caplog.text == ""  # of the same folder
    elsewhere = placed(files, tmp_path, {"c.safetensors": "ltx-2.3_connectors"}) / "c.safetensors"
    resolve(model, {"connectors": elsewhere})
    assert f"{elsewhere} does not state its generation" in caplog.text


STALE = {"model-00001-of-00002": ("embed_tokens.weight",), "model-00002-of-00002": ("norm.weight",)}


def gemma_folder(folder: Path, weight_map: Mapping[str, str]) -> Path:
    for shard, names in STALE.items():
        write(folder / f"{shard}.safetensors", {f"language_model.model.{name}": mx.zeros((4, 4)) for name in names})
    (folder / "config.json").write_text('{"model_type": "gemma3"}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_a_stale_index_is_no_obstacle(tmp_path: Path) -> None:
    names = [name for shard in STALE.values() for name in shard]
    stale = {f"language_model.model.{name}": f"model-0000{i}-of-00005.safetensors" for i, name in enumerate(names)}
    stale["vision_tower.x"] = "model-00004-of-00005.safetensors"
    (tmp_path / "gemma.gguf").write_bytes(b"GGUF")  # which is no shard
    checkpoint = Checkpoint.open(gemma_folder(tmp_path, stale))
    assert checkpoint.names("text_encoder").keys() == set(names)
    stale["language_model.model.layers.0.x"] = "model-00005-of-00005.safetensors"
    message = (
        r"4 of 4 weight files are missing \(.*model-00005-of-00005.*\), and with them 1 tensors, such as .*layers.0.x"
    )
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(gemma_folder(tmp_path, stale))


def test_the_unmarked_variant_of_a_diffusers_component(tmp_path: Path) -> None:
    config = {"_class_name": "AutoencoderKLLTX2Audio"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = {"latents_mean": (4,), "latents_std": (4,), "decoder.conv_in.conv.weight": (2, 2, 3, 3)}
    for file, value in (("diffusion_pytorch_model", 1.0), ("diffusion_pytorch_model.fp16", 2.0)):
        write(tmp_path / f"{file}.safetensors", {name: mx.full(shape, value) for name, shape in names.items()})
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "diffusion_pytorch_model.safetensors")})
    )
    checkpoint = Checkpoint.open(tmp_path)
    assert [file.path.name for file in checkpoint.files] == ["diffusion_pytorch_model.safetensors"]
    assert checkpoint.components == {"audio_vae"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma3"}, ""),
        ({"model_type": "gemma4_unified", "gemma_version": "gemma4-12b-ltx-v1"}, ""),
        ({"model_type": "gemma4_unified"}, "declares no gemma_version; LTX-2.5 needs gemma4-12b-ltx-v1"),
    ],
)
def test_what_a_text_encoder_declares(config: dict[str, Any], said: str) -> None:
    assert check_declared(config, "e") == said


def test_stock_gemma_4_is_refused_and_an_undeclared_one_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError, match=r"e: a stock Gemma \(gemma-4-12b-it\); LTX-2.5 needs its fine-tune"):
        check_declared({"model_type": "gemma4_unified", "gemma_version": "gemma-4-12b-it"}, "e")
    check_pairing({}, {"model_type": "gemma4_unified"}, "m", "e", LTX_2_5)
    assert "e does not declare its gemma_version; m needs gemma4-12b-ltx-v1" in caplog.text


def test_links_and_text_encoder_folders_in_a_models_folder(files: Path, tmp_path: Path) -> None:
    elsewhere = placed(files, tmp_path / "disk", {k: v for k, v in COMFYUI.items() if k.startswith("text_encoders/b")})
    root = placed(files, tmp_path / "models", {k: v for k, v in COMFYUI.items() if not k.startswith("text_encoders")})
    (root / "text_encoders").symlink_to(elsewhere / "text_encoders")
    (elsewhere / "text_encoders" / "loop").symlink_to(elsewhere / "text_encoders")
    gemma = placed(files, elsewhere / "text_encoders" / "gemma", {"model-00001-of-00002.safetensors": "gemma_3"})
    write(gemma / "model-00002-of-00002.safetensors", {"model.norm.weight": mx.zeros(16)})
    (gemma / "config.json").write_text('{"model_type": "gemma3", "text_config": {"sliding_window": 48}}')
    found = resolve(root, {})
    assert found.gaps == {}
    assert found.sources["text_encoder"].section("text_encoder")["text_config"]["sliding_window"] == 48
    assert len(found.sources["text_encoder"].files) == 2


def test_what_nobody_asked_for_may_be_broken(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, SPLIT_23)
    (folder / "z.safetensors").write_bytes(b"\x10")
    (folder / "y.safetensors").symlink_to(tmp_path / "absent")
    (folder / "models--a--b" / "snapshots").mkdir(parents=True)
    (folder / "gemma-broken").mkdir()
    (folder / "gemma-broken" / "config.json").write_text("{")
    assert resolve(folder / "a-distilled.safetensors", {}).gaps == {}


def test_a_component_of_a_repository_finds_the_others(files: Path, tmp_path: Path) -> None:
    split = {
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": "ltx-2.3-distilled_transformer_only",
        "connectors/diffusion_pytorch_model.safetensors": "ltx-2.3_connectors",
        "vae/diffusion_pytorch_model.safetensors": "ltx-2.3-video_vae",
        "audio/diffusion_pytorch_model.safetensors": "ltx-2.3-audio_vae",
    }
    repository = placed(files, tmp_path, split)
    (repository / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    extra = {"transformer_blocks.7.x": mx.zeros(1)}
    write(repository / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors", extra)
    (repository / "transformer/config.json").write_text(
        '{"_class_name": "LTX2VideoTransformer3DModel", "norm_eps": 1e-5}'
    )
    for given in ("transformer", "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"):
        found = resolve(repository / given, {})
        assert found.gaps.keys() == {"text_encoder"}
        assert len(found.sources["transformer"].files) == 2
        assert found.sources["transformer"].section("transformer")["norm_eps"] == 1e-5


def test_a_gemma_folder_with_what_else_lies_in_it(files: Path, tmp_path: Path) -> None:
    folder = placed(files, tmp_path, {"model.safetensors": "gemma_3", "style.safetensors": "some-lora"})
    (folder / "config.json").write_text('{"model_type": "gemma3"}')
    (folder / "gemma-Q4.gguf").write_bytes(b"GGUF")
    assert [file.path.name for file in Checkpoint.open(folder).files] == ["model.safetensors"]


@pytest.mark.parametrize(("version", "wrong"), [("2.0", False), ("2.3.0", True), ("2.5.0", True)])
def test_a_header_that_contradicts_the_tensors(files: Path, tmp_path: Path, version: str, wrong: bool) -> None:
    source = Checkpoint.open(files / "ltx-19b-dev_transformer_only.safetensors")
    tensors = {name: file.mlx(name) for file in source.files for name in file.tensors}
    config = json.dumps({"transformer": CONFIG_19B["transformer"]})
    path = write(tmp_path / "a.safetensors", tensors, config=config, model_version=version)
    report = inspect(path)
    message = rf"the header states model version {version} \(.*\), but the tensors are those of 19b"
    assert bool(re.search(message, report.components[0].error)) == wrong
    assert report.complete == (not wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "transformer/config.json",
            '{"_class_name": "LTX2VideoTransformer3DModel", "num_layers": [], "rope_theta": "x"}',
        ),
        ("connectors/config.json", '{"_class_name": "LTX2TextConnectors", "video_connector_num_layers": {}}'),
        ("model_index.json", '{"_class_name": ["LTX2Pipeline"]}'),
        ("transformer/config.json", "[]"),
        ("vae/config.json", '{"_class_name": 3}'),
    ],
)
def test_damaged_descriptions_of_a_repository_are_errors(files: Path, tmp_path: Path, name: str, text: str) -> None:
    split = {
        "transformer/diffusion_pytorch_model.safetensors": "ltx-2.3-distilled_transformer_only",
        "connectors/diffusion_pytorch_model.safetensors": "ltx-2.3_connectors",
        "vae/diffusion_pytorch_model.safetensors": "ltx-2.3-video_vae",
    }
    repository = placed(files, tmp_path, split)
    (repository / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    (repository / name).write_text(text)
    said: list[str] = []
    try:
        said += [] if inspect_set(repository).complete else ["incomplete"]
    except CheckpointError as error:
        said.append(str(error))
    assert said

"""Names and layouts of other programs become the official ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from renamed_files import (
    MODEL,
    bare,
    channels_last,
    diffusers_configs,
    diffusers_repository,
    is_transformer,
    mlx_pack,
    parts,
    write,
)
from tiny_files import CONFIG_19B, CONFIG_23, GENERATOR, model_specs, tensors_of, upscaler_specs

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import COMPONENTS
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import write_safetensors
from ltx2rt.weights.sets.resolution import resolve

LETTERS = {"19b": CONFIG_19B, "2.3": CONFIG_23}


@pytest.fixture(scope="module", params=[pytest.param("19b", marks=pytest.mark.slow), "2.3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A single file in official form."""
    config = LETTERS[request.param]
    path = tmp_path_factory.mktemp("model") / f"{request.param}-distilled.safetensors"
    tensors = tensors_of(model_specs(config))
    write_safetensors(
        path, tensors, {"config": json.dumps(config), "model_version": request.param.replace("19b", "2.0")}
    )
    return Checkpoint.open(path)


def tensors_in(checkpoint: Checkpoint) -> dict[str, mx.array]:
    return {name: file.mlx(name) for file in checkpoint.files for name in file.tensors}


def values(loaded: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    dense = {n: a.values if isinstance(a, LinearWeight) else a for n, a in loaded.items()}
    return {name: np.array(array.astype(mx.float32)) for name, array in dense.items()}


def assert_same(sources: Mapping[str, Checkpoint], model: Checkpoint) -> None:
    """Every component is complete, known to the last tensor, configured alike, and has the same values."""
    for name in model.components:
        component = COMPONENTS[name]
        specs = component.expectation(model).specs
        assert sources[name].problems(name, specs) == ([], []), name
        assert sources[name].unexpected(name, specs) == [], name
        assert component.parse(sources[name]) == component.parse(model), name
        found, expected = values(sources[name].load(name, specs)), values(model.load(name, specs))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=f"{name}: {key}")


def test_a_diffusers_repository(tmp_path: Path, model: Checkpoint) -> None:
    repository = diffusers_repository(tmp_path / "repo", tensors_in(model), diffusers_configs(model.config))
    sources = resolve(repository, {}).sources
    assert_same(sources, model)
    assert_same(dict.fromkeys(model.components, Checkpoint.open(repository)), model)


def test_an_mlx_pack(tmp_path: Path, model: Checkpoint) -> None:
    pack = mlx_pack(tmp_path / "pack", tensors_in(model), model.config, model.metadata["model_version"])
    found = resolve(pack, {})
    assert found.sources["transformer"].variant == "distilled"
    assert found.sources["transformer"].path.name == "transformer-distilled.safetensors"
    assert_same(found.sources, model)


def test_one_file_for_mlx_with_what_it_left_as_it_was(tmp_path: Path, model: Checkpoint) -> None:
    """Buffers of the vocoder and the whole upscaler keep the official order; the audio VAE has its decoder alone."""
    tensors: dict[str, mx.array] = {}
    for name, value in tensors_in(model).items():
        if name.startswith("vae."):
            rest = name.removeprefix("vae.")
            half, _, rest = ("decoder", "", rest) if rest.startswith("per_channel") else rest.partition(".")
            if rest.startswith("per_channel"):  # each half has its own, under names of its own
                own = rest.replace("mean-of-means", "_mean_of_means").replace("std-of-means", "_std_of_means")
                tensors[f"vae_encoder.{own}"] = value
            rest = rest.replace("mean-of-means", "mean").replace("std-of-means", "std")
            tensors[f"vae_{half}.{rest}"] = channels_last(name, value)
        elif name.startswith("audio_vae.decoder."):
            tensors["audio_vae." + name.removeprefix("audio_vae.decoder.")] = channels_last(name, value)
        elif name.startswith("vocoder."):
            buffer = name.endswith(("filter", "_basis"))
            tensors["vocoder." + name.replace("vocoder.", "")] = value if buffer else channels_last(name, value)
        elif name.startswith("audio_vae.per"):
            tensors[name.replace("mean-of-means", "_mean_of_means").replace("std-of-means", "_std_of_means")] = value
    stated = {"config": json.dumps(model.config), "format": "mlx"}
    checkpoint = Checkpoint.open(write(tmp_path / "model.safetensors", tensors, **stated))
    assert checkpoint.unknown == []
    for name in ("video_vae", "vocoder"):
        specs = COMPONENTS[name].expectation(model).specs
        found, expected = values(checkpoint.load(name, specs)), values(model.load(name, specs))
        assert all(np.array_equal(found[key], expected[key]) for key in expected), name
    specs = COMPONENTS["audio_vae"].expectation(checkpoint).specs
    found, expected = values(checkpoint.load("audio_vae", specs)), values(model.load("audio_vae", specs))
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("order", ["official", "channels last"])
def test_an_upscaler_of_a_pack(tmp_path: Path, order: str) -> None:
    config = {"_class_name": "LatentUpsampler", "in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1}
    config |= {"dims": 3, "spatial_upsample": True, "temporal_upsample": False}
    tensors = tensors_of(upscaler_specs(config))
    official = Checkpoint.open(write(tmp_path / "official.safetensors", tensors))
    renamed = {
        f"spatial_upscaler_x2_v1_1.{name}": value if order == "official" or value.ndim < 3 else moved(value)
        for name, value in tensors.items()
    }
    checkpoint = Checkpoint.open(write(tmp_path / "pack.safetensors", renamed, format="mlx"))
    specs = COMPONENTS["upscaler"].expectation(official).specs
    found, expected = values(checkpoint.load("upscaler", specs)), values(official.load("upscaler", specs))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def moved(value: mx.array) -> mx.array:
    axes = (0, *range(2, value.ndim), 1)
    return mx.array(np.array(value.astype(mx.float32)).transpose(axes)).astype(value.dtype)


@pytest.mark.parametrize("part", ["audio_vae.", "vocoder."])
def test_a_pack_is_known_by_its_order_of_axes(tmp_path: Path, model: Checkpoint, part: str) -> None:
    tensors = {name: value for name, value in tensors_in(model).items() if name.startswith(part)}
    path = write(tmp_path / "part.safetensors", {name: channels_last(name, value) for name, value in tensors.items()})
    specs = COMPONENTS[part[:-1]].expectation(model).specs
    found, expected = values(Checkpoint.open(path).load(part[:-1], specs)), values(model.load(part[:-1], specs))
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_cube_goes_with_the_other_tensors_of_its_file(tmp_path: Path) -> None:
    cube = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    for order, first in (("last", (8, 7, 16)), ("official", (8, 16, 7))):
        tensors = {"vocoder.conv_pre.weight": mx.zeros(first), "vocoder.resblocks.0.convs1.0.weight": mx.array(cube)}
        path = write(tmp_path / f"{order}.safetensors", tensors, format="mlx")
        spec = ParamSpec("resblocks.0.convs1.0.weight", (3, 3, 3))
        found = np.array(Checkpoint.open(path).load("vocoder", [spec])[spec.name])
        np.testing.assert_array_equal(found, cube if order == "official" else cube.transpose(0, 2, 1))


def test_axes_that_fit_no_order_are_a_wrong_shape(tmp_path: Path) -> None:
    tensors = {"vocoder.conv_pre.weight": mx.zeros((8, 7, 16))}
    path = write(tmp_path / "a.safetensors", tensors, format="mlx")
    with pytest.raises(CheckpointError, match=r"conv_pre.weight is F32 \[8, 16, 7\], expected \[8, 15, 7\]"):
        Checkpoint.open(path).load("vocoder", [ParamSpec("conv_pre.weight", (8, 15, 7))])


@pytest.mark.parametrize("wrapper", ["", "diffusion_model.", "transformer.", "model.", "net."])
def test_what_stands_before_the_names_of_a_transformer(tmp_path: Path, model: Checkpoint, wrapper: str) -> None:
    found = {n: v for n, v in tensors_in(model).items() if is_transformer(n)}
    renamed = {wrapper + name: value for name, value in bare(found, MODEL).items()}
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", renamed))
    assert (checkpoint.components, checkpoint.unknown) == ({"transformer"}, [])
    assert checkpoint.names("transformer") == {n: checkpoint.tensors[wrapper + n] for n in bare(found, MODEL)}


def test_a_merge_of_bare_and_prefixed_components(tmp_path: Path, model: Checkpoint) -> None:
    split = parts(tensors_in(model))
    merged = bare(split["transformer"], MODEL) | split["connectors"] | split["audio"] | bare(split["vae"], "vae.")
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", merged))
    assert checkpoint.components == model.components - {"text_projection"}
    assert checkpoint.unknown == []


@pytest.mark.parametrize(
    ("tensors", "components"),
    [
        ({"encoder.conv_in.conv.weight": (2, 3, 1, 1, 1), "per_channel_statistics.x": (1,)}, {"video_vae"}),
        ({"text_encoder.layers.0.x": (1,)}, {"text_encoder"}),
        ({"decoder.conv_in.conv.weight": (2, 3, 1, 1), "decoder.x": (1,)}, {"audio_vae"}),
        ({"text_embedding_projection.weight": (2, 3)}, {"text_projection"}),
        ({"text_encoders.gemma3_12b.transformer.model.layers.0.x": (1,)}, {"text_encoder"}),
        (
            {"text_encoder.layers.0.x": (1,), "connector.text_embedding_projection.x": (1,)},
            {"text_encoder", "text_projection"},
        ),
        ({"attention_pooler.query_tokens": (1, 4), "mlp_hidden.weight": (4, 4)}, {"duration_head"}),
    ],
)
def test_components_by_content(tmp_path: Path, tensors: dict[str, tuple[int, ...]], components: set[str]) -> None:
    path = write(tmp_path / "a.safetensors", {name: mx.zeros(shape) for name, shape in tensors.items()})
    assert Checkpoint.open(path).components == components


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (2, 2)}, "a T5 text encoder, not a Gemma"),
        ({"decoder.1.weight": (2, 2, 3, 3)}, "a preview decoder"),
        ({"taehv.decoder.3.conv.weight": (2, 2, 3, 3)}, "a preview decoder"),
        (
            {f"{MODEL}patchify_proj.weight": (4, 4), f"{MODEL}transformer_blocks.0.attn1.to_q.weight": (4, 4)},
            "a transformer of LTX-Video",
        ),
        ({"encoder.x": (1,)}, "none of its 1 tensors belongs to an LTX-2 model"),
        (
            {f"model.layers.0.{name}.weight": (2,) for name in ("post_attention_layernorm", "self_attn.q_norm")},
            "a language model that is neither Gemma 3 nor Gemma 4 .its layers have no pre_feedforward_layernorm.",
        ),
        # A video VAE of another model.
        ({"encoder.conv_in.conv.weight": (2, 3, 3, 3, 3)}, "none of its 1 tensors belongs to an LTX-2 model"),
    ],
)
def test_other_models_are_named(tmp_path: Path, tensors: dict[str, tuple[int, ...]], message: str) -> None:
    path = write(tmp_path / "a.safetensors", {name: mx.zeros(shape) for name, shape in tensors.items()})
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize("before", ["attention_pooler.", "duration_head.attention_pooler.cross_attn."])
def test_a_duration_head_with_its_projections_apart(tmp_path: Path, before: str) -> None:
    generator = np.random.default_rng(5)
    weights = {letter: generator.normal(size=(4, 4)).astype(np.float32) for letter in "qkv"}
    biases = {letter: generator.normal(size=4).astype(np.float32) for letter in "qkv"}
    tensors = {f"{before}to_{letter}.weight": mx.array(weights[letter]) for letter in "vqk"}
    tensors |= {f"{before}to_{letter}.bias": mx.array(biases[letter]) for letter in "kvq"}
    tensors |= {f"{before}to_out.weight": mx.zeros((4, 4))}
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", tensors))
    attention = "attention_pooler.cross_attn."
    specs = [ParamSpec(f"{attention}in_proj_weight", (12, 4)), ParamSpec(f"{attention}in_proj_bias", (12,))]
    specs.append(ParamSpec(f"{attention}out_proj.weight", (4, 4)))
    assert sorted(checkpoint.names("duration_head")) == sorted(spec.name for spec in specs)
    loaded = values(checkpoint.load("duration_head", specs))
    np.testing.assert_array_equal(loaded[specs[0].name], np.concatenate([weights[letter] for letter in "qkv"]))
    np.testing.assert_array_equal(loaded[specs[1].name], np.concatenate([biases[letter] for letter in "qkv"]))
    stream = checkpoint.stream("duration_head", [specs])
    np.testing.assert_array_equal(np.array(stream(0)[specs[0].name]), loaded[specs[0].name])
    stream.clear()


def test_a_vocoder_is_inferred_in_any_order(tmp_path: Path) -> None:
    config = {**CONFIG_19B, "vocoder": GENERATOR}
    tensors = {n: channels_last(n, v) for n, v in tensors_of(model_specs(config)).items() if n.startswith("vocoder.")}
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", tensors, format="mlx"))
    assert checkpoint.section("vocoder")["upsample_kernel_sizes"] == GENERATOR["upsample_kernel_sizes"]

"""Configuration from metadata, and from tensors alone where metadata is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_files import (
    CONFIG_19B,
    CONFIG_23,
    TRANSFORMER_25,
    model_specs,
    tensors_of,
    upscaler_specs,
    write_model,
)

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.inspection import inspect
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.config import require_plausible
from ltx2rt.weights.generations import LTX_2, LTX_2_3, LTX_2_5, Generation, parse_version
from ltx2rt.weights.safetensors import write_safetensors


def differences(stated: Any, inferred: Any, path: str = "") -> list[str]:
    """Where ``inferred`` says something else than ``stated``, or nothing."""
    if isinstance(stated, Mapping) and isinstance(inferred, Mapping):
        return [d for key in stated for d in differences(stated[key], inferred.get(key), f"{path}.{key}")]
    return [] if stated == inferred else [f"{path}: {stated} became {inferred}"]


def test_an_empty_configuration_is_none(tmp_path: Path) -> None:
    specs = model_specs(CONFIG_23)
    stated = Checkpoint.open(write_model(tmp_path / "stated.safetensors", specs, CONFIG_23))
    tensors = tensors_of(specs)
    for text in ("null", "", " None ", "{}", '{"transformer": null, "vae": null}'):
        write_safetensors(tmp_path / "empty.safetensors", tensors, {"config": text})
        empty = Checkpoint.open(tmp_path / "empty.safetensors")
        assert empty.generation == stated.generation == LTX_2_3, text
        assert TRANSFORMER.parse(empty) == TRANSFORMER.parse(stated), text


@pytest.mark.parametrize("config", [CONFIG_19B, CONFIG_23, {"transformer": TRANSFORMER_25}], ids=["19b", "2.3", "2.5"])
def test_everything_stated_is_inferred(tmp_path: Path, config: dict[str, Any]) -> None:
    bare = Checkpoint.open(write_model(tmp_path / "bare.safetensors", model_specs(config), None))
    assert differences(config, bare.config) == []


@pytest.mark.parametrize(
    ("config", "metadata", "generation"),
    [
        (CONFIG_19B, {}, LTX_2),
        (CONFIG_23, {}, LTX_2_3),
        ({"transformer": TRANSFORMER_25}, {}, LTX_2_5),
        (CONFIG_19B, {"model_version": "2.3.0"}, LTX_2_3),
        pytest.param(CONFIG_19B, {"model_version": "2.5-rc1"}, LTX_2_5, marks=pytest.mark.slow),
        pytest.param(CONFIG_23, {"model_version": "2.0"}, LTX_2, marks=pytest.mark.slow),
        (CONFIG_23, {"model_version": "new"}, LTX_2_3),
    ],
)
def test_generation(tmp_path: Path, config: dict[str, Any], metadata: dict[str, str], generation: Generation) -> None:
    path = write_model(tmp_path / "a.safetensors", model_specs(config), None, **metadata)
    assert Checkpoint.open(path).generation == generation


def test_generation_that_nothing_tells(tmp_path: Path) -> None:
    specs = {name: spec for name, spec in model_specs(CONFIG_23).items() if name.startswith("vocoder.")}
    assert Checkpoint.open(write_model(tmp_path / "a.safetensors", specs, None)).generation is None


@pytest.mark.parametrize(
    ("text", "version"), [("2.3.0", (2, 3, 0)), ("2.5-rc1", (2, 5)), ("", ()), ("v2", ()), ("2.²", (2,))]
)
def test_version_parsing(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    "config",
    [
        {"spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": False},
        {"spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": True},
        {"spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 1.5, "rational_resampler": True},
        {"spatial_upsample": False, "temporal_upsample": True, "spatial_scale": 2.0, "rational_resampler": False},
    ],
    ids=["x2", "rational x2", "x1.5", "temporal"],
)
def test_upscalers(tmp_path: Path, config: dict[str, Any]) -> None:
    config = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 2, "dims": 3, **config}
    bare = Checkpoint.open(write_model(tmp_path / "a.safetensors", upscaler_specs(config), None))
    assert differences(config, bare.section("upscaler")) == []


def test_metadata_wins_but_keyframe_tensors_are_believed(tmp_path: Path) -> None:
    stated = {**TRANSFORMER_25, "norm_eps": 0.5}
    del stated["use_keyframes_abs_pos_embedding"]
    path = write_model(
        tmp_path / "a.safetensors", model_specs({"transformer": TRANSFORMER_25}), {"transformer": stated}
    )
    section = Checkpoint.open(path).section("transformer")
    assert section["norm_eps"] == 0.5
    assert section["use_keyframes_abs_pos_embedding"] is True


def test_unstated_timestep_conditioning_follows_the_tensors(tmp_path: Path) -> None:
    stated = {**CONFIG_19B, "vae": {k: v for k, v in CONFIG_19B["vae"].items() if k != "timestep_conditioning"}}
    path = write_model(tmp_path / "a.safetensors", model_specs(CONFIG_19B), stated)
    assert Checkpoint.open(path).section("video_vae")["timestep_conditioning"] is False


def test_null_sections_are_absent_ones(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.safetensors", model_specs(CONFIG_19B), {**CONFIG_19B, "vocoder": None})
    assert Checkpoint.open(path).section("vocoder")["upsample_rates"] == [6, 5, 2, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the 'config' metadata is not valid JSON"),
        ("[1]", "the 'config' metadata is a JSON list"),
        ('{"vae": 3}', "section 'vae' of the config metadata is a int"),
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, tensors_of(model_specs(CONFIG_19B)), {"config": text})
    with pytest.raises(CheckpointError, match=message):
        _ = Checkpoint.open(path).config


def test_heads_that_cannot_be_told(tmp_path: Path) -> None:
    config = {"transformer": {**CONFIG_19B["transformer"], "attention_head_dim": 32, "cross_attention_dim": 32}}
    path = write_model(tmp_path / "a.safetensors", model_specs(config), None)
    with pytest.raises(CheckpointError, match="number of attention heads of a model of width 32 cannot be told"):
        _ = Checkpoint.open(path).config


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.diffusion_model.patchify_proj.weight", (128,), "should have 2 dimensions"),
        ("vae.encoder.down_blocks.1.conv.conv.weight", (3, 4, 3, 3, 3), "is no known resampling block"),
        ("vocoder.ups.0.weight", (64, 32, 9), "its rates cannot be told"),
        ("vae.per_channel_statistics.mean-of-means", None, "'per_channel_statistics.mean-of-means'.* is missing"),
    ],
)
def test_tensors_that_tell_nothing(tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    tensors = tensors_of(model_specs(CONFIG_19B))
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = mx.array(np.zeros(shape, np.float32))
    path = tmp_path / "a.safetensors"
    write_safetensors(path, tensors)
    with pytest.raises(CheckpointError, match=message):
        _ = Checkpoint.open(path).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2**40}, "num_layers must be a whole number up to 8192, got '1099511627776'"),
        ({"num_layers": 1e300}, "num_layers must be a whole number"),
        ({"connector_num_learnable_registers": "many"}, "learnable_registers must be a whole number up to 8192"),
        ({"attention_head_dim": [1, 2]}, r"attention_head_dim is \[1, 2\]"),
    ],
)
def test_configurations_that_no_model_has(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """They are refused before as many layers are made; values of other kinds are no crash."""
    config = {"transformer": {**TRANSFORMER_25, **changes}}
    path = write_model(tmp_path / "a.safetensors", model_specs({"transformer": TRANSFORMER_25}), config)
    with pytest.raises(CheckpointError, match=message):
        TRANSFORMER.parse(Checkpoint.open(path))
    report = next(report for report in inspect(path).components if report.name == "transformer")
    assert re.search(message, report.error)


@pytest.mark.parametrize("value", ["fast", 5, {"x": 1}, [[]], [2.5, "x"]])
def test_values_of_another_kind_are_no_crash(tmp_path: Path, value: Any) -> None:
    specs = {name: spec for name, spec in model_specs(CONFIG_19B).items() if name.startswith("vocoder.")}
    config = {"vocoder": {**CONFIG_19B["vocoder"], "upsample_rates": value}}
    path = write_model(tmp_path / "a.safetensors", specs, config)
    (report,) = inspect(path).components
    assert report.error or report.missing or report.misshapen


def test_counts_are_looked_for_at_any_depth() -> None:
    """Without recursion: JSON may be nested as deep as Python parses it."""
    nested: Any = {"num_layers": 2**20}
    for _ in range(5000):
        nested = [{"x": nested}]
    with pytest.raises(CheckpointError, match="test: num_layers must be a whole number"):
        require_plausible({"encoder_blocks": nested}, "test")
    require_plausible({"encoder_blocks": [["res_x", {"num_layers": 4}]], "num_layers": None}, "test")

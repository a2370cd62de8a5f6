"""The inspection report and its command, on files made by the test."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_files import CONFIG_19B, CONFIG_23, model_specs, tensors_of, upscaler_specs, write_model

from ltx2rt.cli import inspect as command
from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.weights.safetensors import RawTensor, write_safetensors


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["inspect", *arguments])
    return int(parsed.run(parsed))


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("config", [CONFIG_19B, CONFIG_23], ids=["19b", "2.3"])
def test_a_complete_file(tmp_path: Path, config: dict[str, object], stated: bool) -> None:
    specs = model_specs(config)
    path = write_model(tmp_path / "tiny-dev.safetensors", specs, config if stated else None)
    report = inspect(path)
    assert report.complete
    assert (report.kind, report.variant, report.tensors) == ("checkpoint", "dev", len(specs))
    assert report.parameters == sum(int(np.prod(spec.shape)) for spec in specs.values())
    assert sum(report.dtypes.values()) == len(specs)
    assert len(report.components) == 7
    assert all(component.unchecked == 0 for component in report.components)


def test_what_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = dict(tensors_of(model_specs(CONFIG_19B)))
    del tensors["vae.decoder.conv_out.conv.bias"]
    tensors["vocoder.conv_pre.bias"] = mx.zeros(3)
    tensors["model.diffusion_model.surprise"] = mx.zeros(3)
    tensors["stranger.weight"] = mx.zeros(3)
    tensors["vae.per_channel_statistics.mean-of-stds"] = mx.zeros(3)
    path = tmp_path / "a.safetensors"
    write_safetensors(path, tensors, {"config": json.dumps(CONFIG_19B)})
    report = inspect(path)
    assert report.missing == ["video_vae: decoder.conv_out.conv.bias"]
    assert report.unexpected == ["transformer: surprise", "stranger.weight"]
    assert report.ignored == 1
    assert run(str(path)) == 1
    text = capsys.readouterr().out
    assert "missing (1):\n  video_vae: decoder.conv_out.conv.bias" in text
    assert "wrong shape (1):\n  vocoder: conv_pre.bias is F32 [3], expected [64]" in text
    assert run(str(path), "--json") == 1
    assert json.loads(capsys.readouterr().out)["unexpected"] == report.unexpected


def test_quantised_weights_count_their_values(tmp_path: Path) -> None:
    specs = model_specs(CONFIG_19B)
    tensors = dict(tensors_of(specs))
    fp8, affine = (f"model.diffusion_model.transformer_blocks.0.attn1.to_{x}" for x in "qk")
    tensors[f"{fp8}.weight"] = RawTensor("F8_E4M3", np.zeros(specs[f"{fp8}.weight"].shape, np.uint8))
    tensors[f"{fp8}.weight_scale"] = mx.array(1.0)
    tensors[f"{fp8}.input_scale"] = mx.array(1.0)
    parts = mx.quantize(tensors[f"{affine}.weight"], group_size=64, bits=4)
    tensors |= {f"{affine}.{key}": part for key, part in zip(("weight", "scales", "biases"), parts, strict=True)}
    path = tmp_path / "a.safetensors"
    write_safetensors(path, tensors, {"config": json.dumps(CONFIG_19B)})
    report = inspect(path)
    assert report.complete
    assert report.parameters == sum(int(np.prod(spec.shape)) for spec in specs.values())
    assert (report.dtypes["F8_E4M3"], report.dtypes["U32"], report.ignored) == (1, 1, 1)


def test_half_a_vae_is_complete(tmp_path: Path) -> None:
    specs = {n: s for n, s in model_specs(CONFIG_19B).items() if n.startswith(("vae.", "audio_vae."))}
    for half in ("encoder", "decoder"):
        other = {n: s for n, s in specs.items() if f"vae.{half}." not in n}
        assert inspect(write_model(tmp_path / f"{half}.safetensors", other, CONFIG_19B)).complete


def test_an_unusable_configuration_is_an_error_of_its_component(tmp_path: Path) -> None:
    config = {**CONFIG_19B, "transformer": {**CONFIG_19B["transformer"], "qk_norm": "layer_norm"}}
    report = inspect(write_model(tmp_path / "a.safetensors", model_specs(CONFIG_19B), config))
    errors = {component.name: component.error for component in report.components if component.error}
    assert list(errors) == ["transformer"]
    assert "qk_norm is 'layer_norm'" in errors["transformer"]
    assert not report.complete


def test_upscaler(tmp_path: Path) -> None:
    config = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
    report = inspect(write_model(tmp_path / "a.safetensors", upscaler_specs(config), config))
    assert report.complete
    assert [component.name for component in report.components] == ["upscaler"]
    assert report.generation is None


def test_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "distilled-lora.safetensors"
    module = "diffusion_model.audio_caption_projection.linear_1"
    factors = {f"{module}.lora_A.weight": np.zeros((4, 8)), f"{module}.lora_B.weight": np.zeros((6, 4))}
    write_safetensors(path, factors, {"reference_downscale_factor": "2"})
    assert run(str(path)) == 0
    text = capsys.readouterr().out
    assert "lora        1 weights, rank 4" in text
    assert "reference_downscale_factor = 2" in text
    assert inspect(path).generation == "19b"
    manifest = {"tensors": {name: ["BF16", list(value.shape)] for name, value in factors.items()}}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    report = inspect(tmp_path / "m.json")
    assert report.kind == "lora manifest"
    assert report.lora is not None
    assert (report.lora.rank, report.bytes) == (4, (4 * 8 + 6 * 4) * 2)


MANIFESTS = [
    {name: [spec.dtype, list(spec.shape)] for name, spec in model_specs(config).items()}
    for config in (CONFIG_19B, CONFIG_23)
]
MANIFEST = {**MANIFESTS[0], **MANIFESTS[1]}
# The tensors that the configuration is inferred from.
TELLING = re.compile(
    r"patchify_proj|proj_out|_blocks\.0\.(scale_shift_table|attn2\.to_k)|to_gate_logits|learnable_registers|aggregate_embed"
    r"|caption_projection|conv_in|conv_out|conv_pre|conv_post|blocks\.\d\.conv\.|mean-of-means|ups\.\d|mel_stft|conv1\."
)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(range(len(MANIFESTS))),
    changes=st.dictionaries(
        st.sampled_from(sorted(filter(TELLING.search, MANIFEST))),
        st.none() | st.lists(st.integers(0, 9), max_size=5),
        max_size=8,
    ),
)
def test_random_tensor_lists_never_escape(tmp_path: Path, base: int, changes: dict[str, list[int] | None]) -> None:
    tensors = dict(MANIFESTS[base])
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = ["BF16", shape]
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"tensors": tensors}))
    report = inspect(path)  # may find anything, but never fails
    assert report.tensors == len(tensors)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\1\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        inspect(path)

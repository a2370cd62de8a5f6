"""A packed file without a configuration: widths are told by the tensors that are not packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from format_encoders import Encoded, affine, awq, fp8, int8, mlx_floats, mxfp8, nvfp4, w4a4, w4a8
from tiny_files import TRANSFORMER_19B, TRANSFORMER_23, TRANSFORMER_25, model_specs, tensors_of

from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2, LTX_2_3, LTX_2_5, Generation
from ltx2rt.weights.safetensors import write_safetensors

FORMS: dict[str, Callable[[int, int, int], Encoded]] = {
    "fp8": fp8,
    "int8": int8,
    "convrot": lambda n, k, seed: int8(n, k, seed, group=16),
    "nvfp4": nvfp4,
    "mxfp8": mxfp8,
    "w4a8": lambda n, k, seed: w4a8(n, k, seed, rotated_group=16),
    "w4a4": lambda n, k, seed: w4a4(n, k, seed, group=16),
    "awq": lambda n, k, seed: awq(n, k, seed, group=32),
    "MLX int4": lambda n, k, seed: affine(n, k, seed, bits=4, group=32),
    "MLX int2": lambda n, k, seed: affine(n, k, seed, bits=2, group=32),
    "MLX int8": lambda n, k, seed: affine(n, k, seed, bits=8, group=32),
    "MLX nvfp4": lambda n, k, seed: mlx_floats(n, k, seed, mode="nvfp4"),
}


CONFIGS = [(TRANSFORMER_19B, LTX_2), (TRANSFORMER_23, LTX_2_3), (TRANSFORMER_25, LTX_2_5)]


@pytest.mark.parametrize(
    ("config", "generation", "form"),
    [
        pytest.param(*CONFIGS[place], form, marks=() if place == index % 3 else pytest.mark.slow)
        for index, form in enumerate(FORMS)
        for place in range(3)
    ],
)
def test_the_configuration_is_inferred(
    tmp_path: Path, config: dict[str, Any], generation: Generation, form: str
) -> None:
    specs = {name: spec for name, spec in model_specs({"transformer": config}).items() if "embedding_pro" not in name}
    tensors: dict[str, Any] = dict(tensors_of(specs))
    packed = 0
    for name, spec in specs.items():
        is_packed = "transformer_" in name and spec.layout == "linear" and spec.shape[1] % 32 == 0
        if is_packed and "to_gate_logits" not in name:
            layer = name.removesuffix(".weight")
            encoded = FORMS[form](*spec.shape, packed)
            tensors = {key: value for key, value in tensors.items() if key != name} | encoded.named(layer)
            packed += 1
    write_safetensors(tmp_path / "a.safetensors", tensors)
    checkpoint = Checkpoint.open(tmp_path / "a.safetensors")
    assert packed > 40
    assert sum(checkpoint.formats("transformer").values()) < len(tensors)
    assert checkpoint.generation == generation
    section = checkpoint.section("transformer")
    widths = [key for key in config if key.endswith(("_dim", "_heads", "_channels", "_layers", "_registers"))]
    assert {key: section[key] for key in widths} == {key: config[key] for key in widths}
    names = checkpoint.names("transformer")
    bare = {name.removeprefix("model.diffusion_model."): spec for name, spec in specs.items()}
    wanted = [replace(spec, name=name) for name, spec in bare.items() if name in names]
    assert len(wanted) > 40
    assert checkpoint.problems("transformer", wanted) == ([], [])

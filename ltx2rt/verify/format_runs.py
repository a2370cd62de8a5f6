"""Golden cases of weight formats: the latents of a run with a file are those of a run with its decoded values.

The runs end with the latents: the VAEs of these small files are too thin to decode with, and are compared by tensors.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import COMPONENTS
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.types import Array, ParamSpec
from ltx2rt.verify.golden import Check
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import DENSE
from ltx2rt.weights.names.official import full_name
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.sets.parts import NEEDED, Found, find

# Of the largest value of the latents: what rounding each weight once, to bfloat16, may come to.
_TOLERANCE = 2e-3
_PIPELINE = "one-stage"
# What is missing beside a file comes from these models of the golden folder, by generation.
_BASES: dict[str, dict[str, str]] = {
    "19b": {"": "tiny-ltx2-19b-style.safetensors", "text_encoder": "tiny-gemma3"},
    "2.3": {"": "tiny-ltx2.3-22b-style.safetensors", "text_encoder": "tiny-gemma3"},
    # No sound model of it is among the goldens: that of 2.3.
    "2.5": {
        "": "ltx25/tiny-ltx-2.5-distilled-transformer.safetensors",
        "text_encoder": "ltx25/tiny-gemma4-with-proj-ltx-2.5.safetensors",
        "text_projection": "ltx25/tiny-gemma4-with-proj-ltx-2.5.safetensors",
        "video_vae": "ltx25/tiny-ltx-2.5-video-vae.safetensors",
    },
}
# Settings of what goldens of 2.5 cannot bring.
_NOT_THERE = ("audio_vae", "vocoder")


def no_run(path: Path) -> str:
    """Why no clip can be made with what a path holds; empty if one can."""
    found = find(path)
    if found.of("transformer"):
        stated = found.of("transformer")[0].checkpoint.stated
        return "" if stated else "states no configuration, and its shapes are not those of a published size"
    return ""


def check_run(path: Path, goldens: Path) -> Iterator[Check]:
    """The latents of a run with the file, beside those of a run with its values in plain floating point.

    Args:
        path: the file or folder.
        goldens: folder of the models that bring what it lacks.
    """
    weights = _completed(WeightSet.open(_files(find(path), goldens)), goldens)
    own = [name for name, source in weights.sources.items() if source.path == path or path in source.path.parents]
    with tempfile.TemporaryDirectory(prefix="ltx2rt-verify-") as folder:
        twin = _decoded_twin(weights, own, Path(folder) / "decoded.safetensors")
        ours, theirs = _clip(weights), _clip(weights.with_sources(dict.fromkeys(own, twin)))
    exact = not any(set(weights.sources[name].formats(name)) - {DENSE.name} for name in own)
    for name, value in ours.items():
        yield Check(name, value, theirs[name], 0.0, 0.0 if exact else _TOLERANCE)


def _completed(weights: WeightSet, goldens: Path) -> WeightSet:
    """With the sound model of 2.3 where there is none, which has the same shapes."""
    if "audio_vae" in weights.sources:
        return weights
    base = Checkpoint.open(goldens / _BASES["2.3"][""])
    gaps = {name: why for name, why in weights.gaps.items() if name not in _NOT_THERE}
    return replace(weights.with_sources({"audio_vae": base, "vocoder": base}), gaps=gaps)


def _files(found: Found, goldens: Path) -> WeightFiles:
    """The settings of a run with what was found, everything else from the golden models."""
    generation = next((part.generations[0].name for part in found.parts if len(part.generations) == 1), "19b")
    base = _BASES[generation]
    absent = _NOT_THERE if generation == "2.5" else ()
    given: dict[str, Any] = {}
    for role in NEEDED:
        if found.of(role.components[0]):
            given[role.setting] = found.path
        elif name := base.get(role.setting, "" if role.setting in absent else base[""]):
            given[role.setting] = goldens / name
    model = found.path if found.of("transformer") else goldens / base[""]
    if found.of("transformer"):
        given = {setting: path for setting, path in given.items() if path != found.path}
    return WeightFiles(checkpoint=model, **given)


def _clip(weights: WeightSet) -> dict[str, Array]:
    """The results of a small run, by name."""
    settings = Settings(
        prompt="A red lighthouse on a cliff at dusk",
        negative_prompt="",
        seed=10,
        num_inference_steps=2,
        tiling="none",
        latents_only=True,
    )
    inputs = GenerationInputs(
        settings,
        height=64,
        width=64,
        num_frames=9,
        frame_rate=Fraction(24),
        dtype=mx.float32,
    )
    pipeline = PIPELINES[_PIPELINE]
    pipeline.check(inputs, weights)
    clip = pipeline.generate(Run(weights, inputs))
    assert clip.video_latent is not None
    assert clip.audio_latent is not None
    return {"video latent": clip.video_latent, "audio latent": clip.audio_latent}


def _decoded_twin(weights: WeightSet, components: list[str], path: Path) -> Checkpoint:
    """A plain file with the values of some components, bfloat16 where that holds them, else float32."""
    tensors: dict[str, RawTensor] = {}
    config: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name in (name for name in components if name in COMPONENTS):
        source, component = weights.sources[name], COMPONENTS[name]
        metadata |= {key: source.metadata[key] for key in ("model_version",) if key in source.metadata}
        if name == "text_encoder":
            metadata["gemma_config"] = json.dumps(source.section(name))
        else:
            section = name if name in ("audio_vae", "vocoder") else "vae" if name == "video_vae" else "transformer"
            config[section] = source.section(name)
        present = source.names(name)
        for spec in component.specs(weights.config(component)):
            if spec.name in present:
                tensors[full_name(name, spec.name)] = _plain(source, name, spec)
    write_safetensors(path, tensors, metadata | ({"config": json.dumps(config)} if config else {}))
    return Checkpoint.open(path)


def _plain(source: Checkpoint, component: str, spec: ParamSpec) -> RawTensor:
    slabs = list(source.value_slabs(component, spec))
    values: Array = (np.concatenate(slabs) if spec.shape else slabs[0]).reshape(spec.shape)
    short = values.astype(ml_dtypes.bfloat16)
    if (short.astype(np.float32) == values).all():
        return RawTensor("BF16", short.view("<u2"))
    return RawTensor("F32", values)

"""Golden cases of weight formats: a whole clip from a file is the clip from its decoded values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import COMPONENTS, TEXT_ENCODERS, VIDEO_DECODERS, VIDEO_VAE
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array, ParamSpec
from ltx2rt.verify.golden import Check
from ltx2rt.weights.checkpoint import Checkpoint
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
    # Its text encoder has no model here: prompts of zeros.
    "2.5": {
        "": "ltx25/tiny-ltx-2.5-distilled-transformer.safetensors",
        "video_vae": "ltx25/tiny-ltx-2.5-video-vae.safetensors",
        "audio_vae": "tiny-ltx2.3-22b-style.safetensors",
        "vocoder": "tiny-ltx2.3-22b-style.safetensors",
    },
}


def can_run(path: Path) -> bool:
    """Whether a clip can be made with what a path holds.

    It cannot with text encoders that have no model in this version, and with small transformers that do not state their
    configuration: without it, shapes are taken for those of the published sizes.
    """
    found = find(path)
    if found.of("transformer"):
        return bool(found.of("transformer")[0].checkpoint.stated)
    encoders = found.of("text_encoder")
    return not encoders or _model_type(encoders[0].checkpoint) in TEXT_ENCODERS


def _model_type(checkpoint: Checkpoint) -> str:
    config = checkpoint.section("text_encoder")
    return str(config.get("text_config", config).get("model_type", config.get("model_type")))


def check_clip(path: Path, goldens: Path, *, exact: bool) -> Iterator[Check]:
    """The latents and the decoded clip with the file, beside those with its values in plain floating point.

    Args:
        path: the file or folder.
        goldens: folder of the models that bring what it lacks.
        exact: nothing in it is quantised: both have the same bits.
    """
    files = _files(find(path), goldens)
    weights = WeightSet.open(files)
    own = [name for name, source in weights.sources.items() if source.path == path or path in source.path.parents]
    with tempfile.TemporaryDirectory(prefix="ltx2rt-verify-") as folder:
        twin = _decoded_twin(weights, own, Path(folder) / "decoded.safetensors")
        ours, theirs = _clip(weights), _clip(weights.with_sources(dict.fromkeys(own, twin)))
    for name, value in ours.items():
        tolerance = 0.0 if exact else _TOLERANCE
        yield Check(f"clip: {name}", value, theirs[name], 0.0, tolerance)
    yield Check("clip: results", from_numbers(len(ours)), from_numbers(len(theirs)), 0.0)


def _files(found: Found, goldens: Path) -> WeightFiles:
    """The settings of a run with what was found, everything else from the golden models."""
    generation = next((part.generations[0].name for part in found.parts if len(part.generations) == 1), "19b")
    base = _BASES[generation]
    given: dict[str, Any] = {}
    for role in NEEDED:
        if found.of(role.components[0]):
            given[role.setting] = found.path
        elif name := base.get(role.setting, "" if generation == "2.5" and role.setting == "text_encoder" else base[""]):
            given[role.setting] = goldens / name
    model = found.path if found.of("transformer") else goldens / base[""]
    if found.of("transformer"):
        given = {setting: path for setting, path in given.items() if path != found.path}
    return WeightFiles(checkpoint=model, **given)


def _clip(weights: WeightSet) -> dict[str, Array]:
    """The results of a small run, by name."""
    has_text, decodes = "text_encoder" in weights.sources, weights.config(VIDEO_VAE).decoder_class in VIDEO_DECODERS
    settings = Settings(
        prompt="A red lighthouse on a cliff at dusk",
        negative_prompt="",
        seed=10,
        num_inference_steps=2,
        tiling="none",
        zero_text=not has_text,
        latents_only=not decodes,
    )
    context = None if has_text else zero_context(weights)
    inputs = GenerationInputs(
        settings,
        height=64,
        width=64,
        num_frames=9,
        frame_rate=Fraction(24),
        dtype=mx.float32,
        context=context,
        negative_context=context,
    )
    pipeline = PIPELINES[_PIPELINE]
    pipeline.check(inputs, weights)
    return _results(pipeline.generate(Run(weights, inputs)))


def _results(clip: GeneratedClip) -> dict[str, Array]:
    results = {"video latent": clip.video_latent, "audio latent": clip.audio_latent, "waveform": clip.audio}
    if clip.frames is not None:
        results["frames"] = np.concatenate([chunk.astype(np.float32) for chunk in clip.frames()])
    return {name: value for name, value in results.items() if value is not None}


def _decoded_twin(weights: WeightSet, components: list[str], path: Path) -> Checkpoint:
    """A plain file with the values of some components, bfloat16 where that holds them, else float32."""
    tensors: dict[str, RawTensor] = {}
    metadata: dict[str, str] = {}
    for name in components:
        source = weights.sources[name]
        metadata |= {"config": json.dumps(source.config)} | _model_version(source)
        if name == "text_encoder":
            metadata["gemma_config"] = json.dumps(source.section(name))
        if name not in COMPONENTS:
            continue
        component = COMPONENTS[name]
        present = source.names(name)
        for spec in component.specs(weights.config(component)):
            if spec.name in present:
                tensors[full_name(name, spec.name)] = _plain(source, name, spec)
    write_safetensors(path, tensors, metadata)
    return Checkpoint.open(path)


def _model_version(source: Checkpoint) -> dict[str, str]:
    return {key: source.metadata[key] for key in ("model_version",) if key in source.metadata}


def _plain(source: Checkpoint, component: str, spec: ParamSpec) -> RawTensor:
    slabs = list(source.value_slabs(component, spec))
    values: Array = (np.concatenate(slabs) if spec.shape else slabs[0]).reshape(spec.shape)
    short = values.astype(ml_dtypes.bfloat16)
    if (short.astype(np.float32) == values).all():
        return RawTensor("BF16", short.view("<u2"))
    return RawTensor("F32", values)

"""Golden cases of the transformer: outputs, intermediates, FP8 and LoRA weights, rotary tables, timestep embedding."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.models.layers.adaln import sinusoid
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.layers.rope import frequencies, middle, rope_table
from ltx2rt.graph.models.transformer.block import Modulation, Stream
from ltx2rt.graph.models.transformer.model import Modality, Perturbation, Transformer, TransformerConfig, param_specs
from ltx2rt.kernels import RopeTable, quantized_linear
from ltx2rt.kernels.host import to_numpy
from ltx2rt.kernels.reference import rope_lanes, rotate
from ltx2rt.types import Array, LinearWeight
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.lora.opening import open_lora

Weights = dict[str, mx.array | LinearWeight]
Runs = dict[str, Callable[[], Iterable[Check]]]

_COMPONENT = {"atol": 2e-5, "rtol": 1e-4}
_TABLE = {"atol": 1e-6, "rtol": 1e-6}

# Rotary range per axis in the goldens, by what the name of the table begins with.
_MAX_POSITIONS = {
    "video": (20.0, 2048.0, 2048.0),
    "audio": (20.0,),
    "cross_video": (20.0,),
    "cross_audio": (20.0,),
    "connector": (4096.0,),
}
_THETA = 10000.0

_FIELDS = ("latent", "sigma", "timesteps", "positions", "context")
_OPTIONAL_FIELDS = ("context_mask", "attention_mask", "keyframes_mask")


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of ``*_transformer*``, ``*_fp8``, ``*_lora``, ``rope`` and ``timestep_embedding`` files."""
    stem = golden.path.stem
    if re.fullmatch(r"\w+?_transformer(_\w+)?", stem) and "checkpoint" in golden.metadata:
        runs: Runs = {name: partial(_transformer, golden, name) for name in _prefixes(golden.keys(), ".")}
    elif re.fullmatch(r"\w+_fp8", stem) and "inputs" in golden.metadata:
        runs = _fp8_cases(golden)
    elif re.fullmatch(r"\w+_lora", stem) and "inputs" in golden.metadata:
        runs = {name: partial(_lora, golden, name) for name in _prefixes(golden.keys(), "/")}
    elif stem == "rope":
        runs = _rope_cases(golden)
    elif stem == "timestep_embedding":
        runs = {"sinusoid": partial(_sinusoid, golden)}
    else:
        return
    for name, run in runs.items():
        yield Case(f"{golden.name}/{name}", run)


def _prefixes(keys: Iterable[str], separator: str) -> list[str]:
    return sorted({key.split(separator)[0] for key in keys})


# --- Transformer cases ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _transformer_of(path: Path) -> Transformer:
    checkpoint = Checkpoint.open(path)
    config = TRANSFORMER.parse(checkpoint)
    return Transformer(config, Params(checkpoint.load("transformer", param_specs(config))), mx.float32)


def _modality(golden: GoldenFile, case: str, stream: str, enabled: bool) -> Modality | None:
    prefix = f"{case}.{stream}."
    if prefix + "latent" not in golden:
        return None
    names = [*_FIELDS, *(name for name in _OPTIONAL_FIELDS if prefix + name in golden)]
    fields: dict[str, Any] = {name: golden.given(prefix + name) for name in names}
    for name in ("timesteps", "keyframes_mask"):
        if name in fields:
            fields[name] = fields[name][..., 0]
    for name in ("latent", "context"):
        fields[name] = mx.array(fields[name])
    return Modality(**fields, enabled=enabled)


def _perturbations(listed: Any) -> list[list[Perturbation]] | None:
    if listed is None:
        return None
    return [
        [Perturbation(p["type"], None if p["blocks"] is None else frozenset(p["blocks"])) for p in sample]
        for sample in listed
    ]


def _inputs(golden: GoldenFile, case: str) -> tuple[dict[str, Modality | None], list[list[Perturbation]] | None]:
    settings = golden.metadata.get("cases", {}).get(case, {})
    modalities = {
        stream: _modality(golden, case, stream, settings.get(f"{stream}_enabled", True) is not False)
        for stream in ("video", "audio")
    }
    return modalities, _perturbations(settings.get("perturbations"))


def _transformer(golden: GoldenFile, case: str) -> Iterator[Check]:
    transformer = _transformer_of(golden.root / golden.metadata["checkpoint"])
    modalities, perturbations = _inputs(golden, case)
    # What lies between input and output is saved for some cases, and then for every block and both streams.
    keys = golden.keys()
    if any(re.match(rf"{re.escape(case)}\.(prep|block\d+)\.", key) for key in keys):
        states = transformer.states(modalities["video"], modalities["audio"], perturbations)
        for index, streams in enumerate(states):
            for stream in streams:
                if stream is None:
                    continue
                if index == 0:
                    yield from _prepared(golden, f"{case}.prep.{stream.name}.", stream)
                else:
                    yield _compare(golden, f"{case}.block{index - 1}.{stream.name}", stream.x)
    velocities = transformer(modalities["video"], modalities["audio"], perturbations)
    saves_denoised = any(key.endswith("_x0") for key in keys)  # all cases of a file do, or none
    for (name, modality), velocity in zip(modalities.items(), velocities, strict=True):
        if modality is None or velocity is None:
            continue
        yield _compare(golden, f"{case}.out.{name}_velocity", velocity)
        if saves_denoised:
            denoised = modality.latent - mx.array(modality.timesteps)[..., None] * velocity
            yield _compare(golden, f"{case}.out.{name}_x0", denoised)


def _compare(
    golden: GoldenFile, key: str, actual: mx.array | Array, tolerance: Mapping[str, float] = _COMPONENT
) -> Check:
    values = to_numpy(actual) if isinstance(actual, mx.array) else actual
    return golden.check(key, values, **tolerance)


def _prepared(golden: GoldenFile, prefix: str, stream: Stream) -> Iterator[Check]:
    """What stands before the first block. The goldens hold it per token; we hold distinct rows with an index."""
    yield _compare(golden, prefix + "x", stream.x)
    (context,) = stream.contexts
    yield _compare(golden, prefix + "context", context.tokens)
    yield _compare(golden, prefix + "timesteps", _per_token(stream.modulation))
    yield _compare(golden, prefix + "embedded_timestep", stream.embedded[stream.modulation.index])
    if stream.cross_modulation is not None:
        yield _compare(golden, prefix + "cross_scale_shift_timestep", _per_token(stream.cross_modulation))
    if stream.cross_gate is not None:
        yield _compare(golden, prefix + "cross_gate_timestep", _per_token(stream.cross_gate)[:, :1])
    if context.prompt is not None:
        yield _compare(golden, prefix + "prompt_timestep", _per_token(context.prompt)[:, :1])
    for name, table in (("positional_embeddings", stream.rope), ("cross_positional_embeddings", stream.cross_rope)):
        if table is not None:
            yield from _rotary(golden, f"{prefix}{name}.", table, _COMPONENT)


def _rotary(golden: GoldenFile, prefix: str, table: RopeTable, tolerance: Mapping[str, float]) -> Iterator[Check]:
    expected = {name: golden.expected(prefix + name) for name in ("cos", "sin")}
    for (name, saved), actual in zip(expected.items(), _dense(table, expected["cos"].shape), strict=True):
        yield Check(prefix + name, actual, saved, **tolerance)


def _per_token(modulation: Modulation) -> mx.array:
    """(B, T, k*D): the rows of each token."""
    rows = modulation.rows[:, modulation.index]
    return mx.moveaxis(rows, 0, 2).reshape(*modulation.index.shape, -1)


def _dense(table: RopeTable, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """cos and sin per token in the official shape: split (B, N, T, K/2), interleaved (B, T, D) with pairs repeated."""
    batch, tokens = shape[0], shape[-2]
    interleaved = len(shape) == 3
    lanes = shape[-1] // 2 if interleaved else shape[1] * shape[3]

    def arranged(values: mx.array) -> Array:
        full = to_numpy(mx.broadcast_to(values, (batch, tokens, lanes)))
        if interleaved:
            return np.repeat(full, 2, axis=-1)
        result: Array = full.reshape(batch, tokens, shape[1], shape[3]).transpose(0, 2, 1, 3)
        return result

    cos, sin = rope_lanes(table, lanes)
    return arranged(cos), arranged(sin)


# --- FP8 --------------------------------------------------------------------------------------------------------------


def _input_golden(golden: GoldenFile) -> GoldenFile:
    """The transformer golden file whose cases are the inputs of ``golden``."""
    match = re.search(r"\S+\.safetensors", golden.metadata["inputs"])
    if match is None:
        raise CheckpointError(f"{golden.path}: metadata 'inputs' names no file: {golden.metadata['inputs']!r}.")
    return GoldenFile(golden.path.with_name(match[0]), golden.root)


def _sibling(golden: GoldenFile, ending: str) -> Path:
    """The weight file ``*-<ending>.safetensors`` beside the checkpoint of ``golden`` whose name is most like it."""
    checkpoint = golden.root / golden.metadata["checkpoint"]
    files = sorted(checkpoint.parent.glob(f"*-{ending}.safetensors"))
    if not files:
        raise CheckpointError(f"{checkpoint.parent}: no file *-{ending}.safetensors beside {checkpoint.name}.")

    # Names are compared letter by letter, which is what is meant here.
    result: Path = max(files, key=lambda file: len(os.path.commonprefix([file.name, checkpoint.name])))  # noqa: RUF071
    return result


def _fp8_cases(golden: GoldenFile) -> Runs:
    keys = golden.keys()
    runs: Runs = {
        f"{form}.{case}": partial(_fp8_transformer, golden, form, case)
        for form in ("scaled", "cast_only")
        for case in sorted({key.split(".")[1] for key in keys if key.startswith(form + ".")})
    }
    if "linear.x" in golden:
        runs["linear"] = partial(_fp8_linear, golden)
    if "all_e4m3_codes_as_f32" in golden:
        runs["codes"] = partial(_fp8_codes, golden)
    return runs


def _fp8_weights(source: GoldenFile, form: str) -> tuple[TransformerConfig, Weights]:
    """Weights of the FP8 file: with their scales, or as the dense file's values cast to E4M3 without a scale."""
    quantized = Checkpoint.open(_sibling(source, "fp8"))
    config = TRANSFORMER.parse(quantized)
    weights = quantized.load("transformer", param_specs(config))
    if form == "scaled":
        return config, weights
    dense = Checkpoint.open(source.root / source.metadata["checkpoint"]).load("transformer", param_specs(config))
    for name, weight in weights.items():
        if isinstance(weight, LinearWeight) and weight.mode == "e4m3":
            weights[name] = cast_to_e4m3(dense[name])
    return config, weights


def cast_to_e4m3(weight: mx.array | LinearWeight) -> LinearWeight:
    """A dense weight as E4M3 codes with scale 1."""
    values = weight.values if isinstance(weight, LinearWeight) else weight
    return LinearWeight("e4m3", mx.array(encode_e4m3(to_numpy(values.astype(mx.float32)))), mx.array(1.0))


def _fp8_transformer(golden: GoldenFile, form: str, case: str) -> Iterator[Check]:
    source = _input_golden(golden)
    config, weights = _fp8_weights(source, form)
    modalities, perturbations = _inputs(source, case)
    velocities = Transformer(config, Params(weights), mx.float32)(
        modalities["video"], modalities["audio"], perturbations
    )
    for stream, velocity in zip(modalities, velocities, strict=True):
        if velocity is not None:
            yield _compare(golden, f"{form}.{case}.{stream}_velocity", velocity)


def _fp8_linear(golden: GoldenFile) -> Iterator[Check]:
    source = _input_golden(golden)
    name = golden.metadata["linear_weight"].removeprefix("model.diffusion_model.")
    x = mx.array(golden.given("linear.x"))
    for form in ("scaled", "cast_only"):
        weight = _fp8_weights(source, form)[1][name]
        if not isinstance(weight, LinearWeight):
            raise CheckpointError(f"{golden.path}: {name} is not a linear weight.")
        yield _compare(golden, f"linear.y_{form}_no_bias", quantized_linear(x, weight))


def _fp8_codes(golden: GoldenFile) -> Iterator[Check]:
    """Every code through the matrix product, which is where the runtime decodes; NaN stands as the file's marker."""
    marker = float(str(golden.metadata["nan_code_marker"]).split()[0])
    codes = LinearWeight("e4m3", mx.arange(256, dtype=mx.uint8)[:, None], mx.array(1.0))
    values = to_numpy(quantized_linear(mx.ones((1, 1)), codes))[0]
    yield _compare(golden, "all_e4m3_codes_as_f32", np.where(np.isnan(values), marker, values), {"atol": 0.0})


# --- LoRA -------------------------------------------------------------------------------------------------------------


def _lora(golden: GoldenFile, name: str) -> Iterator[Check]:
    """Fused weights and outputs for a set of LoRAs, named ``<lora>_<strength>+...``."""
    source = _input_golden(golden)
    checkpoint = Checkpoint.open(source.root / source.metadata["checkpoint"])
    config = TRANSFORMER.parse(checkpoint)
    loras = []
    for part in name.split("+"):
        lora, strength = part.rsplit("_", 1)
        loras.append((open_lora(_sibling(source, f"{lora}-lora")), float(strength)))
    weights = checkpoint.load("transformer", param_specs(config), loras, fuse_dtype=mx.float32)
    keys = golden.keys()
    for key in keys:
        tensor = key.removeprefix(f"{name}/")
        if tensor != key and tensor in weights:
            expected = golden.expected(key)
            weight = weights[tensor]
            values = weight.values if isinstance(weight, LinearWeight) else weight
            actual = to_numpy(values.astype(mx.float32)[: expected.shape[0]])
            yield Check(key, actual, expected, **_COMPONENT)
    case = golden.metadata["inputs"].split()[1]  # "case <name> of <file>"
    modalities, perturbations = _inputs(source, case)
    velocities = Transformer(config, Params(weights), mx.float32)(
        modalities["video"], modalities["audio"], perturbations
    )
    for stream, velocity in zip(modalities, velocities, strict=True):
        if velocity is not None:
            yield _compare(golden, f"{name}/out.{stream}_velocity", velocity)


# --- Tables -----------------------------------------------------------------------------------------------------------


def _rope_cases(golden: GoldenFile) -> Runs:
    runs: Runs = {}
    keys = golden.keys()
    for key in keys:
        if key.startswith("freq_grid_"):
            runs[key] = partial(_frequency_grid, golden, key)
        elif key.endswith(".positions"):
            name = key.removesuffix(".positions")
            runs[name] = partial(_rope, golden, name)
    return runs


def _frequency_grid(golden: GoldenFile, key: str) -> Iterator[Check]:
    match = re.fullmatch(r"freq_grid_(f32|f64)\.n(\d+)\.dim(\d+)", key)
    if match is None:
        raise CheckpointError(f"{golden.path}: grid {key!r} is not named freq_grid_<precision>.n<axes>.dim<width>.")
    precision, axes, dim = match.groups()
    grid = frequencies(int(dim), int(axes), theta=_THETA, float64=precision == "f64")
    yield _compare(golden, key, grid, _TABLE)


def _rope(golden: GoldenFile, name: str) -> Iterator[Check]:
    """A table and, where stored, a rotated vector: ``<what>_<layout>_<precision>_<dim>x<heads>``."""
    match = re.fullmatch(r"(\w+)_(split|interleaved)_(f32|f64)_(\d+)x(\d+)", name)
    if match is None:
        raise CheckpointError(
            f"{golden.path}: rotary case {name!r} is not named <what>_<layout>_<precision>_<dim>x<heads>."
        )
    what, layout, precision, dim, heads = match.groups()
    positions = golden.given(f"{name}.positions")
    table = rope_table(
        middle(positions) if positions.ndim == 4 else positions,
        dim=int(dim),
        max_positions=_MAX_POSITIONS[what],
        theta=_THETA,
        float64=precision == "f64",
    )
    yield from _rotary(golden, f"{name}.", table, _TABLE if precision == "f64" else _COMPONENT)
    if f"{name}.x" in golden:
        rotated = rotate(mx.array(golden.given(f"{name}.x")), table, int(heads), layout)
        yield _compare(golden, f"{name}.x_rotated", rotated)


def _sinusoid(golden: GoldenFile) -> Iterator[Check]:
    yield _compare(golden, "sinusoid_256", sinusoid(golden.given("timesteps")))

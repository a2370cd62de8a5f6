"""What machines tell each other about a denoising stage, as JSON values and numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import mlx.core as mx

from ltx2rt.graph.diffusion.attention_masks import AttentionLinks
from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.guidance import ApgOptions, GuiderParams
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array
from ltx2rt.weights.kept_weights import Loras

Arrays = list[Array | None]

_DTYPES = {str(dtype): dtype for dtype in (mx.bfloat16, mx.float16, mx.float32)}
_GUIDERS = ("video_guider", "audio_guider")
# Of a state, what the model reads.
_STATE_ARRAYS = 7


def packed_request(request: PredictRequest) -> tuple[dict[str, Any], Arrays]:
    """An evaluation that is wanted."""
    states = [_packed_state(state) for state in (request.video, request.audio)]
    head = {
        "do": "evaluate",
        "passes": [asdict(own) for own in request.passes],
        "sigma": float(request.sigma),
        "runs": [request.run_video, request.run_audio],
        "states": [head for head, _ in states],
    }
    return head, [array for _, arrays in states for array in arrays]


def unpacked_request(head: Mapping[str, Any], arrays: Sequence[Array | None]) -> PredictRequest:
    halves = arrays[:_STATE_ARRAYS], arrays[_STATE_ARRAYS:]
    video, audio = (_unpacked_state(state, half) for state, half in zip(head["states"], halves, strict=True))
    passes = tuple(GuidancePass(**{name: _tuple(value) for name, value in own.items()}) for own in head["passes"])
    return PredictRequest(passes, video, audio, head["sigma"], *head["runs"])


def _packed_state(state: LatentState | None) -> tuple[dict[str, Any] | None, Arrays]:
    if state is None:
        return None, [None] * _STATE_ARRAYS
    links = state.attention
    arrays: Arrays = [state.latent, state.denoise_mask, state.positions, state.keyframes_mask]
    arrays += [None] * 3 if links is None else [links.groups, links.is_target, links.strengths]
    return {"dtype": state.dtype, "frozen": state.frozen}, arrays


def _unpacked_state(head: Mapping[str, Any] | None, arrays: Sequence[Array | None]) -> LatentState | None:
    if head is None:
        return None
    latent, mask, positions, keyframes, groups, is_target, strengths = arrays
    assert latent is not None
    assert mask is not None
    assert positions is not None
    links = None
    if groups is not None:
        assert is_target is not None
        assert strengths is not None
        links = AttentionLinks(groups, is_target, strengths)
    return LatentState(latent, mask, positions, latent, links, keyframes, **head)


def packed_stage(
    task: DenoiseTask, in_step: InStep, files: WeightSet, contexts: Sequence[PromptContext]
) -> tuple[dict[str, Any], Arrays]:
    """A stage that begins: what it does, and the prompts. LoRAs are told by their places in ``files``."""
    assert task.part is not None
    names = {field.name for field in fields(task)} - {"loras", "part", "dtype", *_GUIDERS}
    plain = {name: getattr(task, name) for name in names} | {name: asdict(getattr(task, name)) for name in _GUIDERS}
    head = {
        "do": "stage",
        "groups": task.part.groups,
        "shares": task.part.shares,
        "in_step": in_step,
        "task": {**plain, "dtype": str(task.dtype)},
        "loras": [[*_place(files, lora), strength] for lora, strength in task.loras],
        "contexts": [str(array.dtype) for context in contexts for array in context],
    }
    return head, [_bits(array) for context in contexts for array in context]


def unpacked_stage(
    head: Mapping[str, Any], arrays: Sequence[Array | None], files: WeightSet, part: MachinePart
) -> tuple[DenoiseTask, InStep, list[PromptContext]]:
    given = dict(head["task"])
    loras = tuple((_loras(files)[name][number][0], strength) for name, number, strength in head["loras"])
    for name in _GUIDERS:
        guider = dict(given[name])
        apg = guider.pop("apg")
        strengths = {key: _tuple(value) for key, value in guider.items()}
        given[name] = GuiderParams(**strengths, apg=None if apg is None else ApgOptions(**apg))
    given |= {"dtype": _DTYPES[given["dtype"]], "tiles": _tuple(given["tiles"]), "loras": loras, "part": part}
    values = [_array(bits, dtype) for bits, dtype in zip(arrays, head["contexts"], strict=True)]
    contexts = [PromptContext(*values[start : start + 2]) for start in range(0, len(values), 2)]
    return DenoiseTask(**given), InStep(*head["in_step"]), contexts


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _loras(files: WeightSet) -> dict[str, Loras]:
    return {name: getattr(files, name) for name in ("loras", "distilled_lora", "detailing_lora")}


def _place(files: WeightSet, lora: object) -> tuple[str, int]:
    """Where among the opened files a LoRA is."""
    return next(
        (name, number)
        for name, group in _loras(files).items()
        for number, (known, _) in enumerate(group)
        if known is lora
    )


def _bits(array: mx.array) -> Array:
    """The values as numpy has them, with every bit: those of bfloat16 as integers."""
    return to_numpy(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _array(bits: Array | None, dtype: str) -> mx.array:
    assert bits is not None
    array = mx.array(bits)
    return array.view(mx.bfloat16) if _DTYPES[dtype] == mx.bfloat16 else array

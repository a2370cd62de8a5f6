"""The duration head against an independent float64 formula, and files that are damaged."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.duration_head import DurationHead, DurationHeadConfig, param_specs
from ltx2rt.types import LinearWeight

CONFIG = DurationHeadConfig(video_width=12, audio_width=6, pooled=8, hidden=5)
SHAPES = {spec.name: spec.shape for spec in param_specs(CONFIG)}
POOLER = "attention_pooler."


def numpy_seconds(w: dict[str, np.ndarray], video: np.ndarray, audio: np.ndarray | None) -> float:
    def project(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    tokens = project("video_input_proj", video) + w["video_modality_emb"]
    if audio is not None:
        tokens = np.concatenate([tokens, project("audio_input_proj", audio) + w["audio_modality_emb"]])
    rows = w[POOLER + "cross_attn.in_proj_weight"].reshape(3, 8, 8)
    biases = w[POOLER + "cross_attn.in_proj_bias"].reshape(3, 8)
    q = w[POOLER + "query_tokens"][0] @ rows[0].T + biases[0]
    k, v = (tokens @ rows[i].T + biases[i] for i in (1, 2))
    answer = np.zeros(8)
    for head in range(4):
        at = slice(2 * head, 2 * head + 2)
        weight = np.exp(k[:, at] @ q[at] / np.sqrt(2))
        answer[at] = weight / weight.sum() @ v[:, at]
    hidden = project("mlp_hidden", project(POOLER + "cross_attn.out_proj", answer))
    hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return float(np.exp(project("mlp_out", hidden))[0])


@pytest.mark.parametrize("with_audio", [True, False])
def test_seconds_match_the_formula(with_audio: bool) -> None:
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) * 0.5 for name, shape in SHAPES.items()}
    params = Params(
        {
            spec.name: LinearWeight("dense", mx.array(arrays[spec.name]))
            if spec.layout == "linear"
            else mx.array(arrays[spec.name])
            for spec in param_specs(CONFIG)
        }
    )
    video = rng.standard_normal((1, 7, 12)).astype(np.float32)
    audio = rng.standard_normal((1, 7, 6)).astype(np.float32)
    seconds = DurationHead(CONFIG, params)(mx.array(video), mx.array(audio) if with_audio else None)
    assert (seconds.shape, seconds.dtype) == ((1,), mx.float32)
    expected = numpy_seconds(
        {name: value.astype(np.float64) for name, value in arrays.items()}, video[0], audio[0] if with_audio else None
    )
    np.testing.assert_allclose(np.array(seconds)[0], expected, rtol=1e-5)


def test_sizes_are_those_of_the_tensors() -> None:
    assert DurationHeadConfig.of({"pooler_hidden_dim": 8, "mlp_hidden": 5}, SHAPES, "a") == CONFIG
    assert DurationHeadConfig.of({}, SHAPES, "a") == CONFIG


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ({"mlp_hidden": 6}, {}, "states mlp_hidden 6, but its tensors have 5"),
        ({}, {"audio_input_proj.weight": (8,)}, r"audio_input_proj.weight .* must be a matrix, it is \[8\]"),
        ({}, {"video_input_proj.weight": (6, 12)}, "6 channels of the duration head are no multiple of 4"),
    ],
)
def test_damaged_files_are_refused(section: dict[str, int], changes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        DurationHeadConfig.of(section, SHAPES | changes, "a.safetensors")

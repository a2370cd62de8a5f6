"""Timestep embedding and modulation rows against known values and a plain formula."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.graph.models.layers.adaln import adaln, distinct, sinusoid
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import LinearWeight


def test_sinusoid_values() -> None:
    embedding = sinusoid(np.array([725.0, 0.0]))
    assert embedding.shape == (2, 256)
    assert embedding.dtype == np.float32
    expected = [-0.7597271, -0.7125386, 0.8802374, 0.9969666, 0.6502420, 0.7016329, 0.0778303]
    assert embedding[0, [0, 1, 2, 127, 128, 129, 255]] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(embedding[1], np.repeat([1.0, 0.0], 128))


def test_distinct_values_come_back() -> None:
    values = np.array([[0.0, 0.7, 0.7], [0.25, 0.0, 0.7]], dtype=np.float32)
    split = distinct(values)
    assert split.values.tolist() == pytest.approx([0.0, 0.25, 0.7])
    assert split.index.dtype == np.int32
    assert np.array_equal(split.values[split.index], values)


def test_rows_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    width, parameters = 12, 4
    shapes = {
        "emb.timestep_embedder.linear_1": (width, 256),
        "emb.timestep_embedder.linear_2": (width, width),
        "linear": (parameters * width, width),
    }
    weights = {f"{name}.weight": rng.standard_normal(s).astype(np.float32) * 0.2 for name, s in shapes.items()}
    biases = {f"{name}.bias": rng.standard_normal(s[0]).astype(np.float32) for name, s in shapes.items()}
    arrays = {k: LinearWeight("dense", mx.array(v)) for k, v in weights.items()}
    timesteps = np.array([0.0, 421.875, 1000.0], dtype=np.float32)
    modulation, embedded = adaln(Params({**arrays, **{k: mx.array(v) for k, v in biases.items()}}), timesteps)

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].astype(np.float64).T + biases[f"{name}.bias"]

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    emb = layer("emb.timestep_embedder.linear_1", sinusoid(timesteps).astype(np.float64))
    emb = layer("emb.timestep_embedder.linear_2", silu(emb))
    rows = layer("linear", silu(emb)).reshape(3, parameters, width)
    assert np.array(embedded) == pytest.approx(emb, abs=1e-5)
    assert modulation.shape == (parameters, 3, width)
    assert np.array(modulation) == pytest.approx(rows.transpose(1, 0, 2), abs=1e-5)

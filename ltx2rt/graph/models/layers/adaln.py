"""AdaLN-single: the sinusoid of a timestep and the small network that turns it into modulation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.types import Array

SINUSOID_WIDTH = 256


@dataclass(frozen=True)
class Distinct:
    """The different values of an array and where each element finds its own.

    Attributes:
        values: (R,) float32.
        index: int32, shape of the array.
    """

    values: Array
    index: Array


def distinct(values: Array) -> Distinct:
    """Split ``values`` into its distinct values and an index into them; AdaLN then runs once per value."""
    rows, inverse = np.unique(values.astype(np.float32), return_inverse=True)
    return Distinct(rows, inverse.reshape(values.shape).astype(np.int32))


def sinusoid(timesteps: Array) -> Array:
    """Sinusoidal embedding of timesteps, cosines first.

    Args:
        timesteps: (R,) in the units of the model (sigma * 1000).

    Returns:
        (R, 256) float32: cos(t * f_j), then sin(t * f_j), f_j = 10000 ** (-j / 128).

    Source: Lightricks/LTX-2 ltx_core/model/transformer/timestep_embedding.py @ v1.2.0.
    """
    half = SINUSOID_WIDTH // 2
    exponent = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = timesteps.astype(np.float32)[:, None] * frequency[None]  # rounded to float32, then exact functions of it
    angle = angle.astype(np.float64)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def adaln(params: Params, timesteps: Array) -> tuple[mx.array, mx.array]:
    """Modulation rows and embedding of each timestep.

    Everything here is a few rows, so it stays in float32 whatever the dtype of the model.

    Args:
        params: view of an ``adaln_single`` module.
        timesteps: (R,) in the units of the model.

    Returns:
        (k, R, D) float32 modulation (parameter-major, so that each parameter is one contiguous (R, D) table) and
        (R, D) float32 embedding.

    Source: Lightricks/LTX-2 ltx_core/model/transformer/adaln.py @ v1.2.0.
    """
    embedder = params.at("emb.timestep_embedder")
    embedded = linear(mx.array(sinusoid(timesteps)), embedder.at("linear_1"), activation="silu")
    embedded = linear(embedded, embedder.at("linear_2"))
    rows, width = embedded.shape
    modulation = linear(embedded * mx.sigmoid(embedded), params.at("linear"))
    return modulation.reshape(rows, -1, width).swapaxes(0, 1), embedded

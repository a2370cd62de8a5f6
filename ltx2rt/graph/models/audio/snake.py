"""The parameters of the 2.3 vocoder's periodic activation, which runs at twice the sample rate to avoid aliasing."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from ltx2rt import kernels
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import ParamSpec

TAPS = 12  # Of both filters.


def snake_specs(name: str, channels: int, *, beta: bool) -> Iterator[ParamSpec]:
    """The tensors of one activation; ``beta``: with its own amplitude per channel."""
    yield ParamSpec(f"{name}.act.alpha", (channels,))
    if beta:
        yield ParamSpec(f"{name}.act.beta", (channels,))
    yield ParamSpec(f"{name}.upsample.filter", (1, 1, TAPS))
    yield ParamSpec(f"{name}.downsample.lowpass.filter", (1, 1, TAPS))


def antialiased_snake(x: mx.array, params: Params) -> mx.array:
    """`ltx2rt.kernels.antialiased_snake` with the parameters of one activation.

    Args:
        x: (B, S, C) float32; the border samples are repeated beyond both ends.
        params: one activation, see `snake_specs`; without ``act.beta`` alpha is used for both.

    Returns:
        (B, S, C) float32.

    Source: Activation1d of Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (BigVGAN).
    """
    alpha = params["act.alpha"]
    beta = params.get("act.beta")
    return kernels.antialiased_snake(
        x,
        alpha,
        alpha if beta is None else beta,
        params["upsample.filter"].reshape(TAPS),
        params["downsample.lowpass.filter"].reshape(TAPS),
    )

"""The periodic activation of the 2.3 vocoder, evaluated at twice the sample rate so that it does not alias."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from ltx2rt.graph.models.params import Params
from ltx2rt.kernels import conv2d
from ltx2rt.types import ParamSpec

TAPS = 12  # Of both filters. Six of them meet a sample when the rate is doubled.


def snake_specs(name: str, channels: int, *, beta: bool) -> Iterator[ParamSpec]:
    """The tensors of one activation; ``beta``: with its own amplitude per channel."""
    yield ParamSpec(f"{name}.act.alpha", (channels,))
    if beta:
        yield ParamSpec(f"{name}.act.beta", (channels,))
    yield ParamSpec(f"{name}.upsample.filter", (1, 1, TAPS))
    yield ParamSpec(f"{name}.downsample.lowpass.filter", (1, 1, TAPS))


def antialiased_snake(x: mx.array, params: Params) -> mx.array:
    """``down2(snake(up2(x)))`` with ``snake(x) = x + sin(exp(alpha) x)**2 / (exp(beta) + 1e-9)``.

    Args:
        x: (B, S, C) float32; the border samples are repeated beyond both ends.
        params: one activation, see `snake_specs`; without ``act.beta`` alpha is used for both.

    Returns:
        (B, S, C) float32.

    Source: Activation1d of Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (BigVGAN).
    """
    batch, samples, channels = x.shape
    alpha = params["act.alpha"].astype(mx.float32)
    beta = params.get("act.beta")
    beta = alpha if beta is None else beta.astype(mx.float32)
    # The channels stand on the width axis of a one-channel picture, so that one filter serves them all.
    doubled = conv2d(
        x[..., None],
        _upsampling_phases(params["upsample.filter"]),
        padding=((TAPS // 4, TAPS // 4), (0, 0)),
        padding_mode=("edge", "zeros"),
    )
    fine = doubled.transpose(0, 1, 3, 2).reshape(batch, 2 * samples, channels)
    fine = fine + mx.square(mx.sin(fine * mx.exp(alpha))) / (mx.exp(beta) + 1e-9)
    return conv2d(
        fine[..., None],
        params["downsample.lowpass.filter"].reshape(1, TAPS, 1, 1),
        stride=(2, 1),
        padding=((TAPS // 2 - 1, TAPS // 2), (0, 0)),
        padding_mode=("edge", "zeros"),
    )[..., 0]


def _upsampling_phases(stored: mx.array) -> mx.array:
    """The filter as two output phases over seven neighbours, (2, 7, 1, 1).

    Doubled sample 2p meets x[p-3 .. p+2] with the odd taps in falling order, 2p+1 meets x[p-2 .. p+3] with the even
    ones; the factor 2 makes up for the inserted zeros.
    """
    taps = 2.0 * stored.reshape(TAPS // 2, 2).astype(mx.float32)[::-1]
    even, odd = mx.pad(taps[:, 1], (0, 1)), mx.pad(taps[:, 0], (1, 0))
    return mx.stack([even, odd])[..., None, None]

"""A periodic activation at twice the sample rate, between interpolation and decimation, so as not to alias."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.selection import Implementation, ext
from ltx2rt.kernels.variants import SnakeVariant


def antialiased_snake(x: mx.array, alpha: mx.array, beta: mx.array, rise: mx.array, fall: mx.array) -> mx.array:
    """``down2(snake(up2(x)))`` with ``snake(u) = u + sin(exp(alpha) * u)**2 / (exp(beta) + 1e-9)``.

    Both filters repeat the border samples beyond the ends; ``up2`` includes the factor 2 for the inserted zeros.

    Args:
        x: (B, S, C) float32 | float16 | bfloat16.
        alpha: (C,), any float dtype, logarithm of the frequency.
        beta: (C,), any float dtype, logarithm of the inverse amplitude.
        rise: (12,), any float dtype, filter of the interpolation.
        fall: (12,), any float dtype, filter of the decimation.

    Returns:
        Shape and dtype of x. Computed in float32; one rounding on store.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.

    Source: Activation1d of Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (BigVGAN).
    """
    if ext is None:
        return reference.antialiased_snake(x, alpha, beta, rise, fall)

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.antialiased_snake if chosen == "mlx" else reference.antialiased_snake
        made: mx.array = ext.antialiased_snake(
            x, alpha, beta, rise, fall, reference=formula, use_reference=chosen != "kernel"
        )
        return made

    return built(antialiased_snake, build, lambda: SnakeVariant.of(x, alpha, beta, rise, fall))

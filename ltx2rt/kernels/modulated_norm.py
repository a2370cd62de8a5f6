"""RMSNorm or LayerNorm without weight, then (1 + scale) and shift gathered from a table of distinct rows."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.selection import Implementation, ext, spread
from ltx2rt.kernels.variants import NormVariant


def modulated_norm(
    x: mx.array,
    *,
    scale: mx.array | None = None,
    shift: mx.array | None = None,
    index: mx.array | None = None,
    norm: str = "rms",
    eps: float = 1e-6,
) -> mx.array:
    """``norm(x) * (1 + scale[index]) + shift[index]``.

    Args:
        x: (..., D) float32 | float16 | bfloat16.
        scale: (R, D), any float dtype. None: no factor.
        shift: (R, D), any float dtype. None: no offset.
        index: int32, shape of x without its last axis: the row of scale and shift for each row of x
            (negative counts from the end). May be None when R is 1.
        norm: ``rms``, ``layer`` (mean-subtracting) or ``none``.
        eps: added to the mean square.

    Returns:
        Shape and dtype of x. Computed in float32; one rounding on store.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.

    Source: the adaLN modulation of Lightricks/LTX-2 ltx_core/model/transformer/transformer.py @ v1.2.0.
    """
    if ext is None:
        return reference.modulated_norm(x, scale=scale, shift=shift, index=index, norm=norm, eps=eps)
    present = (scale is not None, shift is not None, index is not None)

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.modulated_norm if chosen == "mlx" else reference.modulated_norm

        def graph(x: mx.array, *others: mx.array) -> mx.array:
            scale, shift, index = spread(others, present)
            return formula(x, scale=scale, shift=shift, index=index, norm=norm, eps=eps)

        made: mx.array = ext.modulated_norm(
            x,
            scale=scale,
            shift=shift,
            index=index,
            norm=norm,
            eps=eps,
            reference=graph,
            use_reference=chosen != "kernel",
        )
        return made

    return built(modulated_norm, build, lambda: NormVariant.of(x, scale, shift, index, norm))

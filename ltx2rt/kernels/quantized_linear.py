"""Matrix product with dense or quantised weights and fused bias, activation and gated residual."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.selection import OUR_KERNELS, Implementation, ext, spread
from ltx2rt.kernels.variants import LinearVariant
from ltx2rt.types import LinearWeight


def quantized_linear(
    x: mx.array,
    weight: LinearWeight,
    bias: mx.array | None = None,
    *,
    activation: str | None = None,
    residual: mx.array | None = None,
    gate: mx.array | None = None,
    gate_index: mx.array | None = None,
) -> mx.array:
    """``residual + gate[gate_index] * activation(x @ W.T + bias)``; every part but the product is optional.

    Args:
        x: (..., K) float32 | float16 | bfloat16.
        weight: W (N, K), dense or in one of the packed forms of `LinearWeight`, whose dtype is independent of x's.
            Rotated weights multiply a rotated x; its ``activations`` may turn rows of x into 8-bit codes.
        bias: (N,), any float dtype.
        activation: None, ``gelu_tanh`` or ``silu``.
        residual: (..., N), dtype of x.
        gate: (R, N), any float dtype: the distinct gate vectors.
        gate_index: int32, shape of x without its last axis: the gate row of each row of x
            (negative counts from the end). May be None when R is 1.

    Returns:
        (..., N), dtype of x. Sums are float32; one rounding on store. On a GPU that is slow with bfloat16, products of
        weights that fit (``fits_half``) may be made of float16 operands.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.

    Source: torch.nn.functional.linear with the weight dequantised; E4M3 semantics of
    Lightricks/LTX-2 ltx_core/quantization @ v1.2.0 (W = code * weight_scale).
    """
    if ext is None:
        return reference.quantized_linear(
            x, weight, bias, activation=activation, residual=residual, gate=gate, gate_index=gate_index
        )
    present = tuple(a is not None for a in (weight.scale, weight.zero, weight.table, bias, residual, gate, gate_index))

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.quantized_linear if chosen == "mlx" else reference.quantized_linear

        def graph(x: mx.array, values: mx.array, *others: mx.array) -> mx.array:
            scale, zero, table, bias, residual, gate, gate_index = spread(others, present)
            return formula(
                x,
                weight._replace(values=values, scale=scale, zero=zero, table=table),
                bias,
                activation=activation,
                residual=residual,
                gate=gate,
                gate_index=gate_index,
            )

        made: mx.array = ext.quantized_linear(
            x,
            mode=weight.mode,
            values=weight.values,
            scale=weight.scale,
            zero=weight.zero,
            table=weight.table,
            group_size=weight.group_size,
            bits=weight.bits,
            rotation=weight.rotation,
            int8_activations=weight.activations == "int8",
            half_operands=chosen in ("half", "half_fenced"),
            bias=bias,
            activation=activation or "none",
            residual=residual,
            gate=gate,
            gate_index=gate_index,
            reference=graph,
            use_reference=chosen not in OUR_KERNELS,
            fenced=chosen in ("fenced", "half_fenced"),
        )
        return made

    return built(
        quantized_linear, build, lambda: LinearVariant.of(x, weight, bias, activation, residual, gate, gate_index)
    )

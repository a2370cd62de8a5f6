"""Fused attention: q/k RMSNorm, 3-D rotary embedding, softmax(q k^T * scale + bias) v, per-head gate."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.kernels import mlx_ops, reference
from ltx2rt.kernels.kernel_choice import built
from ltx2rt.kernels.reference import RopeTable
from ltx2rt.kernels.selection import Implementation, ext, spread
from ltx2rt.kernels.variants import AttentionVariant


def rope_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    q_norm: mx.array | None = None,
    k_norm: mx.array | None = None,
    norm_eps: float = 1e-6,
    rope_q: RopeTable | None = None,
    rope_k: RopeTable | None = None,
    rope_layout: str = "split",
    bias: mx.array | None = None,
    gate_logits: mx.array | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> mx.array:
    """Multi-head attention with everything that stands between the projections fused.

    Args:
        q: (B, Tq, N*K) float32 | float16 | bfloat16.
        k: (B, Tk, Nkv*K), same dtype.
        v: (B, Tk, Nkv*K), same dtype.
        num_heads: N.
        num_kv_heads: Nkv, a divisor of N (grouped-query attention); default N.
        q_norm: RMSNorm weight, (N*K,) over all heads together or (K,) per head; any float dtype.
        k_norm: the same for k, (Nkv*K,) or (K,).
        norm_eps: added to the mean square.
        rope_q: rotary table of the q tokens; a table with M*P <= K/2 lanes is shared by all heads,
            otherwise head h owns lanes [h*K/2, (h+1)*K/2) and the table covers N*K/2 lanes.
        rope_k: rotary table of the k tokens. None: not rotated (not "as q").
        rope_layout: ``split`` pairs lane i with i + K/2, ``interleaved`` pairs 2i with 2i + 1.
        bias: float, broadcastable to (B, N, Tq, Tk), added to the scaled scores.
        gate_logits: (B, Tq, N), any float dtype; head outputs are multiplied by 2*sigmoid(gate_logits).
        causal: query i sees keys j <= i + Tk - Tq.
        scale: of the scores; default K**-0.5.

    Returns:
        (B, Tq, N*K), dtype of q. Norms, rotation, softmax and sums are float32; one rounding on store.
        Where the processor multiplies pairs of bfloat16, bfloat16 inputs after norm and rotation, and the softmax
        weights, are rounded to bfloat16 before they are multiplied.
        A query whose scores are all -inf, or that has no key, gives zeros; one whose scores are all equally low
        (the finfo.min of a mask) gives the mean of v.

    Raises:
        ValueError: for shapes or dtypes that do not fit, naming the argument and what was received.
        RuntimeError: when evaluated on the CPU with an index outside its table.

    Source: the attention of Lightricks/LTX-2 ltx_core/model/transformer/attention.py and rope.py @ v1.2.0.
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if scale is None:
        scale = max(1, q.shape[-1] // max(1, num_heads)) ** -0.5
    if rope_layout not in ("split", "interleaved"):
        raise ValueError(f'[rope_attention] rope_layout must be "split" or "interleaved" but is "{rope_layout}".')
    optional = (q_norm, k_norm, *(rope_q or (None,) * 3), *(rope_k or (None,) * 3), bias, gate_logits)
    present = tuple(a is not None for a in optional)

    def build(chosen: Implementation) -> mx.array:
        formula = mlx_ops.rope_attention if chosen == "mlx" else reference.rope_attention

        def graph(q: mx.array, k: mx.array, v: mx.array, *others: mx.array) -> mx.array:
            q_norm, k_norm, cos_q, sin_q, index_q, cos_k, sin_k, index_k, bias, gate_logits = spread(others, present)
            return formula(
                q,
                k,
                v,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                q_norm=q_norm,
                k_norm=k_norm,
                norm_eps=norm_eps,
                rope_q=reference.rope_table(cos_q, sin_q, index_q),
                rope_k=reference.rope_table(cos_k, sin_k, index_k),
                rope_layout=rope_layout,
                bias=bias,
                gate_logits=gate_logits,
                causal=causal,
                scale=scale,
            )

        if ext is None:
            return graph(q, k, v, *(a for a in optional if a is not None))
        made: mx.array = ext.rope_attention(
            q,
            k,
            v,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            q_norm=q_norm,
            k_norm=k_norm,
            norm_eps=norm_eps,
            rope_q=rope_q,
            rope_k=rope_k,
            interleaved=rope_layout == "interleaved",
            bias=bias,
            gate_logits=gate_logits,
            causal=causal,
            scale=scale,
            reference=graph,
            use_reference=chosen not in ("kernel", "fenced"),
            fenced=chosen == "fenced",
        )
        return made

    return built(
        rope_attention,
        build,
        lambda: AttentionVariant.of(
            q, k, num_heads, num_kv_heads, q_norm, k_norm, rope_q, rope_k, rope_layout, bias, gate_logits, causal
        ),
    )

"""A block of the diffusion decoder in torch: dense attention of each row of cells, its windows as a mask."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ltx2rt.bench.case import TORCH, Call, Way
from ltx2rt.bench.diffusion_cases import DiffusionBlock, DiffusionBlockCase
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.diffusion_blocks import NORM_EPS
from ltx2rt.kernels import neighborhood_rope
from ltx2rt.kernels.reference import Windows

from .arrays import to_torch, torch_module, torch_weights

# Rows of cells whose keys are gathered at a time.
_ROWS = 8


def block_ways(case: DiffusionBlockCase, part: DiffusionBlock) -> dict[str, Way]:
    return {TORCH: Way(lambda share: block_call(part))}


def block_call(part: DiffusionBlock) -> Call:
    """The block with the same weights and cells."""
    torch = torch_module()
    functional, block, dtype = torch.nn.functional, part.block, part.case.dtype
    prefix = f"{block.path}."
    w = torch_weights(part.params, part.specs, lambda name: name.removeprefix(prefix), dtype)
    modulation = block.modulation(Params(part.params), part.shared)
    scales = [to_torch(1 + scale) for scale in (modulation.attention_scale, modulation.mlp_scale)]
    shifts = [0 if s is None else to_torch(s) for s in (modulation.attention_shift, modulation.mlp_shift)]
    x = to_torch(part.x)[0]
    context = None if part.context is None else to_torch(part.context)[0]
    frames, height, width, channels = x.shape
    heads, head = channels // block.head_dim, block.head_dim
    rows = Windows(height, block.window[1], "shift")
    columns = Windows(width, block.window[2], "replicate" if block.denoises else "shift")
    times = part.times
    rope = neighborhood_rope(times, times, (height, width), block.window[1:], lanes=block.lanes)
    q_angles = _angles(rope.q_time, rope.height[:, rows.own], rope.width[:, columns.own])
    k_angles = _angles(rope.k_time, rope.height[:, rows.positions], rope.width[:, columns.positions])
    cells = [to_torch(axis.cells).long() for axis in (rows, columns)]
    seen_rows = torch.from_numpy(rows.index).long()
    seen_frames = torch.from_numpy(part.key_frames).long()
    mask = torch.from_numpy(columns.dense).repeat(1, block.window[0] * block.window[1])

    def normed(x: Any, number: int) -> Any:
        plain = functional.rms_norm(x.float(), (channels,), None, NORM_EPS)
        return (plain * scales[number] + shifts[number]).to(x.dtype)

    def turned(x: Any, weight: Any, angles: Any) -> Any:
        x = functional.rms_norm(x.float(), (head,), weight.float(), NORM_EPS)
        cosine, sine = (a.unsqueeze(-2) for a in angles)
        even, odd = x[..., 0::2], x[..., 1::2]
        pairs = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return pairs.flatten(-2)

    def attended(x: Any) -> Any:
        q, k, v = functional.linear(normed(x, 0), w["attn.qkv.weight"], w["attn.qkv.bias"]).chunk(3, dim=-1)
        k, v = (a[:, cells[0]][:, :, cells[1]] for a in (k, v))
        q, k, v = (a.unflatten(-1, (heads, head)) for a in (q, k, v))
        q = turned(q, w["attn.q_norm.weight"], q_angles).to(x.dtype)
        k = turned(k, w["attn.k_norm.weight"], k_angles).to(x.dtype)
        out = torch.empty_like(q)
        for frame in range(frames):
            k_frames, v_frames = (a[seen_frames[frame]] for a in (k, v))
            for first in range(0, height, _ROWS):
                part_of = slice(first, first + _ROWS)
                keys, values = (
                    # (rows, heads, frames x rows x columns, head)
                    a[:, seen_rows[part_of]].permute(1, 4, 0, 2, 3, 5).flatten(2, 4)
                    for a in (k_frames, v_frames)
                )
                queries = q[frame, part_of].transpose(1, 2)
                found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
                out[frame, part_of] = found.transpose(1, 2)
        return functional.linear(out.flatten(-2), w["attn.proj.weight"], w["attn.proj.bias"])

    def call() -> Any:
        with torch.inference_mode():
            y = x
            if context is not None:
                y = y + functional.linear(context, w["context_proj.weight"], w["context_proj.bias"])
            y = y + attended(y)
            inner = normed(y, 1)
            up, gate = (functional.linear(inner, w[f"mlp.{name}.weight"]) for name in ("w_up", "w_gate"))
            return (y + functional.linear(functional.silu(gate) * up, w["mlp.w_down.weight"]))[None]

    return call


def _angles(time: mx.array, height: mx.array, width: mx.array) -> Any:
    """Cosines and sines (2, F, H, W, K / 2) of every cell from those along each axis."""
    torch = torch_module()
    t, h, w = (to_torch(mx.contiguous(axis)) for axis in (time, height, width))
    size = (2, t.shape[1], h.shape[1], w.shape[1])
    return torch.cat(
        [
            t[:, :, None, None].expand(*size, -1),
            h[:, None, :, None].expand(*size, -1),
            w[:, None, None, :].expand(*size, -1),
        ],
        dim=-1,
    )


WAYS: dict[type, Any] = {DiffusionBlockCase: block_ways}

"""The fused operations as torch computes them: the bare operation, and for products their epilogue."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import mlx.core as mx

from ltx2rt.bench.attention_cases import AttentionCase
from ltx2rt.bench.case import DTYPES, TORCH, TORCH_DENSE, Call, Way, halves
from ltx2rt.bench.convolution_cases import ConvolutionCase
from ltx2rt.bench.linear_cases import DOT, FEW_ROWS, LinearCase, LinearInputs, cold_bytes, some_columns
from ltx2rt.bench.neighborhood_cases import HEAD, NeighborhoodCase
from ltx2rt.bench.norm_cases import EPS, NormCase
from ltx2rt.kernels import reference

from .arrays import to_torch, torch_module


def linear_ways(case: LinearCase, inputs: LinearInputs) -> dict[str, Way]:
    some = functools.partial(Way, shares=halves(max(1, case.columns // 64)), part="columns")
    ways = {}
    if case.form in ("f32", "bf16", "e4m3"):
        ways[TORCH] = some(lambda share: linear(case, inputs, share, dense=False))
    if case.form in DOT:  # torch's way is the product in bfloat16
        ways[TORCH] = some(lambda share: linear(case, inputs, share, dense=True))
    elif case.form not in DTYPES:
        ways[TORCH_DENSE] = some(lambda share: linear(case, inputs, share, dense=True))
    return ways


def linear(case: LinearCase, inputs: LinearInputs, share: float, *, dense: bool) -> Call:
    """torch's linear; an E4M3 weight is converted in every call unless ``dense``."""
    torch = torch_module()
    part = some_columns(inputs.weight, share)
    columns = part.out_features
    tx, tbias = to_torch(inputs.x), to_torch(inputs.bias[:columns])
    tresidual = to_torch(mx.contiguous(inputs.residual[:, :columns]))
    tgate = torch.ones(columns, dtype=tx.dtype)
    if part.mode == "e4m3" and not dense:
        values = to_torch(part.values).view(torch.float8_e4m3fn)
    else:
        values = to_torch(reference.dequantise(part).astype(DTYPES[case.dtype]))
    size = values.numel() * values.element_size()
    count = -(-cold_bytes(case.columns * case.depth) // size) if case.rows <= FEW_ROWS else 1
    turns = itertools.cycle([values, *(values.clone() for _ in range(count - 1))])

    def call() -> Any:
        with torch.inference_mode():
            w = next(turns)
            out = torch.nn.functional.linear(tx, w if w.dtype == tx.dtype else w.to(tx.dtype), tbias)
            if case.epilogue == "gelu":
                out = torch.nn.functional.gelu(out, approximate="tanh")
            elif case.epilogue == "residual":
                out = tresidual + out * tgate
            return out

    return call


def attention_ways(case: AttentionCase, inputs: tuple[mx.array, mx.array, mx.array]) -> dict[str, Way]:
    def make(share: float) -> Call:
        """torch's attention alone, without norms and rotation."""
        torch = torch_module()
        heads = max(1, round(case.heads * share))
        q, k, v = (
            to_torch(a).reshape(1, -1, case.heads, case.head)[:, :, :heads].transpose(1, 2).contiguous() for a in inputs
        )

        def call() -> Any:
            with torch.inference_mode():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        return call

    return {TORCH: Way(make, halves(case.heads), "heads")}


# Queries of a brick along each axis, whose keys are read at once: the fastest of 4, 6, 8, 16 and 4 x 8 x 8.
BRICK = 8


def neighborhood_ways(case: NeighborhoodCase, qkv: mx.array) -> dict[str, Way]:
    def make(share: float) -> Call:
        """torch's attention with a mask, brick by brick, without norms and rotation: the fastest way tried with torch.

        benchmarks/LOG.md has the bricks of other sizes that were tried.
        """
        torch = torch_module()
        heads = max(1, round(case.heads * share))
        shape = (1, *case.grid, 3, case.heads, HEAD)
        q, k, v = to_torch(qkv).reshape(shape)[..., :heads, :].permute(4, 0, 5, 1, 2, 3, 6).contiguous()
        windows = []  # first key of each query, along each axis
        for axis, (cells, count) in enumerate(zip(case.grid, case.window, strict=True)):
            first = torch.arange(cells)
            if axis > 0 and case.borders[axis - 1] == "replicate":
                places = torch.clamp(torch.arange(cells + count - 1) - count // 2, 0, cells - 1)
                k, v = (x.index_select(axis + 2, places) for x in (k, v))
            else:
                first = torch.clamp(first - count // 2, 0, cells - count)
            windows.append(first)
        masks: dict[bytes, Any] = {}

        def axis_part(axis: int, at: int) -> tuple[slice, slice, Any]:
            first, count = windows[axis][at : at + BRICK], case.window[axis]
            keys = torch.arange(int(first[0]), int(first[-1]) + count)
            seen = (keys >= first[:, None]) & (keys < first[:, None] + count)
            return slice(at, at + BRICK), slice(int(keys[0]), int(keys[-1]) + 1), seen

        bricks = []
        for t, h, w in itertools.product(*(range(0, n, BRICK) for n in case.grid)):
            parts = [axis_part(axis, at) for axis, at in enumerate((t, h, w))]
            seen = torch.einsum("ab,cd,ef->acebdf", *(part[2].float() for part in parts))
            seen = seen.reshape(int(seen.shape[:3].numel()), -1)
            mask = torch.zeros_like(seen, dtype=q.dtype).masked_fill(seen == 0, -torch.inf)
            mask = masks.setdefault(mask.view(torch.uint8).numpy().tobytes(), mask)
            bricks.append((tuple(part[0] for part in parts), tuple(part[1] for part in parts), mask))

        def call() -> Any:
            with torch.inference_mode():
                out = torch.empty_like(q)
                for where, keys, mask in bricks:
                    queries = q[(..., *where, slice(None))]
                    near_k, near_v = (x[(..., *keys, slice(None))].reshape(1, heads, -1, HEAD) for x in (k, v))
                    some = torch.nn.functional.scaled_dot_product_attention(
                        queries.reshape(1, heads, -1, HEAD), near_k, near_v, attn_mask=mask
                    )
                    out[(..., *where, slice(None))] = some.reshape(queries.shape)
                return out

        return call

    return {TORCH: Way(make, halves(case.heads), "heads")}


def convolution_ways(case: ConvolutionCase, inputs: tuple[mx.array, mx.array]) -> dict[str, Way]:
    x, weight = inputs

    def make(share: float) -> Call:
        """torch's convolution alone, channels first as in diffusers, over as few axes as it needs."""
        torch = torch_module()
        w = weight[: max(1, round(case.out_channels * share))]
        axes = [axis for axis in range(3) if case.size[axis] > 1 or case.kernel[axis] > 1]
        convolution = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
        sizes = (case.size[a] for a in axes)
        tx = to_torch(x).permute(0, 4, 1, 2, 3).reshape(1, case.channels, *sizes).contiguous()
        tw = to_torch(mx.contiguous(w)).permute(0, 4, 1, 2, 3)
        tw = tw.reshape(*tw.shape[:2], *(case.kernel[a] for a in axes)).contiguous()
        padding = tuple(case.padding[a][0] for a in axes)
        dilation = tuple((1, 1, case.dilation)[a] for a in axes)

        def call() -> Any:
            with torch.inference_mode():
                return convolution[len(axes)](tx, tw, padding=padding, dilation=dilation)

        return call

    return {TORCH: Way(make, halves(max(1, case.out_channels // 8)), "output channels")}


def norm_ways(case: NormCase, inputs: tuple[mx.array, mx.array, mx.array, mx.array]) -> dict[str, Way]:
    x, scale, shift, index = inputs

    def make(share: float) -> Call:
        torch = torch_module()
        tx, tindex = to_torch(x), to_torch(index).long()
        tscale, tshift = (to_torch(a).to(tx.dtype) for a in (scale, shift))

        def call() -> Any:
            with torch.inference_mode():
                normed = torch.nn.functional.rms_norm(tx, (case.width,), None, EPS)
                return normed * (1 + tscale[tindex]) + tshift[tindex]

        return call

    return {TORCH: Way(make)}


WAYS: dict[type, Any] = {
    LinearCase: linear_ways,
    AttentionCase: attention_ways,
    NeighborhoodCase: neighborhood_ways,
    ConvolutionCase: convolution_ways,
    NormCase: norm_ways,
}

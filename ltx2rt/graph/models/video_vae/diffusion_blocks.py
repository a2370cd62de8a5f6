"""The layers of the diffusion video decoder: attention blocks, and the steps between its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import mlx.core as mx

from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size, Upsampling
from ltx2rt.kernels import modulated_norm, neighborhood_attention, neighborhood_rope, quantized_linear
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import Array, LinearWeight, ParamSpec

NORM_EPS = 1e-6
# What the shared modulation holds of a block, in this order; its gates are not used.
MODULATION_ROWS = 7
_SCALE_ATTENTION, _SHIFT_ATTENTION, _SCALE_MLP, _SHIFT_MLP = 0, 1, 3, 4
# Static gates of blocks that the published file has no more: they belong to the matrices in front of them.
_GATES = {"gate_msa": "attn.proj", "gate_mlp": "mlp.w_down", "gate_ctx": "context_proj"}
# Bytes between the two layers of an MLP that exist at a time, as many as a core keeps near; twice that with the other
# half of the product.
_HIDDEN_BYTES = 2 << 20


class Modulation(NamedTuple):
    """Factors less 1 and offsets, (1, C) float32, behind the two norms of a block; norm weights are in the factors."""

    attention_scale: mx.array
    attention_shift: mx.array | None
    mlp_scale: mx.array
    mlp_shift: mx.array | None


class Attended(NamedTuple):
    """What the queries of some frames see.

    Attributes:
        keys_values: (1, S, H, W, 2C), keys first.
        key_times: (S,) positions in time.
        key_frames: (n, J) int32, frames of ``keys_values`` for each frame of queries, -1: none.
        masked: windows are cut at the borders, as they are where there are key frames; else they are shifted inward.
    """

    keys_values: mx.array
    key_times: Array
    key_frames: mx.array
    masked: bool = False


@dataclass(frozen=True)
class AttentionBlock:
    """x + attention(norm(x)), x + MLP(norm(x)); in the last stage with a context and with modulated norms.

    Attributes:
        path: name in the file below ``decoder.``.
        channels: C, a multiple of head_dim.
        head_dim: channels of a head.
        window: (F, H, W) that a query sees.
        lanes: of a head that turn with the position along F, H and W.
        denoises: it belongs to the last stage.
    """

    path: str
    channels: int
    head_dim: int
    window: Size
    lanes: Size
    denoises: bool = False

    @property
    def hidden(self) -> int:
        """Channels inside the MLP."""
        return -(-4 * self.channels // 16) * 16

    def specs(self) -> list[ParamSpec]:
        width, hidden = self.channels, self.hidden
        specs = [
            ParamSpec("norm1.weight", (width,)),
            ParamSpec("norm2.weight", (width,)),
            *_linear("attn.qkv", 3 * width, width),
            *_linear("attn.proj", width, width),
            ParamSpec("attn.q_norm.weight", (self.head_dim,)),
            ParamSpec("attn.k_norm.weight", (self.head_dim,)),
            *_linear("mlp.w_up", hidden, width, bias=False),
            *_linear("mlp.w_gate", hidden, width, bias=False),
            *_linear("mlp.w_down", width, hidden, bias=False),
        ]
        if self.denoises:
            specs += [
                *_linear("context_proj", width, width),
                ParamSpec("scale_shift_table", (MODULATION_ROWS, width)),
                *(ParamSpec(gate, (width,), optional=True) for gate in _GATES),
            ]
        return [_below(self.path, spec) for spec in specs]

    def modulation(self, params: Params, shared: mx.array | None = None) -> Modulation:
        """Of the block; ``shared``: (7, C) float32 of the timestep, None in the stages that have none."""
        own = params.at(self.path)
        first, second = (own[f"norm{number}.weight"].astype(mx.float32)[None] for number in (1, 2))
        if shared is None:
            return Modulation(first - 1, None, second - 1, None)
        rows = shared + own["scale_shift_table"].astype(mx.float32)
        return Modulation(
            first * (1 + rows[_SCALE_ATTENTION]) - 1,
            rows[_SHIFT_ATTENTION][None],
            second * (1 + rows[_SCALE_MLP]) - 1,
            rows[_SHIFT_MLP][None],
        )

    def with_context(self, x: mx.array, context: mx.array, params: Params) -> mx.array:
        """x (1, n, H, W, C) and what its cells are told."""
        return self._projected(context, "context_proj", x, params.at(self.path))

    def keys_values(self, x: mx.array, params: Params, modulation: Modulation) -> mx.array:
        """Keys and values (1, n, H, W, 2C) of frames (1, n, H, W, C), before norm and rotation."""
        return self._rows(x, slice(self.channels, None), params, modulation)

    def attend(self, x: mx.array, times: Array, seen: Attended, params: Params, modulation: Modulation) -> mx.array:
        """x (1, n, H, W, C) at ``times`` (n,), and what its cells see."""
        own = params.at(self.path)
        height, width = x.shape[2:4]
        border = "mask" if seen.masked else "shift"
        keys, values = (seen.keys_values[..., part] for part in (slice(self.channels), slice(self.channels, None)))
        attended = neighborhood_attention(
            self._rows(x, slice(self.channels), params, modulation),
            keys,
            values,
            seen.key_frames,
            num_heads=self.channels // self.head_dim,
            window=self.window[1:],
            # Upstream computes the last stage in slabs of columns, with the volume's edge columns repeated around it.
            borders=(border, "replicate" if self.denoises else border),
            q_norm=own["attn.q_norm.weight"],
            k_norm=own["attn.k_norm.weight"],
            norm_eps=NORM_EPS,
            rope=neighborhood_rope(times, seen.key_times, (height, width), self.window[1:], lanes=self.lanes),
        )
        return self._projected(attended, "attn.proj", x, own)

    def mlp(self, x: mx.array, params: Params, modulation: Modulation) -> mx.array:
        """x (1, n, H, W, C) and the MLP of its cells, some cells at a time; evaluated."""
        own = params.at(self.path)
        cells = x.reshape(-1, self.channels)
        # Even parts: a rest of a few cells would take kernels for few rows, whose sums have other bits.
        count = -(-cells.shape[0] // self.mlp_cells(x.dtype.size))
        step = -(-cells.shape[0] // count)
        parts = []
        for start in range(0, cells.shape[0], step):
            part = cells[start : start + step]
            normed = modulated_norm(part, scale=modulation.mlp_scale, shift=modulation.mlp_shift, eps=NORM_EPS)
            up = linear(normed, own.at("mlp.w_up"))
            # Each cell is a row of the table of gates of its own.
            rows = mx.arange(part.shape[0], dtype=mx.int32)
            hidden = linear(normed, own.at("mlp.w_gate"), activation="silu", gate=up, gate_index=rows)
            parts.append(self._projected(hidden, "mlp.w_down", part, own))
            del part, normed, up, hidden
            mx.eval(parts[-1])
        whole = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=0)
        mx.eval(whole)
        return whole.reshape(x.shape)

    def mlp_cells(self, itemsize: int) -> int:
        """Cells whose MLP is computed at a time, at most."""
        return max(1, _HIDDEN_BYTES // (self.hidden * itemsize))

    def _rows(self, x: mx.array, rows: slice, params: Params, modulation: Modulation) -> mx.array:
        """Some rows of the projection to queries, keys and values."""
        own = params.at(self.path)
        normed = modulated_norm(x, scale=modulation.attention_scale, shift=modulation.attention_shift, eps=NORM_EPS)
        return quantized_linear(normed, own.weight("attn.qkv.weight").rows(rows), own["attn.qkv.bias"][rows])

    def _projected(self, x: mx.array, name: str, residual: mx.array, own: Params) -> mx.array:
        """residual + W x + b, W and b with the gate that stands behind them."""
        weight, bias = own.weight(f"{name}.weight"), own.get(f"{name}.bias")
        gate = next((own.get(key) for key, gated in _GATES.items() if gated == name), None)
        if gate is not None:
            weight, bias = _gated(weight, gate), None if bias is None else _scaled(bias, gate)
        return quantized_linear(x, weight, bias, residual=residual)


@dataclass(frozen=True)
class Upsampler:
    """A linear layer to the cells of a finer grid.

    Attributes:
        path: name in the file below ``decoder.``.
        in_channels: of a cell.
        step: the finer grid.
    """

    path: str
    in_channels: int
    step: Upsampling

    def specs(self) -> list[ParamSpec]:
        width = prod(self.step.stride) * self.step.channels
        return [_below(self.path, spec) for spec in _linear("proj", width, self.in_channels)]

    def __call__(self, x: mx.array, params: Params) -> mx.array:
        """(1, n, H, W, C) -> (1, n * st, H * sh, W * sw, C'); the first frame of a clip is still to be dropped."""
        batch, frames, height, width, _ = x.shape
        st, sh, sw = self.step.stride
        x = linear(x, params.at(f"{self.path}.proj"))
        x = x.reshape(batch, frames, height, width, self.step.channels, st, sh, sw)
        x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
        return x.reshape(batch, frames * st, height * sh, width * sw, self.step.channels)


def stage_blocks(config: DiffusionDecoderConfig, stage: int) -> list[AttentionBlock]:
    """The blocks of a stage, counted from 0."""
    last = stage == len(config.channels) - 1
    return [
        AttentionBlock(
            f"diff_blocks.{block}" if last else f"det_stages.{stage}.{block}",
            config.channels[stage],
            config.head_dim,
            config.windows[stage],
            config.rope_lanes,
            last,
        )
        for block in range(config.depths[stage])
    ]


def upsamplers(config: DiffusionDecoderConfig) -> list[Upsampler]:
    """What stands behind the stages but the last one."""
    return [
        Upsampler(f"upsamples.{stage}", config.channels[stage], step) for stage, step in enumerate(config.upsamplings)
    ]


def _linear(path: str, rows: int, columns: int, *, bias: bool = True) -> list[ParamSpec]:
    weight = ParamSpec(f"{path}.weight", (rows, columns), layout="linear")
    return [weight, ParamSpec(f"{path}.bias", (rows,))] if bias else [weight]


def linear_specs(layers: Sequence[tuple[str, int, int]]) -> list[ParamSpec]:
    """Linear layers with biases: (path, rows, columns)."""
    return [spec for path, rows, columns in layers for spec in _linear(path, rows, columns)]


def _below(path: str, spec: ParamSpec) -> ParamSpec:
    return ParamSpec(f"{path}.{spec.name}", spec.shape, spec.dtype, spec.layout, spec.optional)


def _gated(weight: LinearWeight, gate: mx.array) -> LinearWeight:
    """diag(gate) W in the precision that W is stored in."""
    dtype = weight.values.dtype if weight.mode == "dense" else mx.bfloat16
    values = dequantise(weight) * gate.astype(mx.float32)[:, None]
    return LinearWeight("dense", values.astype(dtype))


def _scaled(bias: mx.array, gate: mx.array) -> mx.array:
    return (bias.astype(mx.float32) * gate.astype(mx.float32)).astype(bias.dtype)

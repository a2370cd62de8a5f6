"""Attention with rotary positions and the feed-forward network shared by the transformer and the connectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


class _ModulatedNorm(torch.autograd.Function):
    """Few passes over memory instead of autograd's many: these products are half the time of a training step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor | None, dtype: torch.dtype) -> Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = (root.square() / x.shape[-1] + 1e-6).rsqrt()
        normed = (x * inverse).to(dtype)
        scale = scale.to(dtype)
        ctx.save_for_backward(normed, inverse, scale)
        ctx.shapes = scale.shape, None if shift is None else shift.shape
        ctx.dtypes = x.dtype
        return normed * scale if shift is None else torch.addcmul(shift.to(dtype), normed, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        normed, inverse, scale = ctx.saved_tensors
        (gradient,) = gradients
        scale_shape, shift_shape = ctx.shapes
        product = gradient * normed
        to_scale = product.float().sum_to_size(scale_shape) if product.shape != scale_shape else product.float()
        to_shift = None
        if shift_shape is not None:
            to_shift = gradient.float().sum_to_size(shift_shape) if gradient.shape != shift_shape else gradient.float()
        inner = gradient * scale
        mean = (inner * normed).mean(-1, keepdim=True)
        to_x = (inner - normed * mean) * inverse.to(inner.dtype)
        return to_x.to(ctx.dtypes), to_scale, to_shift, None


def modulated(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """``rms(x) * scale + shift``, in the type that matrix products run in."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    result: Tensor = _ModulatedNorm.apply(x, scale, shift, dtype)
    return result


def rotation(fractions: Tensor, width: int, heads: int, theta: float = 10000.0) -> Rotation:
    """Cosines and sines (B, N, T, width / N / 2) of positions (B, T, axes) given as fractions of the axes' lengths."""
    if fractions.stride(0) == 0:
        fractions = fractions[:1]
    batch, tokens, axes = fractions.shape
    count = width // (2 * axes)
    exact = (theta ** np.linspace(0.0, 1.0, count) * np.pi / 2).astype(np.float32)
    frequencies = torch.from_numpy(exact).to(fractions.device)
    angles = frequencies[:, None] * (2 * fractions[:, :, None, :] - 1)
    angles = angles.flatten(2)
    missing = width // 2 - angles.shape[-1]
    cos, sin = F.pad(angles.cos(), (missing, 0), value=1.0), F.pad(angles.sin(), (missing, 0))
    shape = (batch, tokens, heads, -1)
    return cos.view(shape).transpose(1, 2).contiguous(), sin.view(shape).transpose(1, 2).contiguous()


def rotated(x: Tensor, by: Rotation) -> Tensor:
    cos, sin = (part.to(x.dtype) for part in by)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Scale(nn.Module):
    """A bare norm weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Attention(nn.Module):
    def __init__(self, query_width: int, key_width: int, inner: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.to_q = nn.Linear(query_width, inner)
        self.to_k = nn.Linear(key_width, inner)
        self.to_v = nn.Linear(key_width, inner)
        self.q_norm, self.k_norm = Scale(inner), Scale(inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, query_width)])

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        bias: Tensor | None = None,
        skip: bool = False,
    ) -> Tensor:
        """Attention of (B, T, D) to itself or to ``context``; ``skip`` passes the values of x straight on."""
        context = x if context is None else context
        value = self._split(self.to_v(context))
        if skip:
            return self.to_out[0](value.transpose(1, 2).flatten(2))
        query = self._split(modulated(self.to_q(x), self.q_norm.weight))
        key = self._split(modulated(self.to_k(context), self.k_norm.weight))
        if query_rotation is not None:
            query = rotated(query, query_rotation)
            key = rotated(key, query_rotation if key_rotation is None else key_rotation)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        return self.to_out[0]((scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)


class Projection(nn.Module):
    """``ff.net.0``: the widening half of the feed-forward network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Projection(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))

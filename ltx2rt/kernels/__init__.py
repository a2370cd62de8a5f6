"""The fused kernels and their pure-MLX references."""

from ltx2rt.kernels.antialiased_snake import antialiased_snake
from ltx2rt.kernels.causal_conv3d import causal_conv3d, conv1d, conv2d, conv_transpose1d
from ltx2rt.kernels.modulated_norm import modulated_norm
from ltx2rt.kernels.neighborhood_attention import (
    first_frames,
    neighborhood_attention,
    neighborhood_rope,
    shifted_frames,
)
from ltx2rt.kernels.quantized_linear import quantized_linear
from ltx2rt.kernels.reference import NeighborhoodRope, RopeTable
from ltx2rt.kernels.rope_attention import rope_attention

__all__ = [
    "NeighborhoodRope",
    "RopeTable",
    "antialiased_snake",
    "causal_conv3d",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "first_frames",
    "modulated_norm",
    "neighborhood_attention",
    "neighborhood_rope",
    "quantized_linear",
    "rope_attention",
    "shifted_frames",
]

"""Small types and values that several layers share; the standard library and numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np

# An array of any shape and dtype; docstrings say which.
Array = np.ndarray[Any, np.dtype[Any]]
FilePath = str | PathLike[str]
FLOAT32_BYTES = 4

Layout = Literal["as_stored", "linear", "conv", "conv_transpose1d"]


@dataclass(frozen=True)
class ParamSpec:
    """One tensor that a model needs, as it stands in the official file.

    Attributes:
        name: official name without the component prefix (``transformer_blocks.0.attn1.to_q.weight``).
        shape: shape in the official file (PyTorch layout), before any rearrangement.
        dtype: safetensors dtype in published files (``BF16``, ``F32``); loaders accept other float dtypes.
        layout: what the loader does with it, once:
            ``as_stored``         kept as it is;
            ``linear``            kept (out, in) and wrapped in `LinearWeight`, so that it may be quantised in the file;
            ``conv``              (O, I, *kernel) -> (O, *kernel, I);
            ``conv_transpose1d``  (I, O, k) -> (O, k, I).
        optional: absent in some published files; the model must then do without it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "BF16"
    layout: Layout = "as_stored"
    optional: bool = False

    def __hash__(self) -> int:
        return hash(self.name)  # which Python keeps: plans look at every tensor many times


Activations = Literal["float", "int8"]
"""What quantised weights are multiplied with: activations as they are, or rows of them as 8-bit codes."""
LinearMode = Literal["dense", "e4m3", "affine", "int8", "q8_0", "q4_k", "q5_k", "q6_k", "nvfp4", "mxfp8", "w4a8"]
# Modes whose values are GGML's blocks: weights in a block, and its bytes.
GGML_BLOCKS = {"q8_0": (32, 34), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)}


class LinearWeight(NamedTuple):
    """A weight matrix W (N, K) of ``y = x @ W.T``, dense or quantised; arrays are ``mlx.core.array``.

    ``dense``   values (N, K) float32 | float16 | bfloat16.
    ``e4m3``    values (N, K) uint8 codes of float8 E4M3 (fn), scale float32, one or (N,): W = decode(values) * scale.
    ``affine``  values (N, K*bits/32) uint32, scale and zero (N, K/group_size): W = scale * q + zero (MLX affine).
    ``int8``    values (N, K) int8, scale (N,) float32: W = values * scale.
    ``q8_0``, ``q4_k``, ``q5_k``, ``q6_k``  values (N, bytes of a row) uint8, GGML's blocks as they are in the file.
    ``nvfp4``   values (N, K/2) uint8 codes of E2M1, high four bits first; scale (N, K/16) uint8 codes of E4M3; zero one
                float32, the scale of all: W = decode(values) * decode(scale) * zero. K is a multiple of 16.
    ``mxfp8``   values (N, K) uint8 codes of E4M3; scale (N, K/32) uint8 codes b of E8M0, 2^(b - 127) but 0 for b = 0:
                W = decode(values) * decode(scale). K is a multiple of 32.
    ``w4a8``    values (N, K/2) uint8 codes of four bits, low ones first; scale (N, K/group_size) uint8 codes of E4M3,
                not NaN; zero (N,) float32; table (16,) float32; group_size 4, 8 or a multiple of 16:
                W = clip(round(table[code] * decode(scale)), -127, 127) * zero, rounded half to even.

    With a ``rotation`` G (a power of 4 that divides K) the product is ``y = (x R) @ W.T``: each G values of x are
    multiplied by the Kronecker power R of h / 2, h (4, 4) with -1 on its anti-diagonal and 1 elsewhere, in float32, and
    rounded to the dtype of x. R is symmetric and its own inverse, so the matrix that plain code multiplies with is W R.

    ``activations`` ``int8``, of mode ``int8`` alone: each row of x (rotated) becomes codes q = round(x * 127 / m), m
    its largest magnitude, and the product is (exact sum of q * values) * (m / 127) * scale; zeros where m < 1e-35,
    NaN where the row holds NaN or infinity. K is at most 131072.

    ``fits_half``: every value lies within the range of float16, but for factors of a row or of all of W: whoever loaded
    it has looked (`ltx2rt.kernels.half_operands`).
    """

    mode: LinearMode
    values: Any
    scale: Any = None
    zero: Any = None
    group_size: int = 0
    bits: int = 0
    table: Any = None
    rotation: int = 0
    activations: Activations = "float"
    fits_half: bool = False

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Those of values, scale, zero and table that are there."""
        return tuple(a for a in (self.values, self.scale, self.zero, self.table) if a is not None)

    @property
    def out_features(self) -> int:
        return int(self.values.shape[0])

    @property
    def in_features(self) -> int:
        columns = int(self.values.shape[1])
        if self.mode == "affine":
            return columns * 32 // self.bits
        if self.mode in ("nvfp4", "w4a8"):
            return 2 * columns
        weights, size = GGML_BLOCKS.get(self.mode, (1, 1))
        return columns // size * weights

    @property
    def nbytes(self) -> int:
        return sum(int(a.nbytes) for a in self.arrays)

    def rows(self, index: Any) -> LinearWeight:
        """Some rows of the matrix; ``index``: their numbers (n,), an integer array."""

        def part(array: Any) -> Any:
            """The rows of what has one for each of the matrix, not of what all rows share."""
            return array if array is None or array.size == 1 else array[index]

        return self._replace(values=self.values[index], scale=part(self.scale), zero=part(self.zero))

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


class LinearWeight(NamedTuple):
    """A weight matrix W (N, K) of ``y = x @ W.T``, dense or quantised; all fields are ``mlx.core.array``.

    ``dense``   values (N, K) float32 | float16 | bfloat16.
    ``e4m3``    values (N, K) uint8 codes of float8 E4M3 (fn), scale () float32: W = decode(values) * scale.
    ``affine``  values (N, K*bits/32) uint32, scale and zero (N, K/group_size): W = scale * q + zero (MLX affine).
    """

    mode: Literal["dense", "e4m3", "affine"]
    values: Any
    scale: Any = None
    zero: Any = None
    group_size: int = 0
    bits: int = 0

    @property
    def out_features(self) -> int:
        return int(self.values.shape[0])

    @property
    def in_features(self) -> int:
        columns = int(self.values.shape[1])
        return columns * 32 // self.bits if self.mode == "affine" else columns

    @property
    def nbytes(self) -> int:
        return sum(int(a.nbytes) for a in (self.values, self.scale, self.zero) if a is not None)

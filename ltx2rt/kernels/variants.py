"""What distinguishes one compiled Metal kernel from another: the dtypes and options of an op's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import mlx.core as mx

from ltx2rt.kernels.selection import ext
from ltx2rt.types import LinearWeight

# Row classes of quantized_linear, upper ends: csrc/metal/launch_plans.h changes kernels, tiles or function constants
# between them. tests/metal/test_launch_plans.py compares them and the numbers below with that file.
LINEAR_ROWS = (1, 2, 3, 4, 16, 32, 64)
# Up to so many rows tiles expand quantised weights as they are staged; beyond, a slab is expanded first.
STAGED_CODE_ROWS = 512
# Up to so many rows quantized_linear multiplies no matrices, by weight; dense ones: LINEAR_ROWS[3].
FEW_ROWS = {
    "e4m3": 16,
    "int8": 16,
    "int4": 32,
    "int8_rows": 16,
    "q8_0": 16,
    "q4_k": 16,
    "q5_k": 16,
    "q6_k": 16,
    "nvfp4": 32,
    "mxfp8": 16,
    "w4a8": 16,
}
# From so many values of depth on, sums of few rows of results may be made in parts.
LEAST_DEPTH_IN_PARTS = 8192
# So many fours of columns are then joined in one row of the grid.
JOINED_IN_A_ROW = 4096
# Values of a row that one threadgroup rotates at most.
ROTATED_AT_ONCE = 4096
# Up to so many output channels causal_conv3d has a kernel of its own.
CONV_FEW_OUTPUTS = 32
# From so many queries on, preparing q and k is small beside the attention itself.
MANY_QUERIES = 256


def row_limits(weight: str) -> tuple[int, ...]:
    """Upper ends of the row classes of quantized_linear for a kind of weight; larger numbers of rows are class 0."""
    return (*LINEAR_ROWS, STAGED_CODE_ROWS) if weight in FEW_ROWS else LINEAR_ROWS


def dtype_name(array: Any) -> str:
    """``bfloat16`` of a bfloat16 array, an empty string of None."""
    return "" if array is None else str(array.dtype).rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Variant:
    """Base: the fields are what the kernel is compiled or planned for."""

    op: ClassVar[str] = ""
    dtype: str

    @property
    def has_fences(self) -> bool:
        """Whether our kernel multiplies matrices, and so exists with scheduling fences, too."""
        return False

    @property
    def has_half(self) -> bool:
        """Whether it also exists with operands that are multiplied as float16."""
        return False

    @property
    def key(self) -> str:
        """``modulated_norm bfloat16 norm=rms scale=float32``: fields that are unset are left out."""
        words = [self.op, self.dtype]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is True:
                words.append(field.name)
            elif value not in (False, "", 0, None) or value == ():
                text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words.append(f"{field.name}={text}")
        return " ".join(words)


@dataclass(frozen=True)
class NormVariant(Variant):
    op: ClassVar[str] = "modulated_norm"
    norm: str = "rms"
    scale: str = ""
    shift: str = ""
    index: bool = False

    @classmethod
    def of(cls, x: Any, scale: Any, shift: Any, index: Any, norm: str) -> NormVariant:
        return cls(dtype_name(x), norm, dtype_name(scale), dtype_name(shift), index is not None)


@dataclass(frozen=True)
class LinearVariant(Variant):
    """A product for one kind of weight.

    ``weight`` is a dtype, ``int8`` and ``int4`` with ``groups`` values per scale of dtype ``scale`` for affine ones,
    ``int8_rows`` for mode ``int8``, else the mode; ``e4m3`` with a scale for each row has ``groups`` 1. Few rows of
    results and a long sum over K are made ``in_parts``.
    """

    op: ClassVar[str] = "quantized_linear"
    weight: str = "bfloat16"
    groups: int = 0
    scale: str = ""
    rows: int = 0  # at most; 0: more than the last of row_limits
    bias: str = ""
    activation: str = ""
    residual: bool = False
    gate: str = ""
    gate_index: bool = False
    rotation: int = 0
    in_parts: bool = False  # the sum over K
    half: bool = False  # W and x may be multiplied as float16

    @property
    def has_fences(self) -> bool:
        return self.rows == 0 or self.rows > FEW_ROWS.get(self.weight, LINEAR_ROWS[3])

    @property
    def has_half(self) -> bool:
        return self.half

    @classmethod
    def of(
        cls, x: Any, weight: LinearWeight, bias: Any, activation: str | None, residual: Any, gate: Any, gate_index: Any
    ) -> LinearVariant:
        rows = x.size // max(1, x.shape[-1])
        kind = {"dense": dtype_name(weight.values), "affine": f"int{weight.bits}", "int8": "int8_rows"}.get(
            weight.mode, weight.mode
        )
        groups = weight.group_size
        if weight.mode == "e4m3":
            groups = int(weight.scale.ndim == 1 and weight.scale.size > 1)
        variant = cls(
            dtype_name(x),
            kind,
            groups,
            dtype_name(weight.scale) if weight.mode == "affine" else "",
            next((most for most in row_limits(kind) if rows <= most), 0),
            dtype_name(bias),
            activation or "",
            residual is not None,
            dtype_name(gate),
            gate_index is not None,
            weight.rotation,
        )
        if not variant.has_fences:
            return variant
        parts = ext.metal_linear_parts(kind, rows=rows, columns=weight.out_features, depth=weight.in_features)
        return replace(variant, in_parts=parts > 1, half=weight.fits_half and x.dtype != mx.float32)


@dataclass(frozen=True)
class AttentionVariant(Variant):
    """Norms are ``row`` (over all heads) or ``head``; ropes numbers of axes, negative when heads share the angles."""

    op: ClassVar[str] = "rope_attention"
    head: int = 128
    shared_kv: bool = False
    many: bool = False  # more than MANY_QUERIES queries
    q_norm: str = ""
    k_norm: str = ""
    rope_q: int = 0
    rope_k: int = 0
    layout: str = ""
    bias: str = ""
    gate: str = ""
    causal: bool = False

    @property
    def has_fences(self) -> bool:
        return True

    @classmethod
    def of(
        cls,
        q: Any,
        k: Any,
        num_heads: int,
        num_kv_heads: int,
        q_norm: Any,
        k_norm: Any,
        rope_q: Any,
        rope_k: Any,
        rope_layout: str,
        bias: Any,
        gate_logits: Any,
        causal: bool,
    ) -> AttentionVariant:
        head = q.shape[-1] // max(1, num_heads)

        def norm(weight: Any, heads: int) -> str:
            return "" if weight is None else "head" if heads > 1 and weight.shape[0] == head else "row"

        def rope(table: Any, heads: int) -> int:
            if table is None:
                return 0
            axes = int(table.index.shape[-1])
            return -axes if heads > 1 and table.cos.shape[1] * axes <= head // 2 else axes

        turned = rope_q is not None or rope_k is not None
        return cls(
            dtype_name(q),
            head,
            num_kv_heads != num_heads,
            q.shape[1] > MANY_QUERIES,
            norm(q_norm, num_heads),
            norm(k_norm, num_kv_heads),
            rope(rope_q, num_heads),
            rope(rope_k, num_kv_heads),
            rope_layout if turned else "",
            dtype_name(bias),
            dtype_name(gate_logits),
            causal,
        )


@dataclass(frozen=True)
class NeighborhoodVariant(Variant):
    """The window and its borders are arguments of the kernel; what is fused and whether it is wide are not."""

    op: ClassVar[str] = "neighborhood_attention"
    head: int = 64
    slots: int = 11  # frames that a query sees at most
    window: tuple[int, ...] = (11, 11)
    borders: tuple[str, ...] = ("shift", "shift")
    q_norm: str = ""
    k_norm: str = ""
    rope: tuple[int, ...] = ()  # pairs of lanes of time, height and width

    @property
    def has_fences(self) -> bool:
        return True

    @classmethod
    def of(
        cls,
        q: Any,
        num_heads: int,
        key_frames: Any,
        window: tuple[int, int],
        borders: tuple[str, str],
        q_norm: Any,
        k_norm: Any,
        rope: Any,
    ) -> NeighborhoodVariant:
        tables = () if rope is None else (rope.q_time, rope.height, rope.width)
        return cls(
            dtype_name(q),
            q.shape[-1] // max(1, num_heads),
            key_frames.shape[-1],
            tuple(window),
            tuple(borders),
            dtype_name(q_norm),
            dtype_name(k_norm),
            tuple(table.shape[-1] for table in tables),
        )


@dataclass(frozen=True)
class ConvVariant(Variant):
    """``modes`` is the padding mode of each axis that is padded."""

    op: ClassVar[str] = "causal_conv3d"
    weight: str = "bfloat16"
    kernel: tuple[int, ...] = (1, 1, 1)
    stride: tuple[int, ...] = (1, 1, 1)
    dilation: tuple[int, ...] = (1, 1, 1)
    modes: tuple[str, ...] = ("none", "none", "none")
    bias: str = ""
    pixel_norm: bool = False
    scale: str = ""
    shift: str = ""
    activation: str = ""
    residual: bool = False
    halo: bool = False
    few_outputs: bool = False  # at most CONV_FEW_OUTPUTS channels

    @property
    def has_fences(self) -> bool:
        return True

    @classmethod
    def of(
        cls,
        x: Any,
        weight: Any,
        bias: Any,
        stride: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[tuple[int, int]],
        padding_mode: Sequence[str],
        pixel_norm_eps: float | None,
        scale: Any,
        shift: Any,
        activation: str | None,
        residual: Any,
        halo: Any,
    ) -> ConvVariant:
        modes = tuple(m if any(p) else "none" for m, p in zip(padding_mode, padding, strict=True))
        return cls(
            dtype_name(x),
            dtype_name(weight),
            tuple(weight.shape[1:4]),
            tuple(stride),
            tuple(dilation),
            modes,
            dtype_name(bias),
            pixel_norm_eps is not None,
            dtype_name(scale),
            dtype_name(shift),
            activation or "",
            residual is not None,
            halo is not None,
            weight.shape[0] <= CONV_FEW_OUTPUTS,
        )


@dataclass(frozen=True)
class SnakeVariant(Variant):
    """The dtypes of the parameters."""

    op: ClassVar[str] = "antialiased_snake"
    alpha: str = "float32"
    beta: str = "float32"
    rise: str = "float32"
    fall: str = "float32"

    @classmethod
    def of(cls, x: Any, alpha: Any, beta: Any, rise: Any, fall: Any) -> SnakeVariant:
        return cls(*(dtype_name(a) for a in (x, alpha, beta, rise, fall)))


def dtype_of(name: str) -> mx.Dtype:
    """The dtype that `dtype_name` names."""
    dtype: mx.Dtype = getattr(mx, name)
    return dtype

"""Matrix products at the widths of the 19B transformer, in every weight format."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlx.core as mx

from ltx2rt.bench.case import (
    ARITHMETIC,
    BF16,
    DTYPES,
    MLX,
    OURS,
    OURS_BF16,
    OURS_E4M3,
    REFERENCE,
    Call,
    Prepared,
    Way,
    Work,
    evaluated,
    halves,
    normal,
)
from ltx2rt.kernels import quantized_linear, reference
from ltx2rt.kernels.proof_problems import packed_weight
from ltx2rt.types import Activations, LinearWeight

BITS = {"f32": 32, "bf16": 16, "e4m3": 8, "int8": 8, "int4": 4}
GROUP_SIZE = 64
# Forms that only packed files have: the kind for `packed_weight`, and a rotation.
PACKED = {
    "q8_0": ("q8_0", 0),
    "q4_k": ("q4_k", 0),
    "q5_k": ("q5_k", 0),
    "q6_k": ("q6_k", 0),
    "nvfp4": ("nvfp4", 0),
    "mxfp8": ("mxfp8", 0),
    "int8-rows": ("int8_rows", 0),
    "int8-convrot": ("int8_rows", 256),
    "w4a8": ("w4a8", 256),
    "int8-dot": ("int8_rows", 0),
    "int8-convrot-dot": ("int8_rows", 256),
}
# Those of them that multiply activations as 8-bit codes, too.
DOT = ("int8-dot", "int8-convrot-dot")
# With few rows the weights come from memory, as they do in a model whose layers do not fit the caches: calls then walk
# through copies of the weight of this many bytes in all.
COLD_BYTES = 256 << 20
FEW_ROWS = 16


def cold_bytes(values: int) -> int:
    """`COLD_BYTES`, but not more than 16 copies of a small test's weight."""
    return min(COLD_BYTES, 16 * values)


def make_weight(form: str, columns: int, depth: int) -> LinearWeight:
    """A random weight (columns, depth) of one of the formats of `BITS` or `PACKED`."""
    if form in PACKED:
        kind, rotation = PACKED[form]
        activations: Activations = "int8" if form in DOT else "float"
        packed = packed_weight(kind, columns, depth, 1)._replace(rotation=rotation, activations=activations)
        mx.eval(packed.arrays)
        return packed
    if form in DTYPES:
        return LinearWeight("dense", normal((columns, depth), 1, DTYPES[form], depth**-0.5))
    values = normal((columns, depth), 1, mx.float32, depth**-0.5)
    if form == "e4m3":
        scale = mx.abs(values).max() / 448
        weight = LinearWeight("e4m3", mx.to_fp8(values / scale), scale)
    else:
        bits = BITS[form]
        parts = mx.quantize(values.astype(mx.bfloat16), group_size=GROUP_SIZE, bits=bits)
        weight = LinearWeight("affine", *parts, group_size=GROUP_SIZE, bits=bits)
    mx.eval(weight.values, weight.scale)
    return weight


def stored_bits(form: str, depth: int) -> float:
    """Of one weight of a row of ``depth``, with its part of what belongs to groups and rows."""
    if form in PACKED:
        return 8 * make_weight(form, 1, depth).nbytes / depth
    return BITS[form] + (32 / GROUP_SIZE if form.startswith("int") else 0)


def some_columns(weight: LinearWeight, share: float) -> LinearWeight:
    """The first share of the weight's columns (rows of the matrix W), as a copy."""
    count = max(1, round(weight.out_features * share))
    part = _with_rows(weight, lambda a: mx.contiguous(a[:count]))
    mx.eval(part.arrays)
    return part


def _with_rows(weight: LinearWeight, change: Callable[[mx.array], mx.array]) -> LinearWeight:
    """The weight with ``change`` made to every array that has an entry for each of its rows."""

    def changed(array: mx.array | None) -> mx.array | None:
        return array if array is None or array.ndim == 0 else change(array)

    return weight._replace(values=change(weight.values), scale=changed(weight.scale), zero=changed(weight.zero))


class LinearInputs(NamedTuple):
    """What every way of a case multiplies."""

    x: mx.array
    weight: LinearWeight
    bias: mx.array
    residual: mx.array


@dataclass(frozen=True)
class LinearCase:
    """x (M, K) @ W (N, K).T with W in one format; x is float32 for float32 weights, else bfloat16."""

    form: str
    depth: int
    columns: int
    rows: int
    epilogue: str = ""

    @property
    def name(self) -> str:
        epilogue = f"/{self.epilogue}" if self.epilogue else ""
        return f"linear/{self.form}/{self.depth}x{self.columns}{epilogue}/m{self.rows}"

    @property
    def dtype(self) -> str:
        return "f32" if self.form == "f32" else "bf16"

    @property
    def work(self) -> Work:
        weight = self.columns * self.depth * stored_bits(self.form, self.depth) / 8
        item = DTYPES[self.dtype].size
        activations = item * self.rows * (self.depth + self.columns * (2 if self.epilogue == "residual" else 1))
        operations = 2.0 * self.rows * self.depth * self.columns
        return Work(operations, weight + activations, ARITHMETIC[self.dtype], tiles=self.form not in DOT)

    def reduced(self) -> LinearCase:
        return replace(self, depth=min(self.depth, 256), columns=min(self.columns, 192), rows=min(self.rows, 24))

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        x = normal((self.rows, self.depth), 0, DTYPES[self.dtype])
        weight = make_weight(self.form, self.columns, self.depth)
        bias = normal((self.columns,), 2, DTYPES[self.dtype])
        residual = normal((self.rows, self.columns), 3, DTYPES[self.dtype])
        gate = normal((1, self.columns), 4, mx.float32)
        extras: dict[str, Any] = {"activation": None, "residual": None, "gate": None}
        if self.epilogue == "gelu":
            extras["activation"] = "gelu_tanh"
        elif self.epilogue == "residual":
            extras |= {"residual": residual, "gate": gate}

        def scaled(w: LinearWeight) -> dict[str, Any]:
            return {k: v[..., : w.out_features] if isinstance(v, mx.array) else v for k, v in extras.items()}

        def on_copies(compute: Callable[[LinearWeight], Callable[[], mx.array]]) -> Callable[[float], Call]:
            def make(share: float) -> Call:
                part = some_columns(weight, share)
                turns = itertools.cycle([evaluated(compute(w)) for w in self._copies(part)])
                return lambda: next(turns)()

            return make

        def ours(w: LinearWeight) -> Callable[[], mx.array]:
            arguments = scaled(w)
            return lambda: quantized_linear(x, w, bias[: w.out_features], **arguments)

        def formula(w: LinearWeight) -> Callable[[], mx.array]:
            arguments = scaled(w)
            return lambda: reference.quantized_linear(x, w, bias[: w.out_features], gate_index=None, **arguments)

        def plain(w: LinearWeight) -> Callable[[], mx.array]:
            return lambda: plain_mlx(x, w)

        some = functools.partial(Way, shares=halves(max(1, self.columns // 64)), part="columns")
        ways = {OURS: some(on_copies(ours))}
        if REFERENCE in wanted:
            ways[REFERENCE] = some(on_copies(formula))
        if MLX in wanted and not self.epilogue and self.form not in PACKED:
            ways[MLX] = some(on_copies(plain))
        if self.form in PACKED:
            others = ((BF16, "bf16"),) if self.form in DOT else ((OURS_BF16, "bf16"), (OURS_E4M3, "e4m3"))
            for name, form in others:
                other = make_weight(form, self.columns, self.depth)
                ways[name] = _in_turn([evaluated(ours(w)) for w in self._copies(other)])
        return Prepared(self.work, ways, LinearInputs(x, weight, bias, residual))

    def _copies(self, weight: LinearWeight) -> Iterator[LinearWeight]:
        count = 1
        if self.rows <= FEW_ROWS:
            count = -(-cold_bytes(self.columns * self.depth) // weight.nbytes)
        yield weight
        for _ in range(count - 1):
            copy = _with_rows(weight, lambda a: a + 0)
            mx.eval(copy.arrays)
            yield copy


def _in_turn(calls: Sequence[Call]) -> Way:
    """All of the work by one call after the other."""
    turns = itertools.cycle(calls)
    return Way(lambda share: lambda: next(turns)())


def plain_mlx(x: mx.array, weight: LinearWeight) -> mx.array:
    """The product as one writes it with MLX's own ops."""
    if weight.mode == "affine":
        return mx.quantized_matmul(
            x, weight.values, weight.scale, weight.zero, True, group_size=weight.group_size, bits=weight.bits
        )
    if weight.mode == "e4m3":
        product: mx.array = x @ (mx.from_fp8(weight.values, x.dtype) * weight.scale.astype(x.dtype)).T
        return product
    dense: mx.array = x @ weight.values.T
    return dense


def linear_cases() -> list[LinearCase]:
    """Every format and row count at 4096 x 4096, more of bfloat16; the feed-forward layers with their epilogues."""
    cases = [LinearCase(form, 4096, 4096, rows) for form in BITS for rows in (1, 16, 128, 512, 1024)]
    cases += [LinearCase("bf16", 4096, 4096, rows) for rows in (5, 8)]
    cases += [LinearCase(form, 4096, 4096, rows) for form in PACKED for rows in (1, 16, 512)]
    cases += [LinearCase(form, 4096, 4096, 1024) for form in DOT]
    for form in ("bf16", "e4m3"):
        cases.append(LinearCase(form, 4096, 16384, 1024, "gelu"))
        cases.append(LinearCase(form, 16384, 4096, 1024, "residual"))
    return cases

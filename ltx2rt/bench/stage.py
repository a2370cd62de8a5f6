"""A whole model part as a case: its graph from random weights of the real sizes, and the same part elsewhere."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import mlx.core as mx

from ltx2rt.bench.case import ARITHMETIC, DTYPES, MLX, OURS, TORCH, Call, Prepared, Way, normal
from ltx2rt.bench.linear_cases import make_weight
from ltx2rt.bench.observation import count
from ltx2rt.graph.models.layers.params import Array
from ltx2rt.types import LinearWeight, ParamSpec

Build = Callable[[], mx.array]
"""Builds the graph of one call and returns its result, unevaluated."""


class Part(Protocol):
    """A model part with its weights and inputs."""

    def build(self) -> mx.array:
        """One call as a graph."""

    def torch_call(self) -> Call | None:
        """The same with torch, from the same weights and inputs; None: not written in torch here."""


class StageCase(abc.ABC):
    """Base of the cases of model parts; a subclass says its name and how to make the part.

    Attributes:
        dtype: of the activations, ``bf16`` or ``f32``.
    """

    dtype: str

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Path-like and unique: ``transformer_block/bf16/v1024-a126-t1024``."""

    @abc.abstractmethod
    def reduced(self) -> StageCase:
        """The same case small enough for a test."""

    @abc.abstractmethod
    def part(self) -> Part:
        """The part with new random weights."""

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        part = self.part()

        def make(share: float) -> Call:
            return lambda: evaluate(part.build())

        def plain(share: float) -> Call:
            def call() -> mx.array:
                with reference_formulas():
                    return evaluate(part.build())

            return call

        ways = {OURS: Way(make)}
        if MLX in wanted:
            ways[MLX] = Way(plain)
        torch_call = part.torch_call() if TORCH in wanted else None
        if torch_call is not None:
            call = torch_call
            ways[TORCH] = Way(lambda share: call)
        return Prepared(count(part.build).work(ARITHMETIC[self.dtype]), ways)


def evaluate(out: mx.array) -> mx.array:
    mx.eval(out)
    return out


@contextmanager
def reference_formulas() -> Iterator[None]:
    """Ops built inside the block are plain MLX graphs."""
    before = os.environ.get("LTX2RT_KERNELS")
    os.environ["LTX2RT_KERNELS"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LTX2RT_KERNELS"]
        else:
            os.environ["LTX2RT_KERNELS"] = before


def random_params(specs: Iterable[ParamSpec], dtype: str, linear: str | None = None) -> dict[str, Array]:
    """Evaluated random arrays for the tensors of a model, in the layout the loader gives them.

    Args:
        specs: the tensors.
        dtype: of dense weights; tensors that official files keep in float32 stay float32.
        linear: format of the linear weights (see `linear_cases.BITS`); None: dense in ``dtype``.
    """
    params: dict[str, Array] = {}
    for number, spec in enumerate(specs):
        own = mx.float32 if spec.dtype == "F32" else DTYPES[dtype]
        shape = spec.shape
        scale = math.prod(shape[1:]) ** -0.5
        if spec.layout == "linear" and linear is not None:
            params[spec.name] = make_weight(linear, *shape)
        elif spec.layout == "linear":
            params[spec.name] = LinearWeight("dense", normal(shape, number, own, scale))
        elif spec.layout == "conv":
            params[spec.name] = normal((shape[0], *shape[2:], shape[1]), number, own, scale)
        elif spec.layout == "conv_transpose1d":
            params[spec.name] = normal((shape[1], shape[2], shape[0]), number, own, scale)
        elif spec.name.endswith(("norm.weight", "std-of-means")):
            params[spec.name] = 1 + normal(shape, number, own, 0.02)
        else:
            params[spec.name] = normal(shape, number, own, 0.02)
    mx.eval([a for a in params.values() if isinstance(a, mx.array)])
    return params


def official_layout(name: str, array: Array, specs: dict[str, ParamSpec]) -> mx.array:
    """A parameter as it stands in the official file."""
    if isinstance(array, LinearWeight):
        return array.values
    layout = specs[name].layout
    if layout == "conv":
        return mx.contiguous(mx.moveaxis(array, -1, 1))
    return mx.contiguous(array.transpose(2, 0, 1)) if layout == "conv_transpose1d" else array


def torch_weights(
    params: dict[str, Array], specs: Iterable[ParamSpec], rename: Callable[[str], str], dtype: str
) -> dict[str, Any]:
    """A state dict: every parameter in ``dtype`` under its name in the other implementation."""
    from ltx2rt.bench.torch_arrays import to_torch

    by_name = {spec.name: spec for spec in specs}
    return {
        rename(name): to_torch(official_layout(name, array, by_name).astype(DTYPES[dtype]))
        for name, array in params.items()
    }

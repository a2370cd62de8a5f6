"""A whole model part as a case: its graph from random weights of the real sizes, and the same part elsewhere."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import mlx.core as mx

from ltx2rt.bench.case import ARITHMETIC, DTYPES, MLX, OURS, Call, Prepared, Way, normal
from ltx2rt.bench.linear_cases import make_weight
from ltx2rt.bench.observation import count
from ltx2rt.graph.models.layers.params import Array
from ltx2rt.kernels.selection import forced
from ltx2rt.types import LinearWeight, ParamSpec

Build = Callable[[], mx.array]
"""Builds the graph of one call and returns its result, unevaluated."""


class Part(Protocol):
    """A model part with its weights and inputs."""

    def build(self) -> mx.array:
        """One call as a graph."""


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
                with forced("reference"):
                    return evaluate(part.build())

            return call

        ways = {OURS: Way(make)}
        if MLX in wanted:
            ways[MLX] = Way(plain)
        return Prepared(count(part.build).work(ARITHMETIC[self.dtype]), ways, part)


def evaluate(out: mx.array) -> mx.array:
    mx.eval(out)
    return out


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

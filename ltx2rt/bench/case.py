"""What a benchmark case is: an amount of work and the ways to do it that are timed beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import mlx.core as mx

OURS, REFERENCE, MLX, TORCH, TORCH_DENSE = "ltx2rt", "reference", "mlx", "torch", "torch_dense"
GGML = "ggml"
RIVALS = (REFERENCE, MLX, TORCH, TORCH_DENSE, GGML)
# Our own kernel with a weight of the same size in another format, beside packed ones.
OURS_BF16, OURS_E4M3 = "ltx2rt_bf16", "ltx2rt_e4m3"
# The same work of ours done in the way that a case improves on, with the same bits: a guided step with a call per pass,
# a step with all blocks read from disk.
UNFORKED, STREAMED = "unforked", "streamed"
BEFORE = (UNFORKED, STREAMED)
# The same work of ours with bfloat16 weights, beside weights that multiply activations as 8-bit codes.
BF16 = "bf16"

Arithmetic = Literal["float32", "bfloat16"]
Call = Callable[[], Any]
"""Computes once, waits for the result and returns it."""


@dataclass(frozen=True)
class Work:
    """What one call has to do at least.

    Attributes:
        operations: floating point operations of products, multiplication and addition counted apart.
        bytes: read and written once.
        arithmetic: the peak that bounds the products: bfloat16 where both factors may be rounded to it.
        tiles: the kernel multiplies bfloat16 in the processor's AMX tiles where those are in use.
    """

    operations: float
    bytes: float
    arithmetic: Arithmetic
    tiles: bool = False

    def least_seconds(self, peak: float, rate: float) -> float:
        """Time at ``peak`` operations per second and ``rate`` bytes per second, whichever is longer."""
        return max(self.operations / peak, self.bytes / rate)


@dataclass(frozen=True)
class Way:
    """One way to compute a case.

    Attributes:
        make: prepares the inputs of a share of the work and returns the call to be timed.
        shares: the shares it can do, falling from 1. A slow rival is timed on a smaller share.
        part: what a share is a part of, for the note in the row (``columns``).
        follows_itself: a turn begins with a call that does not count: what a call reads ahead counts for the next one.
    """

    make: Callable[[float], Call]
    shares: Sequence[float] = (1.0,)
    part: str = ""
    follows_itself: bool = False


@dataclass(frozen=True)
class Prepared:
    """A case with its inputs in memory.

    Attributes:
        work: of one call.
        ways: `OURS`, those of our own to compare it with, and those of the wanted rivals that exist.
        inputs: what the ways share, for the ways that `rivals` adds; each kind of case says what its own are.
        fields: called when all is timed, gives what only cases of this kind have to say, by JSON field.
        clean: called at the very end, to remove what was made.
        together: seconds of a call of `OURS` and of some other ways, which take turns within it, so that all of them
            see the same machine; None: each call is timed by itself.
    """

    work: Work
    ways: dict[str, Way]
    inputs: Any = None
    fields: Callable[[], Mapping[str, Any]] = dict
    clean: Callable[[], None] = lambda: None  # a default
    together: Callable[[], Mapping[str, float]] | None = None


class Case(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """Path-like and unique: ``linear/e4m3/4096x4096/m128``."""

    def reduced(self) -> Case:
        """The same case small enough for a test."""

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        """Allocates the inputs that the ways share."""


DTYPES = {"f32": mx.float32, "bf16": mx.bfloat16}
ARITHMETIC: dict[str, Arithmetic] = {"f32": "float32", "bf16": "bfloat16"}


def normal(shape: Sequence[int], seed: int, dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
    """Evaluated normal numbers, always the same for the same arguments."""
    values = mx.random.normal(tuple(shape), scale=scale, key=mx.random.key(seed), dtype=dtype)
    mx.eval(values)
    return values


def evaluated(build: Callable[[], mx.array]) -> Call:
    """The call that builds a graph and evaluates it."""

    def call() -> mx.array:
        out = build()
        mx.eval(out)
        return out

    return call


def halves(smallest: int) -> tuple[float, ...]:
    """Shares 1, 1/2, 1/4, ... down to 1 / smallest."""
    shares = [1.0]
    while 1 / shares[-1] < smallest:
        shares.append(shares[-1] / 2)
    return tuple(shares)

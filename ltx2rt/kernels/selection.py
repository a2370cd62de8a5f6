"""Decides whether an op is built as our compiled kernel or as its reference graph."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import mlx.core as mx

from ltx2rt._abi import load_extension
from ltx2rt.errors import UsageError

# None when it does not fit the installed MLX and LTX2RT_KERNELS=reference allows that.
ext: Any = load_extension()

# How an op is built: our compiled kernel, on a GPU also with scheduling fences (the same bits) and with operands of 16
# bits multiplied as float16, or both; MLX's own ops in the dtype of the arguments; or the reference graph.
Implementation = Literal["kernel", "fenced", "half", "half_fenced", "mlx", "reference"]
OUR_KERNELS: tuple[Implementation, ...] = ("kernel", "fenced", "half", "half_fenced")
_forced: ContextVar[Implementation | None] = ContextVar("forced", default=None)


@contextmanager
def forced(implementation: Implementation) -> Iterator[None]:
    """Builds every op this way, whatever the device: to compare and to time them."""
    token = _forced.set(implementation)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_implementation() -> Implementation | None:
    return _forced.get()


def use_reference() -> bool:
    """True when ``LTX2RT_KERNELS=reference`` asks for the plain-MLX formulas everywhere.

    Raises:
        UsageError: when ``LTX2RT_KERNELS`` is neither ``compiled`` (the default) nor ``reference``.
    """
    choice = os.environ.get("LTX2RT_KERNELS") or "compiled"
    if choice not in ("compiled", "reference"):
        raise UsageError(f'LTX2RT_KERNELS must be "compiled" or "reference", got "{choice}"; unset it for the default.')
    return choice == "reference"


def spread(arrays: Sequence[mx.array], present: Sequence[bool]) -> list[mx.array | None]:
    """Puts the optional inputs that an op did receive back into their places; None for the others.

    Reference graphs use it to read their inputs: they must not capture arrays, which would outlive their use.
    """
    given = iter(arrays)
    return [next(given) if there else None for there in present]

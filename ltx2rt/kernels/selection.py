"""Decides whether an op is built as our compiled kernel or as its reference graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ltx2rt._abi import load_extension
from ltx2rt.errors import UsageError

# None when it does not fit the installed MLX and LTX2RT_KERNELS=reference allows that.
ext: Any = load_extension()


def use_reference() -> bool:
    """True when ``LTX2RT_KERNELS=reference`` asks for the plain-MLX formulas everywhere.

    Without that, the compiled op still returns its reference graph for a GPU stream, for which no kernel is built.

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

"""Decides whether an op is built as our compiled kernel or as its reference graph."""

from __future__ import annotations

import os


def use_reference() -> bool:
    """True when ``LTX2RT_KERNELS=reference`` asks for the plain-MLX formulas everywhere."""
    return os.environ.get("LTX2RT_KERNELS", "") == "reference"

"""Loads the compiled module after checking that it fits the MLX library it runs with."""

from __future__ import annotations

import os
from types import ModuleType

# The one MLX release that pyproject.toml builds against and requires.
MLX_VERSION = "0.32.4"

ADVICE = (
    "Reinstall both in this environment (pip install --force-reinstall ltx2rt), "
    "or set LTX2RT_KERNELS=reference to do without the compiled kernels."
)


def load_extension() -> ModuleType | None:
    """The module ``ltx2rt._ext``, having exchanged an array with MLX.

    With ``LTX2RT_KERNELS=reference`` None takes the place of a module that is missing or does not fit: everything then
    runs as plain MLX graphs.

    Raises:
        ImportError: when the module is missing, was compiled for another MLX, or cannot exchange arrays with it.
    """
    try:
        return checked_extension()
    except ImportError:
        if os.environ.get("LTX2RT_KERNELS", "") == "reference":
            return None
        raise


def checked_extension() -> ModuleType:
    import mlx.core as mx  # loaded first: the compiled module finds libmlx in the process

    running: str = mx.__version__  # type: ignore[attr-defined]
    if running != MLX_VERSION:
        raise ImportError(
            f"ltx2rt's kernels are compiled for MLX {MLX_VERSION}, but MLX {running} is installed and its C++ "
            f"interface differs: pip install mlx=={MLX_VERSION}. {ADVICE}"
        )
    try:
        import ltx2rt._ext as extension
    except ImportError as error:
        raise ImportError(
            f"ltx2rt's kernels (for MLX {MLX_VERSION}) cannot be loaded beside MLX {running}: {error}. {ADVICE}"
        ) from error
    if running != extension.MLX_VERSION:
        raise ImportError(
            f"ltx2rt's kernels were compiled for MLX {extension.MLX_VERSION}, but MLX {running} is installed. {ADVICE}"
        )
    try:
        extension.shares_arrays(mx.array(1.0))
    except TypeError as error:
        raise ImportError(
            f"ltx2rt's kernels (for MLX {MLX_VERSION}) and the installed MLX {running} cannot exchange arrays: they "
            f"were built with different nanobind internals. {ADVICE}"
        ) from error
    return extension

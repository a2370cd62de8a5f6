"""Checks at import that the compiled module fits the MLX library it runs with."""

from __future__ import annotations

import os

REINSTALL = (
    "Reinstall ltx2rt in this environment (pip install --force-reinstall ltx2rt), or set LTX2RT_KERNELS=reference."
)


def version_problem(built_for: str, running: str) -> str | None:
    """What to tell the user when the MLX compiled against is not the one installed; None when they agree."""
    if built_for == running:
        return None
    return (
        f"ltx2rt was compiled for MLX {built_for} but MLX {running} is installed, and MLX's C++ interface changes "
        f"between releases. Install the matching one (pip install mlx=={built_for}) or rebuild ltx2rt. {REINSTALL}"
    )


def check_extension() -> None:
    """Loads ``ltx2rt._ext`` and lets it exchange an array with MLX.

    With ``LTX2RT_KERNELS=reference`` a missing module is accepted: everything then runs as plain MLX graphs.

    Raises:
        ImportError: when the module is missing, was compiled for another MLX, or cannot exchange arrays with it.
    """
    import mlx.core as mx  # loaded first: the compiled module finds libmlx in the process

    running: str = mx.__version__  # type: ignore[attr-defined]

    try:
        import ltx2rt._ext as _ext
    except ImportError as error:
        if os.environ.get("LTX2RT_KERNELS", "") == "reference":
            return
        raise ImportError(
            f"ltx2rt's compiled kernels cannot be loaded beside MLX {running}: {error}. {REINSTALL}"
        ) from error
    problem = version_problem(_ext.MLX_VERSION, running)
    if problem is not None:
        raise ImportError(problem)
    try:
        _ext.shares_arrays(mx.array(1.0))
    except TypeError as error:
        raise ImportError(
            f"ltx2rt (compiled for MLX {_ext.MLX_VERSION}) and the installed MLX {running} cannot exchange "
            f"arrays: they were built with different nanobind internals. {REINSTALL}"
        ) from error

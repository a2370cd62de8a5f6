"""ltx2rt: a kernel runtime for Lightricks' LTX-2 audio-video diffusion models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx2rt import api
    from ltx2rt.api import (
        Clip,
        IcLoraStage,
        ImageInput,
        OutputOptions,
        Pipeline,
        TextEmbedding,
        VideoInput,
        encode,
        load,
        upscale,
    )
    from ltx2rt.errors import (
        BrokenDownload,
        Cancelled,
        CheckpointError,
        DownloadError,
        Ltx2rtError,
        MachineLost,
        MediaError,
        MemoryBudgetError,
        NotFiniteError,
        OutOfMemory,
        OutOfSpace,
        StateError,
        UsageError,
    )

__version__ = "0.1.0"
__all__ = [
    "BrokenDownload",
    "Cancelled",
    "CheckpointError",
    "Clip",
    "DownloadError",
    "IcLoraStage",
    "ImageInput",
    "Ltx2rtError",
    "MachineLost",
    "MediaError",
    "MemoryBudgetError",
    "NotFiniteError",
    "OutOfMemory",
    "OutOfSpace",
    "OutputOptions",
    "Pipeline",
    "StateError",
    "TextEmbedding",
    "UsageError",
    "VideoInput",
    "api",
    "encode",
    "load",
    "team",
    "upscale",
]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first used: ``ltx2rt.load`` is `ltx2rt.api.load`.

    The compiled module, too: before it, MLX has to be loaded and compared.
    """
    if name == "_ext":
        return importlib.import_module("ltx2rt._abi").checked_extension()
    if name not in __all__:
        raise AttributeError(f"module 'ltx2rt' has no attribute {name!r}")
    if name == "team":
        return importlib.import_module("ltx2rt.team")
    errors = importlib.import_module("ltx2rt.errors")
    if hasattr(errors, name):
        return getattr(errors, name)
    api = importlib.import_module("ltx2rt.api")
    return api if name == "api" else getattr(api, name)

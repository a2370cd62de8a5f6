"""Settings of MLX's and the system's allocators that make memory use predictable: what is freed goes back at once."""

from __future__ import annotations

import ctypes
import functools
import sys

import mlx.core as mx

# Allocations from this size on come from the system and return to it. Fixed: glibc would raise the limit to 32 MB after
# the first large array is freed, and keep everything below it.
_MAPPED_FROM_BYTES = 1 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@functools.cache
def settle() -> None:
    """Fix the settings for the rest of the process."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _MAPPED_FROM_BYTES)
    if mx.default_device() == mx.cpu:
        # MLX keeps freed buffers for reuse. On a CPU fresh pages cost next to nothing beside the computing.
        mx.set_cache_limit(0)


def give_back() -> None:
    """Return free memory to the system."""
    mx.clear_cache()
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)

"""Settings of MLX's and the system's allocators that make memory use predictable: what is freed goes back at once.

They are those of the whole process, so they hold only while a stage runs and are put back afterwards.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import psutil

log = logging.getLogger(__name__)

# Allocations from this size on come from the system and return to it. Fixed: glibc would raise the limit to 32 MB after
# the first large array is freed, and keep everything below it.
_MAPPED_FROM_BYTES = 1 << 20
# glibc cannot be asked for its limits, and adapts them no more once one was set. These are what it adapts to, in every
# program that has freed an array of 32 MB (malloc.c: DEFAULT_MMAP_THRESHOLD_MAX, and twice that for trimming).
_ADAPTED_MAPPED_BYTES, _ADAPTED_TRIM_BYTES = 32 << 20, 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Who starts a program with these has decided; glibc's limits then stay as they are.
_OWN_LIMITS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_running = 0
_cache_limit: int | None = None  # of the program, while it is changed


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library where it can be told limits and nobody else has."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN_LIMITS):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None


@contextmanager
def settled() -> Iterator[None]:
    """Freed memory goes back at once until this ends; where several overlap, until the last of them ends."""
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            _settle()
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _restore()


def _settle() -> None:
    global _cache_limit
    give_back()
    _limit_heap(_MAPPED_FROM_BYTES, _MAPPED_FROM_BYTES)
    if mx.default_device() == mx.cpu:
        # MLX keeps freed buffers for reuse. On a CPU fresh pages cost next to nothing beside the computing.
        limit = mx.set_cache_limit(0)
        _cache_limit = limit if _cache_limit is None else _cache_limit


def _restore() -> None:
    global _cache_limit
    _limit_heap(_ADAPTED_MAPPED_BYTES, _ADAPTED_TRIM_BYTES)
    if _cache_limit is None:
        return
    try:
        mx.set_cache_limit(_cache_limit)
        _cache_limit = None
    except RuntimeError as error:
        # Where the system refuses even a thread. The error that led here is the one to tell, and the limit is put back
        # after the next stage.
        log.warning("MLX's cache limit stays 0 for now: %s", error)


def _limit_heap(mapped_from: int, trimmed_from: int) -> None:
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, mapped_from)
        library.mallopt(_M_TRIM_THRESHOLD, trimmed_from)


def give_back() -> None:
    """Return free memory to the system."""
    mx.clear_cache()
    trim_heap()


def trim_heap() -> None:
    """Return what the C library keeps for reuse."""
    if hasattr(psutil, "heap_trim"):  # glibc and macOS
        psutil.heap_trim()

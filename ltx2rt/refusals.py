"""Errors that say that memory was refused, or that the device dropped the work, and nothing about the code that ran.

Neither MLX nor Metal has exception types for these, only texts; all that are known stand here.
"""

from __future__ import annotations

import errno

# What says only by its words, as a RuntimeError, that the system refused memory. All else is a MemoryError (numpy,
# std::bad_alloc of MLX and of the kernels, the encoders) or has an error number.
_MEMORY = (
    "[malloc] Unable to allocate",  # MLX, a buffer of the GPU: mlx/backend/metal/allocator.cpp
    "[metal::malloc] ",  # the same: a buffer above the largest size, or too many buffers
    "[METAL] Command buffer execution failed: Insufficient Memory",  # MLX: mlx/backend/metal/eval.cpp
    "can't start new thread",  # CPython, the stack of a thread: Modules/_threadmodule.c
    "Resource temporarily unavailable",  # std::system_error of std::thread, the same in MLX
)
# Metal about a command buffer that it gave up because of another one's error.
_DROPPED = (
    "kIOGPUCommandBufferCallbackErrorInnocentVictim",
    "kIOGPUCommandBufferCallbackErrorSubmissionsIgnored",
    "kIOGPUCommandBufferCallbackErrorDeviceRemoved",
)


def memory_was_refused(error: BaseException) -> bool:
    """Whether an error says that the system, MLX's allocator or the GPU refused memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or str(error).startswith(_MEMORY)


def work_was_dropped(error: BaseException) -> bool:
    """Whether the GPU gave the work up for a reason outside of it."""
    return any(words in str(error) for words in _DROPPED)

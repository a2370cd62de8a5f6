"""Errors that say that memory was refused, or that the device dropped the work, and nothing about the code that ran.

Neither MLX nor Metal has exception types for these, only texts; all that are known stand here.
"""

from __future__ import annotations

# The texts begin with or contain these. MLX's allocators: "[malloc] Unable to allocate N bytes.", "[metal::malloc]
# Attempting to allocate N bytes which is greater than the maximum allowed buffer size ...", "[metal::malloc] Resource
# limit (N) exceeded."; C++; numpy; Python's threads; the C library; Metal about a command buffer: "[METAL] Command
# buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)".
_MEMORY = (
    "[malloc",
    "[metal::malloc]",
    "bad_alloc",
    "Unable to allocate",
    "can't start new thread",
    "Cannot allocate memory",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "Insufficient Memory",
)
# Metal about a command buffer that it gave up because of another one's error.
_DROPPED = (
    "kIOGPUCommandBufferCallbackErrorInnocentVictim",
    "kIOGPUCommandBufferCallbackErrorSubmissionsIgnored",
    "kIOGPUCommandBufferCallbackErrorDeviceRemoved",
)


def memory_was_refused(error: BaseException) -> bool:
    """Whether the system, MLX's allocator or the GPU had no memory left to give."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY)


def work_was_dropped(error: BaseException) -> bool:
    """Whether the GPU gave the work up for a reason outside of it."""
    return any(words in str(error) for words in _DROPPED)

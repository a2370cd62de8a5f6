"""Kernels behind work that is still in flight, and over operands that lie far inside a large buffer.

Both have gone wrong in releases of MLX: a kernel that starts before its operands are there, and an offset of 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.kernels import (
    antialiased_snake,
    causal_conv3d,
    modulated_norm,
    neighborhood_attention,
    quantized_linear,
    rope_attention,
)
from ltx2rt.kernels.host import to_numpy, writable_view
from ltx2rt.kernels.proof import FrontEnd
from ltx2rt.kernels.proof_problems import Problem, check_problems
from ltx2rt.kernels.selection import forced
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.kernels.variants import (
    AttentionVariant,
    ConvVariant,
    LinearVariant,
    NeighborhoodVariant,
    NormVariant,
    SnakeVariant,
    Variant,
)
from ltx2rt.memory.limits import format_bytes
from ltx2rt.memory.measure import available_bytes as free_bytes
from ltx2rt.refusals import memory_was_refused
from ltx2rt.types import LinearWeight

Numbers = np.ndarray[Any, np.dtype[Any]]

_ROUNDS = 3
# Products of square matrices before the operands are there, by device type: milliseconds.
_BUSY_SIZE = {mx.DeviceType.cpu: 256, mx.DeviceType.gpu: 1536}
_BUSY_STEPS = 6
# A buffer of which the last row begins 2**31 elements after the first; an axis of MLX cannot be so long.
_ROW, _FAR_ROW = 1 << 23, 1 << 8
# Elements of the last row before an operand, so that its offset is no power of two.
_LEAD = 64

_EDGES = ("edge", "zeros", "zeros")
STRESSED: list[tuple[FrontEnd, Variant]] = [
    (modulated_norm, NormVariant("float16", "rms", "float32", "float32", True)),
    (quantized_linear, LinearVariant("float16", "float16", bias="float16", residual=True)),
    (quantized_linear, LinearVariant("float16", "e4m3", rows=4, bias="float16")),
    (quantized_linear, LinearVariant("float16", "int8", 64, "float16")),
    (rope_attention, AttentionVariant("float16", 64, False, False, "row", "row", 3, 3, "split", gate="float16")),
    (
        neighborhood_attention,
        NeighborhoodVariant("float16", 64, 3, (3, 3), ("mask", "replicate"), "float16", "float16", (8, 12, 12)),
    ),
    (causal_conv3d, ConvVariant("float16", "float16", (3, 3, 3), modes=_EDGES, bias="float16", pixel_norm=True)),
    (antialiased_snake, SnakeVariant("float16")),
]


def launch_order_fault(front_end: FrontEnd, variant: Variant) -> str:
    """What goes wrong when a kernel is launched behind work in flight; empty when nothing does.

    Every operand comes out of a long computation, on the same stream and on another one, and all problems are under way
    at once. The bits must be those of the kernel alone.
    """
    problems = check_problems(variant, metal=False)
    with forced("kernel"):
        alone = [front_end(**problem) for problem in problems]
        mx.eval(alone)
        other = mx.new_stream(mx.default_device())
        for turn in range(_ROUNDS):
            for where, stream in (("the same stream", mx.default_device()), ("another stream", other)):
                nothing = _zero_after_a_while(turn, stream)
                queued = [front_end(**_in_flight(problem, nothing, stream)) for problem in problems]
                mx.async_eval(*queued)  # type: ignore[no-untyped-call]  # MLX's stub gives no types
                for number, (result, expected) in enumerate(zip(queued, alone, strict=True)):
                    if not to_numpy(mx.array_equal(result, expected, equal_nan=True)):
                        return f"problem {number} has other values behind work in flight on {where}"
    return ""


def _zero_after_a_while(turn: int, stream: mx.Stream | mx.Device) -> mx.array:
    """A zero that is known after a long computation."""
    size = _BUSY_SIZE[mx.default_device().type]
    with mx.stream(stream):
        # Rows that add up to one, and so do those of the products: nothing grows, and nothing becomes subnormal.
        busy = mx.softmax(mx.random.uniform(shape=(size, size), key=mx.random.key(turn)), axis=-1)
        for _ in range(_BUSY_STEPS):
            busy = busy @ busy
        return mx.minimum(busy.sum(), 0.0)


def _in_flight(problem: Problem, nothing: mx.array, stream: mx.Stream | mx.Device) -> Problem:
    """The same values, there no sooner than ``nothing``."""

    def later(value: Any) -> Any:
        if isinstance(value, LinearWeight):
            return value._replace(values=later(value.values))
        if isinstance(value, mx.array):
            return value + nothing.astype(value.dtype)
        if isinstance(value, tuple) and all(isinstance(part, mx.array) for part in value):
            return type(value)(*(later(part) for part in value))  # a rotary table
        return value

    with mx.stream(stream):
        return {name: later(value) for name, value in problem.items()}


def far_operands_fault(front_end: FrontEnd, variant: Variant, buffer: mx.array, memory: Numbers) -> str:
    """What goes wrong when an operand begins more than 2**31 elements into its buffer, or batches lie so far apart.

    Args:
        front_end, variant: of an op in float16.
        buffer: of `far_buffer`.
        memory: the same elements for numpy, of which the first and the last ones are written.
    """
    for number, problem in enumerate(check_problems(variant, metal=False)):
        for name, value in _activations(problem):
            problem_here = {**problem, name: mx.contiguous(value)}
            with forced("kernel"):
                expected = front_end(**problem_here)
                mx.eval(expected)
                for what, view in _far_views(value, buffer, memory):
                    if not to_numpy(mx.array_equal(front_end(**{**problem, name: view}), expected, equal_nan=True)):
                        return f"problem {number} has other values when {name} {what}"
    return ""


def _activations(problem: Problem) -> Iterator[tuple[str, mx.array]]:
    for name in ("x", "q", "k", "v", "residual"):
        value = problem.get(name)
        if isinstance(value, mx.array):
            yield name, value


def _far_views(value: mx.array, buffer: mx.array, memory: Numbers) -> Iterator[tuple[str, mx.array]]:
    """The values of ``value`` in the last elements of the buffer; its batches at both ends."""
    items = to_numpy(mx.contiguous(value)).ravel()
    memory[_FAR_ROW, _LEAD : _LEAD + items.size] = items
    yield "lies beyond 2**31 elements", buffer[_FAR_ROW, _LEAD : _LEAD + items.size].reshape(value.shape)
    if value.ndim >= 3 and value.shape[0] == 2:
        half = items.size // 2
        memory[0, :half], memory[_FAR_ROW, :half] = items[:half], items[half:]
        yield "has batches 2**31 elements apart", buffer[::_FAR_ROW, :half].reshape(value.shape)


def far_buffer(available_bytes: int | None = None) -> tuple[mx.array, Numbers] | str:
    """A buffer of more than 2**31 elements of float16 whose pages nobody has touched, or why there is none.

    On a GPU the whole buffer becomes resident, on a CPU a few pages of it.

    Args:
        available_bytes: memory that is free; None: asked of the machine.
    """
    elements = (_FAR_ROW + 1) * _ROW
    needed = 2 * elements if mx.default_device().type == mx.DeviceType.gpu else 1 << 30
    available = free_bytes() if available_bytes is None else available_bytes
    if available < 2 * needed:
        return f"needs {format_bytes(2 * needed)} of free memory, {format_bytes(available)} are free"
    try:
        buffer = uninitialized((_FAR_ROW + 1, _ROW), mx.float16)
        return buffer, writable_view(buffer)
    except (RuntimeError, MemoryError) as error:
        if not memory_was_refused(error):
            raise
        return f"a buffer of {format_bytes(2 * elements)} was refused: {error}"

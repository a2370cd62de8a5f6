"""Kernels on two streams and from several threads at once: what one of them is doing changes nothing for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable

import mlx.core as mx
import pytest

from ltx2rt.kernels import modulated_norm, quantized_linear
from ltx2rt.kernels.proof_problems import check_problems
from ltx2rt.kernels.variants import Variant
from ltx2rt.types import LinearWeight
from ltx2rt.verify.kernel_stress import STRESSED, far_buffer, far_operands_fault, launch_order_fault

Call = Callable[[], mx.array]


def normal(*shape: int, seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(mx.bfloat16)


def calls() -> list[Call]:
    """A long loop and a short one, which share the processor's threads."""
    weight = LinearWeight("dense", normal(512, 512, seed=1))
    many, few = normal(256, 512, seed=2), normal(40, 512, seed=3)
    mx.eval(weight.values, many, few)
    return [lambda: quantized_linear(many, weight), lambda: modulated_norm(few), lambda: quantized_linear(few, weight)]


def test_threads_with_streams_of_their_own() -> None:
    works = calls()
    alone = [work() for work in works]
    mx.eval(alone)
    device = mx.default_device()
    start = threading.Barrier(len(works))
    wrong: list[str] = []

    def run(index: int) -> None:
        with mx.stream(mx.new_stream(device)):
            start.wait()
            for turn in range(60):
                result = works[index]()
                mx.eval(result)
                if not mx.array_equal(result, alone[index]).item():
                    wrong.append(f"call {index}, turn {turn}")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_two_streams_of_one_thread() -> None:
    works = calls()
    alone = [work() for work in works]
    mx.eval(alone)
    streams = [mx.new_stream(mx.default_device()) for _ in works]
    for _ in range(20):
        results = []
        for work, stream in zip(works, streams, strict=True):
            with mx.stream(stream):
                results.append(work())
        mx.async_eval(*results)
        for result, expected in zip(results, alone, strict=True):
            assert mx.array_equal(result, expected).item()


@pytest.mark.parametrize(
    ("front_end", "variant"),
    [  # by default each kernel once
        pytest.param(*each, id=each[1].key, marks=pytest.mark.slow if index in (1, 2) else ())
        for index, each in enumerate(STRESSED)
    ],
)
def test_kernels_behind_work_in_flight(front_end: Callable[..., mx.array], variant: Variant) -> None:
    assert launch_order_fault(front_end, variant) == ""


def test_a_kernel_that_does_not_wait_is_noticed() -> None:
    front_end, variant = STRESSED[0]
    per_turn = len(check_problems(variant, metal=False))
    built = 0

    def hasty(**problem: mx.array) -> mx.array:
        """Finds zeros where another stream's results are not there yet."""
        nonlocal built
        built += 1
        return front_end(**({**problem, "x": mx.zeros_like(problem["x"])} if built == 2 * per_turn + 1 else problem))

    assert launch_order_fault(hasty, variant) == "problem 0 has other values behind work in flight on another stream"


def test_operands_far_inside_a_buffer() -> None:
    made = far_buffer()
    if isinstance(made, str):
        pytest.skip(made)
    for front_end, variant in STRESSED:
        assert far_operands_fault(front_end, variant, *made) == "", variant.key
    front_end, variant = STRESSED[0]
    calls = 0

    def short_of_bits(**problem: mx.array) -> mx.array:
        """As if the offset of what comes after the plain problem had too few bits."""
        nonlocal calls
        calls += 1
        return front_end(**({**problem, "x": mx.zeros_like(problem["x"])} if calls == 2 else problem))

    fault = far_operands_fault(short_of_bits, variant, *made)
    assert fault == "problem 0 has other values when x lies beyond 2**31 elements"


def test_too_little_memory_is_a_reason() -> None:
    assert far_buffer(10**9) == "needs 2.15 GB of free memory, 1.00 GB are free"

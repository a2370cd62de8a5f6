"""Errors of an evaluation reach whoever asked for it, leave nothing behind, and never come with foreign memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import mlx.core as mx
import pytest
from refused_memory import NOT_SANITIZED

from ltx2rt import _ext
from ltx2rt.kernels import RopeTable, modulated_norm, quantized_linear, rope_attention
from ltx2rt.types import LinearWeight

HANG_S = 120  # far above what any of these takes on a busy machine


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, which may hang or crash without taking the tests along."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_S, env={**os.environ, **environment}, check=False
    )


def norm_of(index: mx.array) -> mx.array:
    return modulated_norm(mx.ones((5, 64)), scale=mx.ones((4, 64)), index=index)


def linear_of(index: mx.array) -> mx.array:
    return quantized_linear(
        mx.ones((5, 8)), LinearWeight("dense", mx.ones((3, 8))), gate=mx.ones((4, 3)), gate_index=index
    )


def attention_of(index: mx.array) -> mx.array:
    q = mx.ones((1, 5, 16))
    return rope_attention(q, q, q, num_heads=2, rope_k=RopeTable(mx.ones((4, 4)), mx.ones((4, 4)), index[:, None]))


OPS = {"norm": norm_of, "linear": linear_of, "attention": attention_of}


# How an index reaches an op: as f(op, index) -> array, evaluated or not.
def known(op, index):
    return op(index)


def pending(op, index):
    return op(index + mx.array(0))


def slice_of_more(op, index):
    return op(mx.stack([index, mx.full(index.shape, 99)], axis=1)[:, 0])


def scheduled(op, index):
    other = index ^ 1
    mx.async_eval(other)
    return op(other ^ 1)


def other_stream(op, index):
    stream = mx.new_stream(mx.cpu)
    return op(mx.add(index, 0, stream=stream))


def on_other_stream(op, index):
    with mx.stream(mx.new_stream(mx.cpu)):
        return op(index + 0)


def compiled(op, index):
    return mx.compile(op)(index)


def compiled_and_pending(op, index):
    return mx.compile(lambda i: op(i + 0) + 1)(index) - 1


def captured(op, index):
    index = index + 0
    mx.eval(index)
    return mx.compile(lambda x: op(index) * x)(mx.array(1.0))


def vectorised(op, index):
    return mx.vmap(op)(index[None])[0]


WAYS = [known, pending, slice_of_more, scheduled, other_stream, on_other_stream, compiled, compiled_and_pending,
        captured, vectorised]  # fmt: skip


@pytest.mark.parametrize("evaluate", [mx.eval, mx.async_eval], ids=["eval", "async_eval"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("op", OPS)
def test_an_index_out_of_range_is_an_error_and_the_next_request_is_right(op, way, evaluate):
    good = mx.array([0, 3, -4, 1, -1])
    expected = OPS[op](good)
    mx.eval(expected)
    for bad in (4, -5, 2**31 - 1, -(2**31)):
        with pytest.raises(RuntimeError, match=rf"index holds {bad} but .* 4 rows"):
            evaluate(way(OPS[op], mx.array([0, 3, bad, 1, -1])))
        result = way(OPS[op], good)
        evaluate(result)
        assert mx.allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_an_index_is_checked_where_derivatives_are_taken():
    x, scale = mx.random.normal((5, 8)), mx.random.normal((4, 8))

    def loss(x, scale, index):
        return (modulated_norm(x, scale=scale, index=index) ** 2).sum()

    gradients = mx.grad(loss, argnums=(0, 1))(x, scale, mx.array([0, 3, -4, 1, -1]))
    assert all(mx.isfinite(g).all() for g in gradients)
    with pytest.raises(RuntimeError, match="index holds 4"):
        mx.eval(mx.grad(loss, argnums=(0, 1))(x, scale, mx.array([0, 3, 4, 1, -1])))


def test_a_failed_array_fails_again_and_its_other_inputs_stay_good():
    x = mx.arange(8.0) + 1
    broken = _ext.failing_kernel(x) + x
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"\[failing_kernel\]"):
            mx.eval(broken)
    assert mx.array_equal(x, mx.arange(1.0, 9.0))


def test_a_failing_kernel_fails_in_every_kind_of_evaluation():
    x = mx.ones((4, 64))
    evaluations: dict[str, Callable[[mx.array], object]] = {
        "eval": mx.eval,
        "async_eval": mx.async_eval,
        "item": lambda a: a.sum().item(),
        "tolist": lambda a: a.tolist(),
        "memoryview": memoryview,
    }
    for evaluate in evaluations.values():
        for _ in range(50):
            with pytest.raises(RuntimeError, match=r"\[failing_kernel\]"):
                evaluate(modulated_norm(_ext.failing_kernel(x * 2)) + 1)
            assert mx.allclose(modulated_norm(x), x)


def test_thousands_of_bad_and_good_requests_in_turn_over_two_threads():
    """MLX counts its running tasks; errors that escaped from tasks made it lose count and wait for ever."""
    outcome = run_python("""
        import threading, time, mlx.core as mx
        from ltx2rt.kernels import modulated_norm
        x, scale = mx.arange(512.0).reshape(8, 64), mx.arange(256.0).reshape(4, 64)
        good, bad = mx.array([0, 1, 2, 3, 0, 1, 2, 3]), mx.array([0, 1, 2, 4, 0, 1, 2, 3])
        right = modulated_norm(x, scale=scale, index=good)
        mx.eval(right, good, bad)
        counts = []

        def requests(n):
            stream = mx.new_stream(mx.cpu)
            raised = correct = 0
            with mx.stream(stream):
                zero = mx.array(0)
                for _ in range(n // 2):
                    try:
                        mx.eval(modulated_norm(x, scale=scale, index=bad + zero))
                    except RuntimeError:
                        raised += 1
                    correct += mx.array_equal(modulated_norm(x, scale=scale, index=good + zero), right).item()
            counts.append((raised, correct))

        start = time.time()
        threads = [threading.Thread(target=requests, args=(2000,)) for _ in range(2)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(counts, time.time() - start)
        assert counts == [(1000, 1000)] * 2, counts
        """)
    assert outcome.returncode == 0, outcome.stderr


# A bad request (its exception caught) and a good one in turn, all with mx.eval, watched from another thread.
HANG = """
    import mlx.core as mx, os, sys, threading, time
    from ltx2rt.kernels import modulated_norm
    n, way = int(sys.argv[1]), sys.argv[2]
    x, t, idx = mx.ones((64, 256)), mx.ones((4, 256)), mx.array([0] * 63 + [9])
    mx.eval(x, t, idx)
    done, wrong = [0], 0
    def watch():
        last = None
        while True:
            time.sleep(20)
            if done[0] == last:
                print("hangs after", done[0], "requests", flush=True)
                os._exit(7)
            last = done[0]
    threading.Thread(target=watch, daemon=True).start()
    for _ in range(n):
        try:
            mx.eval(modulated_norm(x, scale=t, index=idx if way == "known" else idx + 0))
        except RuntimeError:
            pass
        else:
            wrong += 1
        try:
            mx.eval(modulated_norm(x))
        except RuntimeError:
            wrong += 1
        done[0] += 1
    print("finished", done[0], "wrong", wrong, flush=True)
    os._exit(0)
    """


@pytest.mark.parametrize("way", [pytest.param("known", marks=pytest.mark.slow), "pending"])
def test_a_service_that_catches_errors_goes_on(way):
    outcome = run_python(HANG, "500", way)
    assert outcome.stdout == "finished 500 wrong 0\n", outcome


@pytest.mark.slow
@pytest.mark.parametrize("way", ["known", "pending"])
def test_a_service_that_catches_errors_goes_on_for_long(way):
    for _ in range(10):
        outcome = run_python(HANG, "2000", way)
        assert outcome.stdout == "finished 2000 wrong 0\n", outcome


def test_errors_of_one_thread_do_not_reach_another():
    x = mx.ones((4, 64))
    mx.eval(x)  # lazy arrays belong to the thread that made them
    failures: list[str] = []

    def good():
        for _ in range(300):
            try:
                if not mx.allclose(modulated_norm(x + 1), x).item():
                    failures.append("wrong")
            except RuntimeError as error:
                failures.append(str(error))

    def bad():
        for _ in range(300):
            try:
                mx.eval(norm_of(mx.array([0, 1, 2, 9, 0]) + 0))
                failures.append("no error")
            except RuntimeError:
                pass

    threads = [threading.Thread(target=body) for body in (good, bad, good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Traced once, then called with other shapes: name -> (first call, second call, message).
SHAPELESS = """
    import sys
    import mlx.core as mx
    from ltx2rt.kernels import RopeTable, modulated_norm, quantized_linear, rope_attention
    from ltx2rt.types import LinearWeight
    def n(*sizes):
        a = mx.random.normal(sizes)
        mx.eval(a)
        return a
    weight, index = LinearWeight("dense", n(64, 64)), mx.zeros((5,), mx.int32)
    coded = LinearWeight("e4m3", mx.zeros((64, 64), mx.uint8), mx.array(1.0))
    rope = RopeTable(n(7, 16), n(7, 16), mx.zeros((5, 1), mx.int32))
    table = n(4, 64)
    mx.eval(index, rope.index, *coded[1:3])
    cases = {
        "residual": (lambda x, r: quantized_linear(x, weight, residual=r * 2),
                     ((4, 64), (4, 64)), ((200000, 64), (4, 64))),
        "larger residual": (lambda x, r: quantized_linear(x, weight, residual=r * 2),
                            ((4, 64), (4, 64)), ((4, 64), (200000, 64))),
        "weight": (lambda x, w: quantized_linear(x, LinearWeight("dense", w)),
                   ((4, 64), (64, 64)), ((4, 64), (64, 8))),
        "coded weight": (lambda x: quantized_linear(x, coded), ((4, 64),), ((4, 4096),)),
        "gate index": (lambda x: quantized_linear(x, weight, gate=table, gate_index=index),
                       ((5, 64),), ((400000, 64),)),
        "v": (lambda q, k, v: rope_attention(q, k, v, num_heads=2),
              ((1, 4, 64), (1, 4, 64), (1, 4, 64)), ((1, 4, 64), (1, 200000, 64), (1, 4, 64))),
        "rope index": (lambda q, k, v: rope_attention(q, k, v, num_heads=2, rope_q=rope),
                       ((1, 5, 64), (1, 5, 64), (1, 5, 64)), ((1, 40000, 64), (1, 5, 64), (1, 5, 64))),
        "head size": (lambda q, k, v: rope_attention(q, k, v, num_heads=2, rope_q=rope),
                      ((1, 5, 64), (1, 5, 64), (1, 5, 64)), ((1, 5, 16), (1, 5, 16), (1, 5, 16))),
        "norm index": (lambda x: modulated_norm(x, scale=table, index=index), ((5, 64),), ((400000, 64),)),
        "norm table": (lambda x, t: modulated_norm(x, scale=t, index=index + 3),
                       ((5, 64), (4, 64)), ((5, 64), (2, 64))),
        "norm width": (lambda x: modulated_norm(x, scale=table, index=index), ((5, 64),), ((5, 100000),)),
    }
    for name in sys.argv[1:]:
        function, first, second = cases[name]
        compiled = mx.compile(function, shapeless=True)
        mx.eval(compiled(*(n(*sizes) for sizes in first)))
        arrays = [mx.ones(sizes) for sizes in second]  # large ones, of which nothing is computed
        mx.eval(arrays)
        print(name, "traced", flush=True)
        try:
            mx.eval(compiled(*arrays))
        except (RuntimeError, ValueError) as error:
            print(name, error, flush=True)
            if name == sys.argv[-1]:
                raise
    """
SHAPELESS_ERRORS = {
    "residual": r"residual must have shape \(200000,64\) but has \(4,64\)",
    "larger residual": r"residual must have shape \(4,64\) but has \(200000,64\)",
    "weight": "x must end in K = 8, the width of the weight, but ends in 64",
    "coded weight": "x must end in K = 64, the width of the weight, but ends in 4096",
    "gate index": r"gate_index must have shape \(400000\) but has \(5\)",
    "v": r"v must have shape \(1,200000,64\) but has \(1,4,64\)",
    "rope index": r"rope_q.index must have shape \(40000,P\) or \(1,40000,P\) but has \(5,1\)",
    "head size": r"rope_q turns M\*P = 16 lanes but there are only 8",
    "norm index": r"index must have shape \(400000\) but has \(5\)",
    "norm table": "index holds 3 but scale and shift have 2 rows",
    "norm width": r"scale must have shape \(R,100000\) with R >= 1 but has \(4,64\)",
}


def test_a_traced_function_with_other_shapes_is_an_error():
    """One after the other in one process, which the last error ends."""
    outcome = run_python(SHAPELESS, *SHAPELESS_ERRORS)
    assert outcome.returncode == 1
    said = outcome.stdout.splitlines()
    assert len(said) == 2 * len(SHAPELESS_ERRORS), outcome
    for (name, message), traced, error in zip(SHAPELESS_ERRORS.items(), said[::2], said[1::2], strict=True):
        assert traced == f"{name} traced"
        assert re.search(message, error), error
    assert re.search(message, outcome.stderr.splitlines()[-1])


def test_a_traced_function_with_other_shapes_that_fit_is_right():
    weight, scale = LinearWeight("dense", mx.random.normal((16, 8))), mx.random.normal((1, 8))
    mx.eval(weight.values, scale)
    cases = [
        (lambda x, r: quantized_linear(x, weight, residual=r), [(3, 8), (3, 16)], [(70, 8), (70, 16)]),
        (lambda x: modulated_norm(x, scale=scale), [(3, 8)], [(2000, 8)]),
        (
            lambda q, k, v: rope_attention(q, k, v, num_heads=2),
            [(1, 3, 16)] * 3,
            [(1, 5, 16), (1, 300, 16), (1, 300, 16)],
        ),
        (lambda q, k, v: rope_attention(q, k, v, num_heads=2), [(1, 3, 16)] * 3, [(1, 5, 16), (1, 0, 16), (1, 0, 16)]),
    ]
    for function, first, second in cases:
        compiled = mx.compile(function, shapeless=True)
        for shapes in (first, second):
            arrays = [mx.random.normal(shape) for shape in shapes]
            mx.eval(arrays)
            assert mx.allclose(compiled(*arrays), function(*arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, which only Linux does reliably")
@NOT_SANITIZED
def test_memory_that_is_refused_is_an_error_and_the_next_request_is_right():
    """Both what MLX allocates for outputs and what kernels take for themselves."""
    outcome = run_python("""
        import resource, mlx.core as mx
        from ltx2rt.kernels import quantized_linear
        from ltx2rt.types import LinearWeight
        w = LinearWeight("dense", mx.ones((8, 4096), mx.bfloat16))  # the output is small, the prepared rows are not
        y = mx.ones((3000, 4096), mx.bfloat16)
        mx.eval(w.values, y, quantized_linear(y[:8], w))
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + (6 << 20), resource.RLIM_INFINITY))
        for _ in range(20):
            out = quantized_linear(y, w)
            try:
                mx.eval(out)
                print("no error")
            except (MemoryError, RuntimeError):
                pass
            small = quantized_linear(y[:8], w)
            assert (small == 4096).all().item()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        mx.eval(out)
        assert (out == 4096).all().item()
        print("right")
        """, MALLOC_TOP_PAD_="0", MALLOC_TRIM_THRESHOLD_="0")  # fmt: skip
    assert outcome.stdout == "right\n", outcome


def test_results_in_flight_are_right():
    """Several graphs at once on two streams; tasks that wait on one stream share scratch."""
    weight = LinearWeight("dense", mx.random.normal((96, 64)))
    x = mx.random.normal((40, 64))
    q = mx.random.normal((1, 40, 96))
    streams = [mx.default_stream(mx.cpu), mx.new_stream(mx.cpu)]
    mx.eval(weight.values, x, q)

    def graph(scale: float) -> mx.array:
        y = quantized_linear(modulated_norm(x * scale), weight)
        y = rope_attention(y[None], y[None] + q, q, num_heads=3)
        return quantized_linear(modulated_norm(y[0])[:, ::-1][:, :64], weight)

    expected = []
    for i in range(12):
        expected.append(graph(i - 5.5))
        mx.eval(expected[-1])
    for _ in range(5):
        results = []
        for i in range(12):
            with mx.stream(streams[i % 2]):
                results.append(graph(i - 5.5))
            mx.async_eval(results[-1])
        assert all(mx.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_sizes_that_make_no_array_are_errors():
    with pytest.raises(ValueError, match="sizes must not be negative but one is -1"):
        _ext.uninitialized([4, -1], mx.float32)
    with pytest.raises(ValueError, match=r"more than 2\^63 bytes"):
        _ext.uninitialized([65536] * 4, mx.float32)
    assert _ext.uninitialized([0, 65536, 65536, 65536], mx.float32).size == 0
    assert _ext.uninitialized([], mx.float16).shape == ()


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_measurement_takes_a_time_that_ends(seconds):
    with pytest.raises(ValueError, match="seconds must be above 0 and at most 3600"):
        _ext.calibrate_arithmetic("float32", seconds)

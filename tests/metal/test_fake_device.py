"""The fake Metal device: MLX's signatures, Metal's documented limits, and the order of dispatches."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from shaders_under_test import ROOT
from simulated_kernels import simulated_kernels

from ltx2rt.kernels import modulated_norm
from tools.metal_sim import SimulationError
from tools.metal_sim.extension import simulated_extension

FAKE = ROOT / "tools/metal_sim/fake/mlx/backend/metal/device.h"
MLX = Path(mx.__file__).parent / "include/mlx/backend/metal/device.h"
# Of the simulator alone.
EXTRA = {"CommandEncoder": {"void start()", "void finish()"}, "Device": {"std::vector<std::string> libraries() const"}}


def without_bodies(text: str) -> str:
    """C++ with a semicolon in place of each function body; braces among parameters are default values."""
    kept, braces, brackets = [], 0, 0
    for c in text:
        brackets += (c == "(") - (c == ")")
        if (c == "{" and brackets == 0) or braces > 0:
            braces += (c == "{") - (c == "}")
            if braces == 0:
                kept.append(";")
        else:
            kept.append(c)
    return "".join(kept)


def declarations(header: Path, name: str) -> set[str]:
    """The public functions of a class: return type, name and parameters, without bodies."""
    text = re.sub(r"//[^\n]*", "", header.read_text())
    body = text[re.search(rf"class (?:MLX_API )?{name} {{", text).end() :]  # type: ignore[union-attr]
    body = body[body.index("public:") + len("public:") : body.index("\n private:")]
    body = re.sub(r"struct \w+ {.*?\n  };", "", body, flags=re.DOTALL)
    found = set()
    for declaration in without_bodies(body).split(";"):
        words = " ".join(declaration.split())
        if "(" in words and f"{name}(" not in words:
            found.add(re.sub(r"\( ", "(", words))
    return found


@pytest.mark.parametrize("name", ["CommandEncoder", "Device"])
def test_signatures_are_those_of_the_installed_mlx(name: str) -> None:
    fake, real = declarations(FAKE, name), declarations(MLX, name)
    assert len(fake) >= 6
    assert fake - EXTRA[name] <= real


def test_free_functions_are_those_of_the_installed_mlx() -> None:
    for function in ("Device& device(mlx::core::Device);", "CommandEncoder& get_command_encoder(Stream s);"):
        assert f"\n{function}" in FAKE.read_text()
        assert f"\nMLX_API {function}" in MLX.read_text()


MISUSES = {
    "buffer index": "buffer index 31",
    "bytes index": "buffer index -1",
    "inline bytes": "4097 inline bytes",
    "no data": "buffer 0 has no data",
    "offset": "buffer 0 starts at or beyond the end",
    "threadgroup length": "24 bytes; 16 must divide it",
    "threadgroup memory": "32784 bytes; 32768 exist",
    "threads": "1056 threads",
    "no threads": "0 threads",
    "empty grid": "an empty grid",
    "no pipeline": "without a pipeline",
    "in place": "buffer 0 is read while it is written",
    "read at once": "buffer 1 is read while it is written",
    "written after a read": "buffer 2 is written while an earlier dispatch may still read it",
    "unwritten": "8 of 8 elements of an output were never written",
}


@pytest.mark.parametrize("what", MISUSES)
def test_misuse_is_found(what: str) -> None:
    module = simulated_extension()
    module.set_executor(lambda *dispatch: None)
    try:
        with pytest.raises(RuntimeError, match=MISUSES[what]):
            module.misuse(what)
    finally:
        module.set_executor(None)


def test_findings_of_a_dispatch_are_errors_of_the_evaluation() -> None:
    x = mx.array(np.full((2, 64), np.nan, np.float32))
    with simulated_kernels() as device:
        out = modulated_norm(x)
        with pytest.raises(SimulationError, match=r"(?s)modulated_norm_float32, grid \(2, 1, 1\).*stores NaN"):
            mx.eval(out)
        assert device.dispatches == []
        mx.eval(modulated_norm(mx.ones((2, 64))))
        assert len(device.dispatches) == 1


def test_a_kernel_that_needs_more_threads_than_its_pipeline_allows_is_an_error() -> None:
    x = mx.ones((2, 2000))  # 128 threads of 16 values
    with simulated_kernels(most_threads=128):
        mx.eval(modulated_norm(x))
    with simulated_kernels(most_threads=96) as device:
        with pytest.raises(
            RuntimeError, match=r"modulated_norm_float32 needs threadgroups of 128 threads, .* allows it 96;"
        ):
            mx.eval(modulated_norm(x))
        assert device.dispatches == []
        mx.eval(modulated_norm(mx.ones((2, 1500))))  # the device is as it was


@pytest.mark.parametrize("most", [0, 96])
def test_threads_in_a_row_come_in_threadgroups_that_the_pipeline_allows(most: int) -> None:
    x = mx.random.normal((40, 50))
    with simulated_kernels(most_threads=most) as device:
        out = modulated_norm(x.T)
        mx.eval(out)
    exact = x.T / mx.sqrt((x.T * x.T).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.array(out), np.array(exact), rtol=1e-5)
    copy = device.dispatches[0]
    assert (copy.kernel, copy.grid, copy.group) == ("strided_copy_4", (2000, 1, 1), (most or 256, 1, 1))


def test_a_dispatch_without_a_device_is_an_error() -> None:
    with simulated_kernels():
        out = modulated_norm(mx.ones((2, 64)))
    with pytest.raises(RuntimeError, match="no executor"):
        mx.eval(out)

"""The package around the kernels: import checks, versions, stubs, life of reference functions."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import mlx.core as mx
import pytest

import ltx2rt
from ltx2rt import _abi, _ext
from ltx2rt.errors import UsageError
from ltx2rt.kernels import modulated_norm, selection

PACKAGE = pathlib.Path(ltx2rt.__file__).parent
WITHOUT_EXTENSION = "import sys; sys.modules['ltx2rt._ext'] = None\n"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LTX2RT_KERNELS": "", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_has_a_version():
    assert len(ltx2rt.__version__.split(".")) == 3


def test_runs_with_the_mlx_it_was_compiled_for():
    assert _ext.MLX_VERSION == _abi.MLX_VERSION == mx.__version__ == importlib.metadata.version("mlx")


def test_the_build_requires_exactly_that_mlx():
    pins = re.findall(r"mlx(?:\[cpu\])?==([\d.]+)", (pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(pins) == {_abi.MLX_VERSION}
    assert len(pins) == 4  # to build and to run, on Linux and on macOS


@pytest.mark.parametrize("place", [_abi, _ext], ids=["before loading", "after loading"])
def test_another_mlx_is_refused_naming_both_versions(place, monkeypatch):
    monkeypatch.setattr(place, "MLX_VERSION", "0.31.9")
    with pytest.raises(ImportError, match=rf"compiled for MLX 0\.31\.9, but MLX {mx.__version__} is installed"):
        _abi.load_extension()
    monkeypatch.setenv("LTX2RT_KERNELS", "reference")
    assert _abi.load_extension() is None


def test_arrays_that_cannot_be_exchanged_are_refused(monkeypatch):
    def incompatible(_: mx.array) -> bool:
        raise TypeError("incompatible function arguments")

    monkeypatch.setattr(_ext, "shares_arrays", incompatible)
    with pytest.raises(ImportError, match=rf"MLX {mx.__version__} cannot exchange arrays"):
        _abi.load_extension()


def test_a_missing_extension_is_an_error_that_says_what_to_do():
    result = run(WITHOUT_EXTENSION + "import ltx2rt; ltx2rt.load")
    assert result.returncode == 1
    assert f"(for MLX {_abi.MLX_VERSION}) cannot be loaded beside MLX {mx.__version__}" in result.stderr
    assert "LTX2RT_KERNELS=reference" in result.stderr


def test_the_package_itself_is_loaded_without_mlx():
    """What is slow comes with the first name that needs it."""
    result = run("import sys, ltx2rt; print('mlx.core' in sys.modules, ltx2rt._ext.__name__)")
    assert result.stdout.split() == ["False", "ltx2rt._ext"], result.stderr


def test_the_reference_needs_no_extension():
    code = (
        "import mlx.core as mx\n"
        "from ltx2rt.kernels import modulated_norm, quantized_linear\n"
        "from ltx2rt.types import LinearWeight\n"
        "x = modulated_norm(2 * mx.ones((1, 4)), norm='none')\n"
        "print(quantized_linear(x, LinearWeight('dense', mx.ones((1, 4)))).item())\n"
    )
    result = run(WITHOUT_EXTENSION + code, LTX2RT_KERNELS="reference")
    assert (result.stdout.strip(), result.stderr) == ("8.0", "")


def test_an_unknown_choice_of_kernels_is_refused(monkeypatch):
    monkeypatch.setenv("LTX2RT_KERNELS", "fast")
    with pytest.raises(UsageError, match='LTX2RT_KERNELS must be "compiled" or "reference", got "fast"'):
        modulated_norm(mx.ones((1, 4)))


def test_spread_puts_inputs_into_their_places():
    assert selection.spread(["a", "b"], [False, True, False, True]) == [None, "a", None, "b"]


def test_stubs_name_every_binding_and_mlx_types():
    stubs = (PACKAGE / "_ext.pyi").read_text()
    declared = {node.name for node in ast.parse(stubs).body if isinstance(node, ast.FunctionDef)}
    assert declared == {name for name in dir(_ext) if not name.startswith("_") and callable(getattr(_ext, name))}
    assert "mlx.core.array" in stubs
    assert (PACKAGE / "py.typed").exists()


def test_reference_functions_die_with_their_op():
    import gc
    import weakref

    class Function:
        def __call__(self, x: mx.array) -> mx.array:
            return x

    function = Function()
    alive = weakref.ref(function)
    arguments = {"scale": None, "shift": None, "index": None, "norm": "rms", "eps": 1e-6, "use_reference": False}
    out = _ext.modulated_norm(mx.ones((1, 4)), reference=function, **arguments)
    del function
    assert alive() is not None
    mx.eval(out)
    del out
    gc.collect()
    assert alive() is None


def test_an_exception_in_a_reference_reaches_the_caller():
    def broken(*_: mx.array) -> mx.array:
        raise ZeroDivisionError("on purpose")

    arguments = {"scale": None, "shift": None, "index": None, "norm": "rms", "eps": 1e-6, "use_reference": False}
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        mx.grad(lambda x: _ext.modulated_norm(x, reference=broken, **arguments).sum())(mx.ones((1, 4)))


def test_leaves_quietly_with_ops_unevaluated_and_compiled():
    code = (
        "import mlx.core as mx\n"
        "from ltx2rt.kernels import modulated_norm\n"
        "lazy = modulated_norm(mx.ones((2, 4)))\n"
        "kept = mx.compile(lambda x: modulated_norm(x))\n"
        "mx.eval(kept(mx.ones((2, 4))))\n"
        "mx.async_eval(modulated_norm(mx.ones((512, 512))))\n"
    )
    result = run(code)
    assert (result.returncode, result.stderr) == (0, "")

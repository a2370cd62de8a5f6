"""What the module carries: each shader complete in itself, token for token what the compiler would have included."""

from __future__ import annotations

import ctypes
import importlib
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from shaders_under_test import ROOT, launch
from simulated_kernels import simulated_kernels

from ltx2rt.kernels import quantized_linear
from ltx2rt.types import LinearWeight
from tools.embed_shaders import EmbedError, generate, inline_headers, literals, split_kernels
from tools.metal_sim import CompileError, In, Inline, Out, run
from tools.metal_sim.build import build_host_library, preprocess
from tools.metal_sim.extension import simulated_extension
from tools.metal_sim.tokens import tokenize
from tools.metal_sim.translate import translate

SHADERS = sorted((ROOT / "csrc/metal").glob("*.metal"))


def tokens_of(source: Path, include: list[Path]) -> list[str]:
    """Tokens as the compiler sees them, headers and macros expanded."""
    expanded = preprocess(source, include, {}).text
    return [token.text for token in tokenize(expanded, str(source))]


def test_the_build_embeds_every_shader() -> None:
    listed = re.search(r"set\(LTX2RT_SHADERS\s+([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert listed is not None
    assert sorted(listed[1].split()) == [path.relative_to(ROOT).as_posix() for path in SHADERS]


@pytest.mark.parametrize("shader", SHADERS, ids=lambda path: path.stem)
def test_embedded_text_is_what_the_compiler_would_include(shader: Path, tmp_path: Path) -> None:
    text = inline_headers(shader, ROOT)
    assert text.isascii()
    assert set(re.findall(r"#\s*include\s*(\S+)", text)) <= {
        "<metal_stdlib>",
        "<metal_simdgroup>",
        "<metal_simdgroup_matrix>",
        "<stdint.h>",  # for C++ only
    }
    embedded = tmp_path / "embedded.metal"
    embedded.write_text(text)
    assert tokens_of(embedded, []) == tokens_of(shader, [ROOT])


def test_generated_code_holds_the_text(tmp_path: Path) -> None:
    """The literals, compiled, are the text byte for byte."""
    code = tmp_path / "sources.cpp"
    generated = generate(SHADERS, ROOT)
    texts = {}
    for path in SHADERS:
        body, kernels = split_kernels(inline_headers(path, ROOT))
        texts[path.stem] = body
        texts |= kernels
        assert all(f'"{path.stem}", "{name}", {literals(line)}' in generated for name, line in kernels.items())
        assert literals(body) in generated
    functions = (f'extern "C" const char* {n}() {{ return {literals(t)}; }}\n' for n, t in texts.items())
    code.write_text("".join(functions))
    library = ctypes.CDLL(str(build_host_library([code])))
    for name, text in texts.items():
        function = library[name]
        function.restype = ctypes.c_char_p
        assert function().decode("ascii") == text


def source_of(shader: Path, kernel: str) -> str:
    """What is compiled when a kernel is asked for."""
    body, kernels = split_kernels(inline_headers(shader, ROOT))
    return body + kernels[kernel]


def test_embedded_text_runs_as_the_file_does() -> None:
    x = np.random.default_rng(0).standard_normal((3, 72)).astype(np.float32)
    given = {0: In(x), 4: Out((3, 72), "float32"), 5: Inline(struct.pack("<qif2i", 72, 72, 1e-6, 1, 0))}
    constants = {"norm_kind": 0, "scale_type": -1, "shift_type": -1, "has_index": False, "aligned": True}
    grid, group = (3, 1, 1), (32, 1, 1)
    from_file = launch("modulated_norm", "modulated_norm_float32", given, grid, group, constants)
    text = source_of(ROOT / "csrc/metal/modulated_norm.metal", "modulated_norm_float32")
    from_text = run(text, "modulated_norm_float32", given, grid, group, constants, strict=True)
    np.testing.assert_array_equal(from_text.check().outputs[4], from_file.check().outputs[4])
    assert from_text.counters.as_dict() == from_file.counters.as_dict()


def instances(shader: Path, include: list[Path]) -> list[str]:
    return [instance.name for instance in translate(preprocess(shader, include, {}).text).instances]


def test_each_kernel_is_instantiated_by_a_line_of_its_own(tmp_path: Path) -> None:
    seen: list[str] = []
    for shader in SHADERS:
        _, kernels = split_kernels(inline_headers(shader, ROOT))
        assert instances(shader, [ROOT]) == list(kernels)
        alone = tmp_path / f"{shader.stem}.metal"
        last = list(kernels)[-1]
        alone.write_text(source_of(shader, last))
        assert instances(alone, []) == [last]
        seen += kernels
    assert len(set(seen)) == len(seen) > 60


def test_instantiations_that_would_always_be_compiled_are_refused() -> None:
    with pytest.raises(EmbedError, match="has to be a line of its own"):
        split_kernels("LTX2RT_KERNEL(a,\n  f<float>)\n")
    with pytest.raises(EmbedError, match="a kernel of this name already"):
        split_kernels("LTX2RT_KERNEL(a, f<float>)\nLTX2RT_KERNEL(a, f<half>)\n")


def test_kernels_without_matrices_do_not_depend_on_those_with() -> None:
    """A compiler that refuses our use of matrices refuses these sources alone."""
    with_matrices = {path.stem for path in SHADERS if "simdgroup_matrix" in inline_headers(path, ROOT)}
    assert with_matrices == {"causal_conv3d", "linear_tile", "neighborhood_attention", "rope_attention"}


def test_every_kernel_states_its_largest_threadgroup() -> None:
    for shader in SHADERS:
        text = shader.read_text()
        assert text.count("[[kernel") == text.count("[[kernel, max_total_threads_per_threadgroup(") > 0, shader.name


@pytest.fixture
def libraries() -> Iterator[Callable[[], list[str]]]:
    """What the simulated device has compiled since the test began."""
    module = simulated_extension()
    module.forget_libraries()
    yield module.compiled_libraries
    module.forget_libraries()


def test_only_what_is_asked_for_is_compiled_and_once(libraries: Callable[[], list[str]]) -> None:
    x, weight = mx.ones((3, 32)), LinearWeight("dense", mx.ones((8, 32)))
    with simulated_kernels():
        for _ in range(2):
            mx.eval(quantized_linear(x, weight))
            assert libraries() == ["ltx2rt_linear_few_float32"]
        mx.eval(quantized_linear(x, weight, activation="silu"))  # another pipeline of the same library
        assert libraries() == ["ltx2rt_linear_few_float32"]
        mx.eval(quantized_linear(mx.ones((9, 32)), weight))
        assert libraries() == ["ltx2rt_linear_few_float32", "ltx2rt_linear_tile_float32_float32_32x64"]


def test_a_refused_matrix_kernel_leaves_the_others(libraries: Callable[[], list[str]]) -> None:
    weight = LinearWeight("dense", mx.ones((8, 32)))
    with simulated_kernels() as device:

        def execute(source: str, *rest: Any) -> None:
            if "simdgroup_multiply_accumulate" in source:
                raise CompileError("no matching function for call to 'simdgroup_multiply_accumulate'")
            device(source, *rest)

        simulated_extension().set_executor(execute)
        with pytest.raises((CompileError, RuntimeError), match="no matching function"):
            mx.eval(quantized_linear(mx.ones((9, 32)), weight))
        out = quantized_linear(mx.ones((3, 32)), weight)
        mx.eval(out)
        np.testing.assert_array_equal(np.array(out), np.full((3, 8), 32.0))


@pytest.mark.parametrize(("asked", "version"), [("", "14.0"), ("15.1", "15.1")])
def test_compiled_libraries_are_for_the_oldest_macos(asked: str, version: str, tmp_path: Path) -> None:
    """The commands that would run on a Mac."""
    options = ["-DLTX2RT_METAL=ON", "-DLTX2RT_METALLIB=ON", "-DLTX2RT_ISAS=portable", "-DLTX2RT_STUBS=OFF"]
    options += [f"-DCMAKE_OSX_DEPLOYMENT_TARGET={asked}", f"-DPython_EXECUTABLE={sys.executable}"]
    program = Path(importlib.import_module("ninja").BIN_DIR) / "ninja"
    cmake = [sys.executable, "-m", "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program}"]
    subprocess.run([*cmake, "-S", ROOT, "-B", tmp_path, *options], check=True, capture_output=True)
    commands = [
        line for line in (tmp_path / "build.ninja").read_text().splitlines() if "xcrun -sdk macosx metal" in line
    ]
    assert len(commands) == 2 * len(SHADERS)
    assert all(f"-mmacosx-version-min={version}" in line for line in commands)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"k.metal": '#include "missing.h"\n'}, "k.metal:1: no header missing.h"),
        ({"k.metal": '\n#include "../outside.h"\n'}, "k.metal:2: no header ../outside.h"),
        ({"k.metal": '#include "a.h"\n', "a.h": "int a;\n"}, "a.h: a header of shaders needs #pragma once"),
        ({"k.metal": "// \u00b5s\n"}, "k.metal:1: Metal compiles ASCII only"),
        ({"k.metal": '#include "a.h"\n', "a.h": "#pragma once\n\n// \u00b5s\n"}, "a.h:3: Metal compiles ASCII only"),
    ],
)
def test_shaders_that_cannot_travel_are_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(EmbedError, match=re.escape(message)):
        inline_headers(tmp_path / "k.metal", tmp_path)


def test_headers_are_inlined_once_and_below_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.h").write_text("#pragma once\nint a;\n")
    (tmp_path / "b.h").write_text('#pragma once\n#include "a.h"\nint b;\n')
    (tmp_path / "k.metal").write_text('#include "b.h"  // both\n# include "a.h"\nint k;')
    text = inline_headers(tmp_path / "k.metal", tmp_path)
    assert [line for line in text.splitlines() if not line.startswith("//")] == ["int a;", "int b;", "int k;"]

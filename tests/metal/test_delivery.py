"""What the module carries: each shader complete in itself, token for token what the compiler would have included."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from shaders_under_test import ROOT, launch

from tools.embed_shaders import EmbedError, generate, inline_headers, literals
from tools.metal_sim import In, Inline, Out, run
from tools.metal_sim.build import build_host_library, preprocess
from tools.metal_sim.tokens import tokenize

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
    texts = {path.stem: inline_headers(path, ROOT) for path in SHADERS}
    functions = (f'extern "C" const char* {n}() {{ return {literals(t)}; }}\n' for n, t in texts.items())
    code.write_text("".join(functions))
    library = ctypes.CDLL(str(build_host_library([code])))
    for name, text in texts.items():
        function = library[name]
        function.restype = ctypes.c_char_p
        assert function().decode("ascii") == text
        assert literals(text) in generate(SHADERS, ROOT)


def test_embedded_text_runs_as_the_file_does() -> None:
    x = np.random.default_rng(0).standard_normal((3, 72)).astype(np.float32)
    given = {0: In(x), 4: Out((3, 72), "float32"), 5: Inline(struct.pack("<qif2i", 72, 72, 1e-6, 1, 0))}
    constants = {"norm_kind": 0, "scale_type": -1, "shift_type": -1, "has_index": False, "aligned": True}
    grid, group = (3, 1, 1), (32, 1, 1)
    from_file = launch("modulated_norm", "modulated_norm_float32", given, grid, group, constants)
    text = inline_headers(ROOT / "csrc/metal/modulated_norm.metal", ROOT)
    from_text = run(text, "modulated_norm_float32", given, grid, group, constants, strict=True)
    np.testing.assert_array_equal(from_text.check().outputs[4], from_file.check().outputs[4])
    assert from_text.counters.as_dict() == from_file.counters.as_dict()


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

"""Writes the shaders as C++ strings, our headers inlined: at run time Metal compiles without an include path."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

# Compilers guarantee only so much per string literal; longer sources are several literals.
LITERAL_BYTES = 16000
_INCLUDE = re.compile(r'[ \t]*#[ \t]*include[ \t]*"([^"]+)"[ \t]*(//.*)?')
_ONCE = re.compile(r"[ \t]*#[ \t]*pragma[ \t]+once[ \t]*(//.*)?")
# A kernel that a shader instantiates (csrc/metal/elements.h).
_KERNEL = re.compile(r"LTX2RT_KERNEL\((\w+), .+\)")


class EmbedError(Exception):
    """A shader cannot be embedded; the message names file, line and reason."""


def inline_headers(source: Path, root: Path) -> str:
    """The text of a shader with every ``#include "..."`` of ours, relative to ``root``, replaced by that file, once.

    Raises:
        EmbedError: a header is missing or lacks ``#pragma once``, or a text is not ASCII.
    """
    return "".join(line + "\n" for line in _lines(source.resolve(), root.resolve(), set()))


def _lines(path: Path, root: Path, done: set[Path]) -> list[str]:
    raw = path.read_bytes()
    name = path.relative_to(root).as_posix()
    lines: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.isascii():
            raise EmbedError(f"{name}:{number}: Metal compiles ASCII only at run time.")
        text = line.decode("ascii")
        include = _INCLUDE.fullmatch(text)
        if include is None:
            if _ONCE.fullmatch(text) is None:
                lines.append(text)
            continue
        header = (root / include[1]).resolve()
        if not header.is_file() or root not in header.parents:
            raise EmbedError(f"{name}:{number}: no header {include[1]} below {root}.")
        if header in done:
            continue
        done.add(header)
        if not any(_ONCE.fullmatch(text) for text in header.read_text("utf-8").splitlines()):
            raise EmbedError(f"{include[1]}: a header of shaders needs #pragma once, on which inlining relies.")
        lines += [f"// {include[1]}", *_lines(header, root, done)]
    return lines[:-1] if lines and not lines[-1] else lines


def split_kernels(text: str) -> tuple[str, dict[str, str]]:
    """A shader's text without the lines that instantiate kernels, and these lines by the kernels' names.

    Raises:
        EmbedError: for an instantiation that is not one line, or a name that occurs twice.
    """
    body: list[str] = []
    kernels: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        found = _KERNEL.fullmatch(line.rstrip("\n"))
        if found is None:
            if line.lstrip().startswith("LTX2RT_KERNEL"):
                raise EmbedError(f"{line.strip()}: LTX2RT_KERNEL(name, function) has to be a line of its own.")
            body.append(line)
        elif found[1] in kernels:
            raise EmbedError(f"{line.strip()}: there is a kernel of this name already.")
        else:
            kernels[found[1]] = line
    return "".join(body), kernels


def literals(text: str) -> str:
    """C++ string literals that together are ``text``, one per line of output, each of at most LITERAL_BYTES."""
    pieces, start = [], 0
    while start < len(text):
        end = start + LITERAL_BYTES
        if end < len(text):
            end = text.rindex("\n", start, end) + 1
        pieces.append(f'R"MSL({text[start:end]})MSL"')
        start = end
    if ')MSL"' in text:
        raise EmbedError('a shader contains )MSL", which ends the literal that holds it.')
    return "\n".join(pieces) or '""'


def generate(shaders: Sequence[Path], root: Path) -> str:
    """The C++ file that defines what csrc/metal/shader_sources.h declares."""
    parts = [
        "// Generated from csrc/metal/*.metal by tools/embed_shaders.py.",
        '#include "csrc/metal/shader_sources.h"',
        "",
        "#include <stdexcept>",
        "#include <string>",
        "",
        "namespace ltx2rt::metal {",
        "namespace {",
    ]
    parts += ["", "struct Kernel {", "  std::string_view shader, name, line;", "};"]
    bodies: dict[str, str] = {}
    table: list[str] = []
    for shader in shaders:
        bodies[shader.stem], kernels = split_kernels(inline_headers(shader, root))
        table += [f'    {{"{shader.stem}", "{name}", {literals(line)}}},' for name, line in kernels.items()]
    parts += ["", "constexpr Kernel kKernels[] = {", *table, "};"]
    for name, body in bodies.items():
        parts += ["", f"constexpr std::string_view k_{name} =", literals(body) + ";"]
    parts += ["", "std::string_view body_of(std::string_view shader) {"]
    parts += [f'  if (shader == "{name}") return k_{name};' for name in bodies]
    parts += ["  return {};", "}", "", "}  // namespace", ""]
    parts += [
        "std::string shader_source(std::string_view shader, std::string_view kernel) {",
        "  for (const auto& [owner, name, line] : kKernels) {",
        "    if (owner == shader && name == kernel) return std::string(body_of(shader)) + std::string(line);",
        "  }",
        '  throw std::invalid_argument("the shader " + std::string(shader) + " has no kernel " + std::string(kernel));',
        "}",
        "",
        "}  // namespace ltx2rt::metal",
        "",
    ]
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """``ROOT OUTPUT SHADER...``: writes OUTPUT; 1, with a message, when a shader cannot be embedded."""
    root, output, *shaders = map(Path, arguments)
    try:
        text = generate(shaders, root)
    except EmbedError as error:
        sys.stderr.write(f"embed_shaders: {error}\n")
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, "ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Finds what Apple's compiler refuses and the simulator's accepts; ``python -m tools.metal_sim.lint FILES``."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.metal_sim.build import (
    HERE,
    SHADER_FLAGS,
    CompileError,
    cache_folder,
    preprocess,
    run_compiler,
    target,
)
from tools.metal_sim.tokens import Token, matching, split_at_commas, tokenize
from tools.metal_sim.translate import BUILTINS, Translation, TranslationError, launch_code, translate

# Attributes whose parameters must all have the same number of components in a kernel.
POSITIONS = {
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threads_per_grid",
    "threads_per_threadgroup",
    "threadgroups_per_grid",
}
MOST_THREADS = 1024
MOST_THREADGROUP_BYTES = 32768
MOST_INLINE_BYTES = 4096
_INLINE = f"a struct set inline has at most {MOST_INLINE_BYTES} bytes: "
# Words that the Metal language does not have, and what to say of them.
FORBIDDEN = {
    "double": "Metal has no double",
    "goto": "Metal has no goto",
    "thread_local": "Metal has no thread_local",
    "dynamic_cast": "Metal has no dynamic_cast",
    "typeid": "Metal has no typeid",
    "virtual": "Metal has no virtual functions",
    "throw": "Metal has no exceptions",
    "try": "Metal has no exceptions",
    "catch": "Metal has no exceptions",
    "new": "Metal has no new",
    "delete": "Metal has no delete",
    "asm": "Metal has no inline assembly",
    "alloca": "Metal has no alloca",
    "std": "Metal has no std namespace",
    "wchar_t": "Metal has no wchar_t",
    "co_await": "Metal has no coroutines",
}
ATTRIBUTES = {
    *BUILTINS,
    "buffer",
    "fallthrough",
    "function_constant",
    "host_name",
    "kernel",
    "max_total_threads_per_threadgroup",
    "maybe_unused",
    "threadgroup",
}
_DECLARATION = re.compile(r"^(?P<indent>[\s|`-]*)(?P<kind>Var|ParmVar|Field|Function|CXX\w+)Decl 0x\w+ (?P<rest>.*)$")
_LOCATION = re.compile(r"(?:\bline:(?P<line>\d+):\d+|\bcol:\d+|(?P<file>[^\s<>:,]+):(?P<at>\d+):\d+)")


@dataclass(frozen=True, order=True)
class Problem:
    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.message}"


def _own(file: str) -> bool:
    """Whether a file is the user's and not part of the simulator."""
    return bool(file) and not file.startswith("<") and HERE not in Path(file).resolve().parents


def _is_lambda(tokens: Sequence[Token], i: int) -> bool:
    if tokens[i].text != "[" or tokens[i + 1].text == "[" or (i and tokens[i - 1].text == "["):
        return False
    before = tokens[i - 1] if i else None
    if before is not None and (before.kind in ("name", "number") and before.text != "return"):
        return False
    if before is not None and before.text in (")", "]"):
        return False
    return tokens[matching(tokens, i) + 1].text in ("(", "{")


def _token_problems(tokens: Sequence[Token]) -> Iterator[Problem]:
    for i, token in enumerate(tokens):
        if not _own(token.file):
            continue
        if token.kind == "name" and token.text in FORBIDDEN:
            yield Problem(token.file, token.line, "word", FORBIDDEN[token.text])
        elif _is_lambda(tokens, i):
            yield Problem(token.file, token.line, "lambda", "Metal has lambdas from version 4 on only")
        elif token.text == "auto" and tokens[i + 1].text in ("[", "&"):
            yield Problem(token.file, token.line, "binding", "structured bindings and auto& are not Metal 3")
        elif token.text == "[" and tokens[i + 1].text == "[" and not tokens[i + 1].space:
            inside = tokens[i + 2 : matching(tokens, i + 1)]
            for j, name in enumerate(inside):
                first = j == 0 or inside[j - 1].text == ","
                if first and name.kind == "name" and name.text not in ATTRIBUTES:
                    yield Problem(name.file, name.line, "attribute", f"[[{name.text}]] is not known to be Metal's")
        if token.text == "static" and _is_mutable_static(tokens, i):
            yield Problem(token.file, token.line, "global", "static variables must be constant")
        has_number = token.text == "max_total_threads_per_threadgroup" and tokens[i + 2].kind == "number"
        if has_number and int(tokens[i + 2].text, 0) > MOST_THREADS:
            yield Problem(token.file, token.line, "limit", f"a threadgroup has at most {MOST_THREADS} threads")


def _position_problems(tokens: Sequence[Token]) -> Iterator[Problem]:
    """Kernels whose position parameters are not all scalars, all pairs or all triples."""
    i = 0
    while i < len(tokens):
        if tokens[i].text != "(":
            i += 1
            continue
        close = matching(tokens, i)
        components = set()
        for part in split_at_commas(tokens[i + 1 : close]):
            words = [t.text for t in part]
            if len(words) > 4 and POSITIONS & set(words):
                components.add(words[0][-1] if words[0][-1] in "23" else "1")
        if len(components) > 1 and _own(tokens[i].file):
            message = "grid positions and sizes of one kernel must have the same number of components"
            yield Problem(tokens[i].file, tokens[i].line, "positions", message)
        i = close + 1 if components else i + 1


def _is_mutable_static(tokens: Sequence[Token], i: int) -> bool:
    words: list[str] = []
    for token in tokens[i : i + 40]:
        if token.text in (";", "=", "{", "("):
            return token.text in (";", "=") and not {"constant", "constexpr", "const", "template"} & set(words)
        words.append(token.text)
    return False


def _threadgroup_problems(ir: str, translation: Translation, source: Path) -> Iterator[Problem]:
    """Kernels whose own threadgroup variables exceed what Metal allows; the IR has a launch function for each."""
    sizes: dict[str, dict[str, int]] = {}
    calls: dict[str, set[str]] = {}
    current = ""
    for line in ir.splitlines():
        head = re.match(r"define .*?@([\w.$]+)\(", line)
        if head:
            current = head[1]
            sizes[current], calls[current] = {}, set()
        found = re.search(r"@msim_allocate_threadgroup\(i32 [^,]*?(\d+), i64 [^,]*?(\d+),", line)
        if found:
            sizes[current][found[1]] = int(found[2])
        elif current and " call " in f" {line}":
            calls[current].update(re.findall(r"@([\w.$]+)\(", line))
    for n, instance in enumerate(translation.instances):
        arrays: dict[str, int] = {}
        reached, todo = set(), [f"msim_kernel_{n}"]
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                arrays |= sizes.get(name, {})
                todo += calls.get(name, ())
        if sum(arrays.values()) > MOST_THREADGROUP_BYTES:
            message = f"{instance.name} has {sum(arrays.values())} bytes, Metal allows {MOST_THREADGROUP_BYTES}"
            yield Problem(str(source), 1, "limit", f"threadgroup memory of {message}")


def _recursion(ir: str) -> list[str]:
    """Names on a cycle of the call graph of LLVM IR."""
    calls: dict[str, set[str]] = {}
    current = ""
    for line in ir.splitlines():
        head = re.match(r"define .*?@([\w.$]+|\"[^\"]+\")\(", line)
        if head:
            current = head[1]
            calls[current] = set()
        elif current and " call " in f" {line}":
            calls[current].update(re.findall(r"@([\w.$]+|\"[^\"]+\")\(", line))
    reachable = {name: set(called) for name, called in calls.items()}
    changed = True
    while changed:
        changed = False
        for reached in reachable.values():
            more = set().union(*(reachable.get(name, set()) for name in reached)) - reached
            if more:
                reached |= more
                changed = True
    return sorted(name for name, reached in reachable.items() if name in reached)


def _declaration_problems(dump: str) -> Iterator[Problem]:
    """Pointers and references without an address space, and variables outside functions, from a syntax tree's text."""
    file, line = "", 0
    skip_below: int | None = None
    functions: list[int] = []  # depths of the functions that enclose the current node
    for text in dump.splitlines():
        # Each node names its place relative to the place named before it; the first is where it begins.
        bracket = re.search(r"<(.*?)> ?(\S*)", text) if "0x" in text else None
        begin = None
        if bracket:
            for k, place in enumerate(_LOCATION.finditer(f"{bracket[1]} {bracket[2]}")):
                file = place["file"] or file
                line = int(place["at"] or place["line"] or line)
                begin = (file, line) if k == 0 else begin
        declaration = _DECLARATION.match(text)
        if not declaration:
            continue
        depth = len(declaration["indent"])
        while functions and functions[-1] >= depth:
            functions.pop()
        is_variable = declaration["kind"] == "Var" and not functions
        if declaration["kind"] not in ("Var", "ParmVar", "Field", "CXXRecord"):
            functions.append(depth)
        # Where its name stands: it begins in our headers, with the macro `device`.
        if is_variable and _own(file) and "__constant" not in declaration["rest"].split("'", 1)[-1]:
            yield Problem(file, line, "global", "program-scope variables must be constant")
        if skip_below is not None and depth > skip_below:
            continue
        skip_below = depth if " implicit " in f" {declaration['rest']} " else None
        if skip_below is None and begin and _own(begin[0]) and "__generic" in declaration["rest"].split("'", 1)[-1]:
            if declaration["kind"].startswith("CXX") or declaration["kind"] == "Function":
                continue  # its parameters are looked at one by one, and `this` is generic in every method
            yield Problem(
                *begin, "address-space", "pointers and references need device, constant, threadgroup or thread"
            )


def _compiler_problems(stderr: str, source: str) -> Iterator[Problem]:
    for found in re.finditer(r"^([^\s:][^:\n]*):(\d+):\d+: (error|warning): (.*)$", stderr, re.MULTILINE):
        file, line, severity, message = found[1], int(found[2]), found[3], found[4]
        if severity == "error" and _INLINE in message:
            yield Problem(source, 1, "limit", message[message.index(_INLINE) :].rstrip('"'))
        elif severity == "error":
            yield Problem(file, line, "compiler", message)
        elif "__bf16" in message.split(" to ")[-1] and "implicit conversion" in message and _own(file):
            yield Problem(file, line, "bfloat", f"Metal has no implicit conversion to bfloat: {message}")


def _compile(code: Path, flags: Sequence[str]) -> tuple[bool, str, str]:
    triple, machine_flags, _ = target()
    command = ["clang", "-target", triple, *machine_flags, "-I", str(HERE / "msl"), *flags, str(code)]
    return run_compiler(command)


def _launch_all(translation: Translation) -> str:
    """Launch code of every kernel, attributed to the simulator and not to the last lines of the shader."""
    codes = [launch_code(translation, instance.name, f"_{n}") for n, instance in enumerate(translation.instances)]
    # Launch code sets every struct inline.
    sizes = []
    for n, instance in enumerate(translation.instances):
        for j, parameter in enumerate(translation.parameters[instance.base]):
            if parameter.kind == "buffer":
                type_ = f"msim_argument<msim_parameter_type<{j}, msim_function_{n}>::type>"
                sizes.append(
                    f"static_assert(!{type_}::describe(0).reference || "
                    f'{type_}::describe(0).size <= {MOST_INLINE_BYTES}, "{_INLINE}{instance.name}");\n'
                )
    return f'# 1 "{HERE}/launch"\n' + "".join(codes + sizes)


def lint(source: Path, include: Sequence[Path] = (), defines: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything wrong with a shader, with all kernels that it instantiates, in the order of its lines."""
    raw = source.read_bytes()
    problems = {
        Problem(str(source), n, "ascii", "source compiled at run time must be ASCII")
        for n, text in enumerate(raw.split(b"\n"), 1)
        if not text.isascii()
    }
    try:
        expanded = preprocess(source, include, defines or {}).text
        tokens = tokenize(expanded, str(source))
        problems.update(_token_problems(tokens))
        problems.update(_position_problems(tokens))
        # With function constants compiled in, as Metal has them when it compiles a pipeline.
        translation = translate(expanded, {})
    except (CompileError, TranslationError) as error:
        return sorted({*problems, Problem(str(source), 1, "source", str(error))})
    for where in translation.misplaced:
        place, _, what = where.rpartition(": ")
        file, _, line = place.rpartition(":")
        problems.add(Problem(file, int(line), "threadgroup", f"{what} is outside a kernel function"))
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        code = Path(scratch) / "lint.clcpp"
        code.write_text(f'#define MSIM_STRICT 1\n#include "metal.h"\n{translation.text}\n{_launch_all(translation)}')
        # SHADER_FLAGS has -w, which nothing after it undoes.
        flags = [f for f in SHADER_FLAGS if f != "-w"] + ["-Wno-everything", "-Wimplicit-float-conversion"]
        flags += ["-ferror-limit=50", "-fsyntax-only", "-Xclang", "-ast-dump", "-fno-color-diagnostics"]
        good, dump, stderr = _compile(code, flags)
        problems.update(_compiler_problems(stderr, str(source)))
        if good:
            problems.update(_declaration_problems(dump))
            _, ir, _ = _compile(
                code, [*SHADER_FLAGS, "-O0", "-Xclang", "-disable-O0-optnone", "-S", "-emit-llvm", "-o", "-"]
            )
            problems.update(Problem(str(source), 1, "recursion", f"{name} calls itself") for name in _recursion(ir))
            problems.update(_threadgroup_problems(ir, translation, source))
    return sorted(problems)


def main(files: Sequence[str]) -> int:
    """Prints the problems of each file; 1 if there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="shaders")
    problems = [problem for file in parser.parse_args(files).files for problem in lint(file, [Path.cwd()])]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

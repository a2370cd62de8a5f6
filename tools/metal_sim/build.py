"""Compiles the runtime and shaders with the clang of ziglang, and keeps what it has compiled."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tools.metal_sim.translate import Translation, launch_code, translate

HERE = Path(__file__).parent
_ARCHITECTURES = {
    "x86_64": ("x86_64-linux-gnu", ["-march=x86-64-v3"], ["-mcpu=x86_64_v3"]),
    "aarch64": ("aarch64-linux-gnu", ["-march=armv8.2-a+fp16"], []),
}
# The sanitizer's hooks handle accesses of at most 16 bytes, hence no vectorisation.
SHADER_FLAGS = [
    "-x",
    "clcpp",
    "-cl-std=clc++2021",
    "-cl-no-stdinc",
    "-cl-single-precision-constant",
    "-Xclang",
    "-cl-ext=+all",
    "-ffp-contract=off",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-fno-crash-diagnostics",
    "-fPIC",
    "-O2",
    "-w",
]
_CHECKED_FLAGS = [
    "-fsanitize=thread",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
]
# Loops keep the width of their counters, as they are written.
_ARITHMETIC_FLAGS = ["-mllvm", "-indvars-widen-indvars=false"]
_METAL_MACROS = ["-D__METAL__=1", "-D__METAL_VERSION__=320", "-D__HAVE_BFLOAT__=1"]


class CompileError(RuntimeError):
    """The host compiler refused a shader; the message is its own."""


@lru_cache
def _compiler() -> str:
    """The program of the ziglang package; started directly, it needs no second Python."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise CompileError("the simulator's compiler is missing: pip install 'ltx2rt[metal]'.")
    return str(Path(found.submodule_search_locations[0]) / "zig")


@dataclass(frozen=True)
class Source:
    """A preprocessed shader and the digests of the files it was made of."""

    text: str
    files: dict[str, str]


@dataclass(frozen=True)
class CompiledKernel:
    """A shared library with one kernel, and its function constants: name -> (index, C type)."""

    library: Path
    constants: dict[str, tuple[int, str]]


def cache_folder() -> Path:
    """Where compiled code is kept: ``LTX2RT_METAL_SIM_CACHE``, or ``build/metal_sim`` of the repository."""
    folder = Path(os.environ.get("LTX2RT_METAL_SIM_CACHE") or HERE.parents[1] / "build/metal_sim")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(*parts: str | bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()[:24]


@lru_cache
def _tool_digest() -> str:
    """Changes whenever anything that compiled code depends on, besides the shader, changes."""
    files = [HERE / name for name in ("tokens.py", "translate.py", "build.py")] + sorted((HERE / "msl").iterdir())
    return _digest(*(f.read_bytes() for f in files), *(f.name for f in files))


def run_compiler(arguments: Sequence[str]) -> tuple[bool, str, str]:
    """Whether a command of zig succeeded, and its two outputs."""
    done = subprocess.run([_compiler(), *arguments], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout, done.stderr


def _zig(arguments: Sequence[str], what: str) -> None:
    good, _, messages = run_compiler(arguments)
    if not good:
        raise CompileError(f"{what}:\n{messages[:6000]}")


def _unchanged(files: Mapping[str, str]) -> bool:
    return all(Path(f).is_file() and _digest(Path(f).read_bytes()) == digest for f, digest in files.items())


def _publish(made: Path, target: Path) -> None:
    """Moves a finished file into the cache in one step, so that two processes may build it at once."""
    os.replace(made, target)


def target(machine: str | None = None) -> tuple[str, list[str], list[str]]:
    """The target triple, clang flags and zig flags of a machine, by default this one.

    Raises:
        CompileError: on a machine that the simulator does not support.
    """
    name = (machine or platform.machine()).lower()
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
    if name not in _ARCHITECTURES:
        raise CompileError(f"the simulator runs on {' and '.join(_ARCHITECTURES)}, not on {name}.")
    return _ARCHITECTURES[name]


def build_host_library(
    sources: Sequence[Path], include: Sequence[Path] = (), machine: str | None = None, libraries: Sequence[str] = ()
) -> Path:
    """C++ that uses nothing of its standard library, as a shared library, compiled when it is not in the cache.

    Raises:
        CompileError: with the compiler's message; warnings are errors.
    """
    triple, _, flags = target(machine)
    # zig cc, not zig c++: zig would compile its whole C++ library first.
    command = ["cc", "-target", triple, *flags, "-x", "c++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-fno-exceptions", "-fno-rtti", "-fno-sanitize=all", "-shared", "-fPIC", *map(str, sources)]
    command += [part for folder in include for part in ("-I", str(folder))]
    # Everything beside the sources, and every header of the included folders' csrc and csrc/metal, may matter.
    headers = [f for source in sources for f in source.parent.glob("*.h")]
    headers += [f for folder in include for part in ("csrc", "csrc/metal") for f in (folder / part).glob("*.h")]
    contents = [f.read_bytes() for f in [*sources, *sorted(headers)]]
    library = cache_folder() / f"{sources[0].stem}-{_digest(triple, *contents)}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            made = Path(scratch) / "made.so"
            _zig([*command, "-o", str(made), *libraries], sources[0].stem)
            _publish(made, library)
    return library


def build_runtime(machine: str | None = None) -> Path:
    """The simulator's runtime as a shared library."""
    return build_host_library(sorted((HERE / "runtime").glob("*.cpp")), machine=machine, libraries=["-lm"])


def preprocess(source: Path, include: Sequence[Path], defines: Mapping[str, str]) -> Source:
    """Expands a shader's includes and macros.

    Raises:
        CompileError: with the preprocessor's message.
    """
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        expanded, dependencies = Path(scratch) / "expanded", Path(scratch) / "dependencies"
        folders = [HERE / "stand_ins", *include]
        _zig(
            ["clang", "-E", "-x", "c++", "-std=c++17", "-nostdinc", "-w", *_METAL_MACROS]
            + [f"-D{name}={value}" for name, value in defines.items()]
            + [part for folder in folders for part in ("-I", str(folder))]
            + ["-MD", "-MF", str(dependencies), str(source), "-o", str(expanded)],
            str(source),
        )
        names = re.findall(r"(?:[^\s\\]|\\.)+", dependencies.read_text().split(":", 1)[1])
        files = [Path(name.replace("\\ ", " ")) for name in names if name != "\\"]
        return Source(expanded.read_text(), {str(f): _digest(f.read_bytes()) for f in files})


def compile_shader(
    translation: Translation,
    kernel: str,
    library: Path,
    *,
    checked: bool,
    strict: bool,
    arithmetic: bool = False,
    machine: str | None = None,
) -> None:
    """Compiles one kernel of a translated shader into a shared library; with ``arithmetic`` it counts its own.

    Raises:
        CompileError: with the compiler's message.
        TranslationError: if there is no such kernel.
    """
    triple, flags, _ = target(machine)
    definitions = []
    for constant in translation.constants:
        # Set at each launch; eight bytes hold every scalar type.
        for symbol in (f"msim_constant_{constant.index}", f"msim_defined_{constant.index}"):
            definitions.append(f'__asm__(".data\\n.globl {symbol}\\n.balign 8\\n{symbol}: .zero 8\\n.text\\n");\n')
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        code, object_file, made = (Path(scratch) / name for name in ("kernel.clcpp", "kernel.o", "kernel.so"))
        strictness = "#define MSIM_STRICT 1\n" if strict else ""
        launch = launch_code(translation, kernel)
        code.write_text(f'{strictness}#include "metal.h"\n{translation.text}\n{launch}{"".join(definitions)}')
        command = ["clang", *SHADER_FLAGS, "-target", triple, *flags, "-I", str(HERE / "msl")]
        command += _CHECKED_FLAGS if checked else []
        if arithmetic:
            optimised = Path(scratch) / "kernel.ll"
            _zig([*command, *_ARITHMETIC_FLAGS, "-S", "-emit-llvm", str(code), "-o", str(optimised)], kernel)
            optimised.write_text(counting_arithmetic(optimised.read_text()))
            command, code = ["clang", "-O2", "-fPIC", "-w", "-target", triple, *flags], optimised
            command += ["-Xclang", "-disable-llvm-passes"]
        _zig([*command, "-c", str(code), "-o", str(object_file)], kernel)
        _zig(["ld.lld", "-shared", str(object_file), "-o", str(made)], kernel)
        _publish(made, library)


_OPERATION = re.compile(
    r"^  %\S+ = (?:add|sub|mul|udiv|sdiv|urem|srem|shl|lshr|ashr|and|or|xor)(?: [a-z]+)* i(8|16|32|64) ", re.MULTILINE
)
_END_OF_BLOCK = re.compile(r"^  (?:br|ret|switch|unreachable)\b", re.MULTILINE)


def counting_arithmetic(code: str) -> str:
    """LLVM's text of a kernel, in which each basic block tells the runtime how many integer operations it has.

    Those of 64 bits apart. Address arithmetic that LLVM leaves to the load (getelementptr), comparisons and conversions
    are not counted.
    """
    made, at = [], 0
    for end in _END_OF_BLOCK.finditer(code):
        widths = _OPERATION.findall(code, at, end.start())
        made.append(code[at : end.start()])
        if widths:
            wide = widths.count("64")
            made.append(f"  call void @msim_integer_operations(i32 {wide}, i32 {len(widths) - wide})\n")
        at = end.start()
    return "".join(made) + code[at:] + "\ndeclare void @msim_integer_operations(i32, i32)\n"


def _expand(source: Path | str, include: Sequence[Path], defines: Mapping[str, str]) -> Source:
    if isinstance(source, Path):
        return preprocess(source, include, defines)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        path = Path(scratch) / "shader.metal"
        path.write_text(source)
        expanded = preprocess(path, include, defines)
    return Source(expanded.text, {f: d for f, d in expanded.files.items() if f != str(path)})


# What this process has preprocessed already.
_sources: dict[str, Source] = {}


def build_kernel(
    source: Path | str,
    kernel: str,
    *,
    include: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    checked: bool = True,
    strict: bool = False,
    arithmetic: bool = False,
) -> CompiledKernel:
    """A kernel compiled for this machine, from the cache when nothing it depends on has changed.

    Args:
        source: a file, or the text of a shader.
        kernel: its host name.
        include: folders for ``#include``.
        defines: macros.
        values: function constants to compile in, as Metal does; None leaves them to each launch.
        checked: with the checks and counters.
        strict: ``thread`` is an address space of its own, as in Metal.
        arithmetic: with counters of integer operations.

    Raises:
        CompileError, TranslationError: for a shader that is refused.
    """
    defines = dict(defines or {})
    source_key = _digest(str(source), *map(str, include), json.dumps(defines, sort_keys=True), _tool_digest())
    fixed = json.dumps(None if values is None else dict(values), sort_keys=True)
    key = _digest(source_key, kernel, fixed, str((checked, strict, arithmetic)), platform.machine())
    record_file = cache_folder() / f"kernel-{key}.json"
    if record_file.exists():
        record = json.loads(record_file.read_text())
        library = cache_folder() / record["library"]
        if _unchanged(record["files"]) and library.exists():
            return CompiledKernel(library, {name: (i, t) for name, (i, t) in record["constants"].items()})
    expanded = _sources.get(source_key)
    if expanded is None or not _unchanged(expanded.files):
        expanded = _sources[source_key] = _expand(source, include, defines)
    translation = translate(expanded.text, None if values is None else dict(values))
    # A loaded library keeps its name, so another content needs another name.
    library = cache_folder() / f"kernel-{key}-{_digest(expanded.text)[:8]}.so"
    compile_shader(translation, kernel, library, checked=checked, strict=strict, arithmetic=arithmetic)
    constants = {c.name: (c.index, c.type) for c in translation.constants}
    with tempfile.NamedTemporaryFile("w", dir=cache_folder(), delete=False) as record_text:
        json.dump({"library": library.name, "files": expanded.files, "constants": constants}, record_text)
    _publish(Path(record_text.name), record_file)
    return CompiledKernel(library, constants)
